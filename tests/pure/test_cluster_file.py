"""Cluster files: what they mean, that they come back as they were, and one sentence with a place for each mistake."""
# ruff: noqa: E501 (tables of mistakes, one a row)

import warnings

import pytest
import yaml
from cluster_samples import MIXED, clusters
from hypothesis import HealthCheck, given, settings

from nebula import marked_yaml
from nebula.cluster.schema import dump_cluster, load_cluster
from nebula.errors import BadInput, Suspicious

MISTAKES = {
    "mistyped key": ("bandwidth: 300GB/s", "bandwith: 300GB/s", ":5:30: unknown key 'bandwith' in nodes[0].intra; did you mean 'bandwidth'?"),
    "mistyped key at the top": ("name: mixed", "nam: mixed", ":1:1: unknown key 'nam'; did you mean 'name'?"),
    "mistyped section": ("sites:", "site:", "did you mean 'sites'?"),
    "unit of another kind": ("300GB/s", "300GB", "'300GB' is not a rate: the unit 'GB' measures a size"),
    "unknown unit": ("9us", "9sec", "'9sec' is not a duration"),
    "missing key": ("name: fast, count: 8, ", "name: fast, ", "the key 'count' of nodes[0] is missing; add `count:"),
    "no whole number": ("count: 8, device: A100", "count: 8.5, device: A100", "nodes[0].count must be a whole number, not 8.5"),
    "no node": ("count: 16", "count: 0", "nodes[1].count must be at least 1, not 0"),
    "negative": ("latency: 5us", "latency: -5us", "at least 0"),
    "unknown device": ("device: A100-80GB-SXM", "device: A10-80GB-SXM", "did you mean 'A100-80GB-SXM'?"),
    "unknown base": ("like: A100", "like: X100", "the catalogue has no device 'X100-80GB-SXM'"),
    "unknown group in a site": ("[fast]", "[fats]", "site 'east' names a node group 'fats' that does not exist; did you mean 'fast'?"),
    "group in two sites": ("[old]}]", "[old, fast]}]", "in site 'east' and in site 'west'"),
    "group in no site": (", {name: west, nodes: [old]}", "", "node group 'old' is in no site"),
    "two groups of one name": ("name: old", "name: fast", "two node groups are called 'fast'"),
    "two tiers of one name": ("name: spine", "name: leaf", "two tiers are called 'leaf'"),
    "key twice": ("name: mixed", "name: mixed\nname: again", ":2:1: the key 'name' stands in line 1 already"),
    "truth for text": ("name: mixed", "name: no", "put it in quotes"),
    "no dtype": ("bf16: 156e12", "bf17: 156e12", "devices.slow.peak_flops.bf17"),
    "no link inside": ("intra: {kind: pcie, bandwidth: 24GB/s, latency: 9us}, ", "", "node group 'old' has no intra, its 8 devices need a link"),
    "no network": (", nic: {count: 1, bandwidth: 100Gb/s}", "", "node group 'old' has no nic"),
    "no wan": ("  wan: {bandwidth: 10Gb/s, rtt: 50ms}\n", "", "several sites and no WAN"),
    "a tier in the middle without nodes": ("name: leaf, nodes: 8", "name: leaf", "tier 'leaf' is not the last and has no `nodes`"),
    "a last tier that does not span": ("{name: spine,", "{name: spine, nodes: 8,", "joins 8 of 16 nodes; it must span all"),
    "reserved name": ("name: leaf", "name: wan", "a tier cannot be called 'wan'"),
    "ports for other nodes": ("count: 8, device", "count: 8, ports: [0, 1], device", "2 ports for 8 nodes"),
    "a port twice": ("count: 8, device", "count: 8, ports: [0, 1, 2, 3, 4, 5, 6, 0], device", "fast/0 and fast/7 both hang at port 0"),
    "more links to the host than devices": ("count: 8, device", "count: 8, host: {links: 9}, device", "9 links of 8 devices"),
    "no port": ("count: 8, device", "count: 8, ports: [x], device", "nodes[0].ports[0] must be a whole number"),
    "slash": ("name: fast", "name: fa/st", "`/` stands between"),
    "text for a mapping": ("{bandwidth: 10Gb/s, rtt: 50ms}", "10Gb/s", "network.wan must be a mapping, not '10Gb/s'"),
    "not YAML": ("[fast]", "[fast", "not YAML"),
    "a device from scratch without memory": ("like: A100-80GB-SXM, peak_flops: {bf16: 156e12}, memory: 40GiB", "kind: gpu, peak_flops: {fp32: 1e12}", "device 'slow' has no memory; add `memory: 80GiB`"),
    "a device from scratch without fp32": ("like: A100-80GB-SXM, ", "kind: gpu, memory_bandwidth: 2TB/s, ", "no peak in fp32"),
}  # fmt: skip


