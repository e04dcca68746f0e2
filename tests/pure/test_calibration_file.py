"""Calibration files: a cluster file that names one takes its figures, as measured ones; each mistake has a sentence."""
# ruff: noqa: E501 (tables of mistakes, one a row)

import pytest

from nebula.cluster.calibration import Calibration, dump_calibration, load_calibration
from nebula.cluster.schema import dump_cluster, load_cluster
from nebula.cluster.values import Link
from nebula.cost_model.confidence import INPUTS, origin
from nebula.errors import BadInput
from nebula.marked_yaml import parse

CLUSTER = """\
name: here
calibration: calibration.yaml
devices:
  core: {like: cpu, memory: 4GiB}
nodes:
  - {name: here, count: 1, device: core, devices_per_node: 2, intra: {kind: gloo, bandwidth: 1GB/s, latency: 200us}}
"""
CALIBRATION = Calibration(
    device="core",
    source="measured by nebula profile",
    processes=2,
    peak_flops={"float32": 7e10},
    figures={
        "memory_bytes_per_s": 9e9,
        "kernel_s": 5.5e-6,
        "product_efficiency": 1.0,
        "memory_efficiency": 0.25,
        "half_product_flops": 3e6,
    },
    intra=Link(kind="gloo", bytes_per_s=1.2e9, latency_s=150e-6, attained=True),
    nic=Link(kind="ethernet", bytes_per_s=3e8, latency_s=60e-6, attained=True),
)
TEXT = dump_calibration(
    CALIBRATION, {"made": {"date": "2026-01-01"}, "fits": {}, "measured": {"copy_bytes_per_s": 9e9}}
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "calibration.yaml").write_text(TEXT)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return tmp_path


def test_a_file_comes_back(folder):
    assert load_calibration(folder / "calibration.yaml") == CALIBRATION


def test_its_figures_replace_those_of_the_device_and_the_link_and_count_as_measured(folder):
    cluster = load_cluster(folder / "cluster.yaml")
    (group,) = cluster.groups
    device = group.device
    assert (device.peak_flops["float32"], device.kernel_s, device.memory_efficiency) == (7e10, 5.5e-6, 0.25)
    assert device.memory_bytes == 4 * 2**30
    assert (group.intra, group.nic) == (CALIBRATION.intra, CALIBRATION.nic)
    assert {origin(device, field) for field in INPUTS} == {"measured"}
    assert ("calibration", "measured by nebula profile") in cluster.origin


def test_what_is_dumped_needs_the_file_no_more(folder, tmp_path_factory):
    cluster = load_cluster(folder / "cluster.yaml")
    assert load_cluster(parse(dump_cluster(cluster), "dumped", tmp_path_factory.mktemp("elsewhere"))) == cluster


def test_another_device_type_of_the_cluster_stays_as_it_was(folder):
    mixed = CLUSTER.replace("name: here\n", "name: mixed\n", 1).replace(
        "nodes:\n", "nodes:\n  - {name: fast, count: 1, device: T4-16GB, devices_per_node: 1, nic: {bandwidth: 10Gb/s}}\n"
    ).replace("latency: 200us}}", "latency: 200us}, nic: {bandwidth: 10Gb/s}}")  # fmt: skip
    (folder / "cluster.yaml").write_text(mixed)
    fast, here = load_cluster(folder / "cluster.yaml").groups
    assert origin(fast.device, "peak_flops") == "data sheet"
    assert origin(here.device, "peak_flops") == "measured"


CLUSTER_MISTAKES = {
    "missing file": ("calibration: calibration.yaml", "calibration: calbration.yaml", r"cluster.yaml:2:1: there is no calibration file .*calbration.yaml; a path is relative"),
    "one of several is missing": ("calibration: calibration.yaml", "calibration: [calibration.yaml, b.yaml]", r"no calibration file .*b.yaml"),
    "other device": ("core", "cores", r"was measured on 'core', which no node group has; did you mean 'cores'"),
    "other sharing of a CPU": ("devices_per_node: 2", "devices_per_node: 4", r"with 2 processes sharing the CPU, a node of here has 4"),
}  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "sentence"), CLUSTER_MISTAKES.values(), ids=CLUSTER_MISTAKES)
def test_a_mistake_in_the_cluster_file_is_one_sentence(folder, right, wrong, sentence):
    (folder / "cluster.yaml").write_text(CLUSTER.replace(right, wrong))
    with pytest.raises(BadInput, match=sentence):
        load_cluster(folder / "cluster.yaml")


MISTAKES = {
    "a size for a rate": ("9GB/s", "9GB", r"calibration.yaml:7:3: figures.memory_bandwidth: '9GB' is not a rate: the unit 'GB' measures a size"),
    "a rate for a duration": ("5.5us", "5.5us/s", r"is not a duration"),
    "an efficiency above 1": ("memory_efficiency: 0.25", "memory_efficiency: 25", r"figures.memory_efficiency must be at most 1"),
    "a missing figure": ("  half_product_flops: 3000000.0\n", "", r"'half_product_flops' of figures is missing"),
    "an unknown key": ("half_product_flops", "half_products_flops", r"did you mean 'half_product_flops'"),
    "not measured": ("source: measured by", "source: guessed by", r"a calibration is measured"),
    "no mapping": ("figures:", "figures: none\nmade:", r"figures must be a mapping"),
}  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_a_calibration_is_one_sentence(folder, right, wrong, sentence):
    assert right in TEXT
    text = TEXT.replace(right, wrong, 1)
    if right == "figures:":
        text = text[: text.index("made:")]
    (folder / "calibration.yaml").write_text(text)
    with pytest.raises(BadInput, match=sentence):
        load_cluster(folder / "cluster.yaml")
