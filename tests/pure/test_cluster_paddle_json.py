"""Paddle's cluster JSON, to and from Cluster; that Paddle itself reads it is asked in tests/paddle."""
# ruff: noqa: E501 (tables of mistakes, one a row)

import pytest

from nebula.cluster import topology
from nebula.cluster.paddle_json import from_paddle, to_paddle
from nebula.cluster.schema import load_cluster
from nebula.errors import BadInput

LINKS = {"intra": {"kind": "nvlink", "bandwidth": "300GB/s"}, "nic": {"count": 4, "bandwidth": "200Gb/s"}}


def cluster(device="A100-80GB-SXM", **more):
    node = {"name": "n", "count": 2, "device": device, "devices_per_node": 4, **LINKS, **more}
    return load_cluster({"name": "c", "nodes": [node]})


def test_lists_every_device_and_link_in_paddles_units():
    value = to_paddle(cluster())
    assert [len(m["devices"]) for m in value["machines"]] == [4, 4]
    assert [len(m["links"]) for m in value["machines"]] == [4 * 7, 4 * 7]
    device = value["machines"][1]["devices"][0]
    assert (device["global_id"], device["local_id"], device["type"]) == (4, 0, "GPU")
    assert device["hp_gflops"] == pytest.approx(312_000)
    links = {(k["source_global_id"], k["target_global_id"]): k for k in value["machines"][0]["links"]}
    assert (links[0, 1]["type"], links[0, 1]["bandwidth"]) == ("NVL", 300)
    assert (links[0, 4]["type"], links[0, 4]["bandwidth"]) == ("NET", 25)


def test_comes_back_with_the_same_rates():
    there = cluster()
    back = from_paddle(to_paddle(there))
    assert [(g.count, g.devices_per_node, g.device.name, g.device.kind) for g in back.groups] == [
        (2, 4, "A100-80GB-SXM", "gpu")
    ]
    for a, b in ((0, 1), (0, 5)):
        assert topology.link(back, a, b).bytes_per_s == pytest.approx(topology.link(there, a, b).bytes_per_s)
    assert back.groups[0].device.memory_bytes == pytest.approx(there.groups[0].device.memory_bytes)


def test_an_npu_goes_out_as_xpu_and_comes_back_by_its_model():
    value = to_paddle(cluster("Ascend-910B"))
    assert value["machines"][0]["devices"][0]["type"] == "XPU"
    assert from_paddle(value).groups[0].device.kind == "npu"


def test_unlike_machines_become_groups_in_order():
    one, other = to_paddle(cluster()), to_paddle(cluster("H100-80GB-SXM"))
    for machine in other["machines"]:
        for device in machine["devices"]:
            device["global_id"] += 8
        for link in machine["links"]:
            link["source_global_id"] += 8
            link["target_global_id"] += 8
    found = load_cluster({"machines": one["machines"] + other["machines"]})
    assert [(g.count, g.device.name) for g in found.groups] == [(2, "A100-80GB-SXM"), (2, "H100-80GB-SXM")]


def test_network_cards_and_hosts_of_paddles_own_files_are_no_devices():
    value = to_paddle(cluster())
    value["machines"][0]["devices"] += [{"type": "NIC", "global_id": 90}, {"type": "CPU", "global_id": 91}]
    assert from_paddle(value).device_count == 8


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda v: v["machines"][0]["devices"][0].pop("global_id"), "the key 'global_id' of Paddle's cluster JSON is missing"),
        (lambda v: v["machines"][0]["devices"][0].update(type="TPU"), "unlike devices"),
        (lambda v: v["machines"][0]["devices"].clear(), "has no devices"),
        (lambda v: v["machines"].clear(), "a cluster without devices"),
        (lambda v: v.update(machines=3), "not Paddle's cluster JSON"),
    ],
)  # fmt: skip
def test_damage_is_one_sentence(damage, sentence):
    value = to_paddle(cluster())
    damage(value)
    with pytest.raises(BadInput) as caught:
        from_paddle(value, "cluster.json")
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("cluster.json: ")


def test_more_links_than_paddle_can_bear_are_refused():
    with pytest.raises(BadInput, match=r"4000 devices have 15,996,000 links"):
        to_paddle(cluster(count=1000))