def load(text):
    return load_cluster(marked_yaml.parse(text, "mixed.yaml"))


@pytest.mark.parametrize(("right", "wrong", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence_with_its_place(right, wrong, sentence):
    assert right in MIXED
    with pytest.raises(BadInput) as caught:
        load(MIXED.replace(right, wrong, 1))
    said = str(caught.value)
    assert said.startswith("mixed.yaml:")
    assert sentence in said
    line, caret = said.splitlines()[-2:]
    assert set(caret.strip()) == {"^"}
    assert len(line) < 130


def test_the_caret_stands_under_the_key():
    with pytest.raises(BadInput) as caught:
        load(MIXED.replace("bandwidth: 300GB/s", "bandwith: 300GB/s"))
    _, line, caret = str(caught.value).splitlines()
    assert line[caret.index("^") : caret.rindex("^") + 1] == "bandwith"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: x\nnodes: []\n", "a cluster without devices"),
        ("name: x\n", "the key 'nodes' is missing"),
        ("", "this must be a mapping with the keys name, devices, nodes, network, calibration, not nothing"),
        ("- a\n", "must be a mapping"),
    ],
)
def test_a_file_without_devices(text, sentence):
    with pytest.raises(BadInput, match=r"mixed\.yaml") as caught:
        load(text)
    assert sentence in str(caught.value)


def test_a_missing_file_names_what_is_beside_it(tmp_path):
    (tmp_path / "mixed.yaml").write_text(MIXED)
    with pytest.raises(BadInput, match=r"there is no such file; did you mean 'mixed\.yaml'\?"):
        load_cluster(tmp_path / "mixd.yaml")


def test_the_file_means_what_it_says():
    cluster = load(MIXED)
    fast, old = cluster.groups
    assert (cluster.device_count, cluster.node_count) == (192, 24)
    assert (fast.intra.bytes_per_s, fast.intra.latency_s) == (300e9, 5e-6)
    assert (fast.nic.bytes_per_s, fast.nic_count) == (25e9, 8)
    assert old.device.peak_flops["bfloat16"] == 156e12
    assert old.device.peak_flops["float32"] == fast.device.peak_flops["float32"]
    assert old.device.memory_bytes == 40 * 2**30
    assert cluster.wan is not None
    assert (cluster.wan.bytes_per_s, cluster.wan.latency_s) == (1.25e9, 0.025)
    assert dict(old.device.sources)["memory_bytes"] == "mixed.yaml"


def test_data_without_a_text_loads_and_fails_without_a_caret():
    data = yaml.safe_load(MIXED)
    assert load_cluster(data) == load_cluster(yaml.safe_load(dump_cluster(load_cluster(data))))
    data["nodes"][0]["cuont"] = data["nodes"][0].pop("count")
    with pytest.raises(BadInput, match="the cluster: unknown key 'cuont' in") as caught:
        load_cluster(data)
    assert "^" not in str(caught.value)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(clusters())
def test_what_is_written_is_read_back(cluster):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Suspicious)
        assert load(dump_cluster(cluster)) == cluster


@pytest.mark.parametrize(
    ("right", "odd", "remedy"),
    [
        ("300GB/s", "900Gb/s", "did you mean 900GB/s?"),
        ("300GB/s", "600GB/s", "per direction: did you mean 300GB/s?"),
        ("200Gb/s", "200GB/s", "did you mean 200Gb/s?"),
        ("24GB/s", "256GB/s", "more than PCIe"),
        ("latency: 9us", "latency: 9ms", "did you mean us?"),
        ("rtt: 50ms", "rtt: 50", "did you mean ms?"),
    ],
)
def test_odd_values_warn_with_their_place(right, odd, remedy):
    with pytest.warns(Suspicious) as caught:
        load(MIXED.replace(right, odd, 1))
    assert len(caught) == 1
    said = str(caught[0].message)
    assert said.startswith("mixed.yaml:")
    assert remedy in said


def test_the_sample_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(MIXED)


def test_a_stranger_in_the_catalogue_is_only_what_it_begins_with():
    text = MIXED.replace("device: A100-80GB-SXM", 'device: "A100-80GB-SXM (in the cellar)"', 1)
    assert load(text).groups[0].device.name == "A100-80GB-SXM"
