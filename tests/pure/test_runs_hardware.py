"""Printed texts of devices and links: bits and bytes, one direction and both, generations, mixed clusters, unknowns."""

from __future__ import annotations

import doctest
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cost_model.runs import amounts, case, partition, read_execution, score
from nebula.cost_model.runs.devices import FALLBACK, find_device
from nebula.cost_model.runs.hardware import cluster_of
from nebula.cost_model.runs.links import intra_link, nics
from nebula.errors import BadInput, Suspicious
from tests.pure.runs_samples import published, row

A100_NVLINK = 300e9


@pytest.mark.parametrize("module", [amounts, case, partition, read_execution, score])
def test_examples_hold(module) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [
        ("NVLink3", 300),
        ("NVLink3 600GB/s (NVSwitch)", 300),
        ("NVLink3 (repo config 150 GB/s effective)", 300),
        ("NVLink 300GB/s", 300),
        ("NVLink, 300 GB/s per direction", 300),
        ("NVLink4 900GB/s (NVSwitch)", 450),
        ("NVSwitch 900 GB/s bidirectional", 450),
        ("NVLink5 NVL72", 900),
        ("NVLink-2", 150),
        ("HCCS full mesh 392 GB/s per NPU", 196),
        ("PCIe Gen4 x16", 31.5),
        ("PCIe 5.0, 64GB/s", 64),
        ("PCIe", 15.75),
        ("xGMI", 448),
        ("something new", 300),
        ("", 300),
    ],
)
def test_links_inside_a_node(text: str, gigabytes: float) -> None:
    assert intra_link(text, A100_NVLINK, "row").link.bytes_per_s == pytest.approx(gigabytes * 1e9)


@pytest.mark.parametrize(
    ("text", "count", "gigabits"),
    [
        ("4x200Gb/s HDR IB = 800 Gb/s per node", 4, 200),
        ("8x400Gb/s NDR IB per node", 8, 400),
        ("1600 Gb/s per node (RoCE)", 8, 200),
        ("400Gb/s RDMA per GPU", 8, 400),
        ("200 Gb/s RoCE per NPU (recalled)", 8, 200),
        ("1x100Gb/s EDR IB per node", 1, 100),
        ("50 Gb/s Ethernet", 1, 50),
        ("4x HDR", 4, 200),
        ("NDR InfiniBand", 8, 400),
        ("25GB/s per device", 8, 200),
        ("EFA", 8, 100),
        ("2x100GbE", 2, 100),
        ("Slingshot 4x", 8, 200),
        ("", 8, 160),
    ],
)
def test_networks(text: str, count: int, gigabits: float) -> None:
    found = nics(text, 8, 20e9)
    assert (found.count, found.link.bytes_per_s) == (count, pytest.approx(gigabits * 1e9 / 8))


@given(st.integers(1, 16), st.integers(1, 800))
def test_a_printed_network_is_read_as_it_is_printed(count: int, gigabits: int) -> None:
    found = nics(f"{count}x{gigabits}Gb/s IB per node", 8, 1e9)
    assert found.count * found.link.bytes_per_s == pytest.approx(count * gigabits * 1e9 / 8)


def test_bits_that_must_be_bytes_are_warned_of_with_row_and_field() -> None:
    with pytest.warns(Suspicious, match=r"row 'small': intra: 900 Gb/s is 112 GB/s.*did you mean 900 GB/s"):
        cluster_of(row(device="H100-80GB-SXM", intra="NVLink4 900Gb/s"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in published():
            cluster_of(one)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A100-80GB-SXM", "A100-80GB-SXM"),
        ("A100-SXM4-80GB", "A100-80GB-SXM"),
        ("NVIDIA A100 40GB", "A100-40GB-SXM"),
        ("V100-16GB", "V100-16GB-SXM2"),
        ("T4", "T4-16GB"),
        ("H100", "H100-80GB-SXM"),
        ("H100 SXM5 80GB", "H100-80GB-SXM"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB-SXM"),
        ("Ascend-910B (Atlas 900 A2 PODc)", "Ascend-910B"),
        ("Ascend 910B2", "Ascend-910B"),
        ("GB200", "GB200"),
    ],
)
def test_names_of_devices(text: str, name: str) -> None:
    found = find_device(text)
    assert (found.device.name, found.known) == (name, True)


def test_an_unknown_device_is_assumed_and_keeps_its_memory() -> None:
    found = find_device("Foo X9 48GB")
    assert (found.device.name, found.known, found.device.memory_bytes) == (FALLBACK, False, 48 * 2**30)
    assert dict(cluster_of(row(device="Foo X9 48GB")).origin)["device Foo X9 48GB"] == "assumed"


def test_a_mixed_cluster_has_each_kind_of_node_with_its_own_links() -> None:
    cluster = cluster_of(
        row(
            kind="mixed_cluster",
            device="MIXED: 12x V100-16GB + 4x T4-16GB",
            devices=16,
            dp=4,
            devices_per_node=4,
            intra="NVLink2 (V100) / PCIe3 (T4)",
            inter="10 Gb/s (P3.8xlarge) / 50 Gb/s (G4dn.12xlarge) Ethernet",
            cluster="3 x P3.8xlarge (4 V100, NVLink) + 1 x G4dn.12xlarge (4 T4, PCIe)",
        )
    )
    fast, slow = cluster.groups
    assert (fast.device.name, fast.count, fast.intra.bytes_per_s, fast.nic.bytes_per_s) == (
        "V100-16GB-SXM2",
        3,
        150e9,
        1.25e9,
    )
    assert (slow.device.name, slow.count, slow.intra.bytes_per_s, slow.nic.bytes_per_s) == (
        "T4-16GB",
        1,
        15.75e9,
        6.25e9,
    )


@pytest.mark.parametrize(
    "given_", [["V100-16GB", "T4-16GB"], "[V100-16GB, T4-16GB]", [["4x V100-16GB"], ["4x T4-16GB"]]]
)
def test_stages_can_name_their_devices(given_: object) -> None:
    cluster = cluster_of(row(kind="mixed_cluster", device="mixed", stage_devices=given_))
    assert [(g.device.name, g.device_count) for g in cluster.groups] == [("V100-16GB-SXM2", 4), ("T4-16GB", 4)]


def test_a_mixed_cluster_whose_counts_do_not_add_up_is_refused() -> None:
    with pytest.raises(BadInput, match=r"names 12 \+ 4 = 16 ≠ devices 8"):
        cluster_of(row(device="12x V100-16GB + 4x T4-16GB"))
    assert cluster_of(row(device="4x H100")).groups[0].device.name == "H100-80GB-SXM"


def test_a_rack_of_nvlink_is_one_node() -> None:
    cluster = cluster_of(
        row(device="GB200", devices=256, dp=64, global_batch=64, devices_per_node=4, intra="NVLink5 NVL72")
    )
    assert (cluster.groups[0].devices_per_node, cluster.node_count) == (64, 4)


def test_every_published_cluster_has_the_devices_of_its_row() -> None:
    assert all(cluster_of(r).device_count == r.devices for r in published())
