"""Faults of emulated devices on command, and the ways between devices that messages share."""

import pytest

from nebula.cluster.passages import ways
from nebula.cluster.schema import load_cluster
from nebula.emulator.table import Fault
from nebula.errors import BadInput
from nebula.launch.faults import fault, faults


def test_faults_are_read_with_steps_counted_from_one():
    assert fault("slow:1:1.5@3") == Fault(rank=1, factor=1.5, first_step=2)
    assert fault("slow:1:2") == Fault(rank=1, factor=2.0, first_step=0)
    assert fault("slow:0:2@3-4") == Fault(rank=0, factor=2.0, first_step=2, last_step=3)
    assert fault("fail:2@4") == Fault(rank=2, first_step=3)


@pytest.mark.parametrize(
    "text", ["", "slow:1", "slow:1:0@2", "slow:1:2@4-3", "slow:-1:2", "fail:1", "fail:1@0", "fail:1:2@3", "slow:1:nan"]
)
def test_others_are_refused_with_what_there_is(text):
    with pytest.raises(BadInput):
        fault(text)


def test_a_fault_of_a_rank_that_there_is_not_is_refused():
    with pytest.raises(BadInput, match="ranks 0 to 3"):
        faults(["fail:4@1"], 4)


def cluster(**extra):
    kind = {"kind": "npu", "peak_flops": {"fp32": "1e12"}, "memory": "1GiB", "memory_bandwidth": "1e11B/s"}
    nodes = {
        "name": "n",
        "count": 4,
        "device": "d",
        "devices_per_node": 2,
        "intra": {"kind": "pcie", "bandwidth": "10GB/s", "latency": "1us"},
        "nic": {"count": 1, "bandwidth": "1GB/s", "latency": "1us"},
    }
    return load_cluster({"name": "c", "devices": {"d": kind}, "nodes": [nodes]} | extra)


def test_devices_of_a_node_share_its_card_and_not_each_others_ports():
    found = ways(cluster(), range(4))
    inside, out, beside, back = found[0, 1], found[0, 2], found[1, 3], found[2, 0]
    assert (inside.alone_bytes_per_s, out.alone_bytes_per_s) == (10e9, 1e9)
    assert out.passages == beside.passages
    assert not set(out.passages) & set(back.passages)
    assert not set(inside.passages) & set(out.passages)
    assert {p.bytes_per_s for p in out.passages} == {1e9}


def test_an_oversubscribed_tier_narrows_what_leaves_a_switch():
    tiers = [{"name": "leaf", "nodes": 2}, {"name": "spine", "oversubscription": 4}]
    found = ways(cluster(network={"tiers": tiers}), range(8))
    below, across = found[0, 2], found[0, 4]
    assert {p.name[1] for p in below.passages} == {"leaf"}
    assert [(p.name[1], p.bytes_per_s) for p in across.passages[:2]] == [("leaf", 1e9), ("spine", 5e8)]
    assert across.alone_bytes_per_s == 5e8
    assert found[2, 6].passages[1] == across.passages[1]  # the uplink of the switch, whichever node sends
