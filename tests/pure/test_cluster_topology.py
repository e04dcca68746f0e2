"""What lies between devices: links of pairs, levels of sets, and laws that hold on every cluster."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from cluster_samples import MIXED, clusters
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula import marked_yaml
from nebula.cluster import topology
from nebula.cluster.identity import cluster_hash
from nebula.cluster.places import device_index, exclude, node_name, slowness, usable_devices
from nebula.cluster.schema import load_cluster
from nebula.cluster.values import Host
from nebula.cost_model.communication import Fabric
from nebula.errors import BadInput


@pytest.fixture(scope="module")
def mixed():
    return load_cluster(marked_yaml.parse(MIXED, "mixed.yaml"))


@pytest.fixture(scope="module")
def one_site(mixed):
    return replace(mixed, sites=(), wan=None)


def levels(cluster, devices):
    return [(level.name, level.members) for level in topology.group_links(cluster, devices)]


def test_links_of_pairs(mixed, one_site):
    assert topology.link(mixed, 0, 7) == mixed.groups[0].intra
    leaf = topology.link(mixed, 0, 8)
    assert leaf.bytes_per_s == 25e9  # 8 cards of 200 Gb/s for 8 devices
    assert leaf.latency_s == pytest.approx(2e-6 + 6e-6)
    old = topology.link(mixed, 64, 72)
    assert old.bytes_per_s == 12.5e9 / 8  # one card of 100 Gb/s for 8 devices
    spine = topology.link(one_site, 64, 64 + 64)
    assert spine.bytes_per_s == 12.5e9 / 8 / 2
    assert spine.latency_s == pytest.approx(2e-6 + 6e-6 + 10e-6)
    wan = topology.link(mixed, 0, 64)
    assert (wan.kind, wan.bytes_per_s, wan.latency_s) == ("wan", 1.25e9, 0.025)


def test_unlike_kinds_exchange_through_their_hosts(mixed, one_site):
    fast, old = mixed.groups
    for cluster in (mixed, one_site):
        like = topology.link(cluster, 0, 64)
        groups = (fast, replace(old, device=replace(old.device, kind="npu", host_bytes_per_s=4e9)))
        unlike = topology.link(replace(cluster, groups=groups), 0, 64)
        assert 1 / unlike.bytes_per_s == pytest.approx(
            1 / like.bytes_per_s + 1 / fast.device.host_bytes_per_s + 1 / 4e9
        )
        assert (unlike.kind, unlike.latency_s) == (like.kind, like.latency_s)
        within = replace(cluster, groups=groups)
        assert topology.link(within, 64, 72) == topology.link(cluster, 64, 72)


def test_levels_of_sets(mixed, one_site):
    assert levels(mixed, range(8)) == [("node", 8)]
    assert levels(mixed, range(64)) == [("node", 8), ("leaf", 8)]
    assert levels(mixed, range(0, 64, 8)) == [("leaf", 8)]
    assert levels(one_site, range(192)) == [("node", 8), ("leaf", 8), ("spine", 3)]
    assert levels(mixed, range(192)) == [("node", 8), ("leaf", 8), ("spine", 2), ("wan", 2)]
    assert levels(mixed, [3]) == []


def test_the_wan_is_shared_by_the_devices_that_send(mixed):
    wan = topology.group_links(mixed, range(0, 192, 8))[-1]
    assert wan.link.bytes_per_s == 1.25e9 / 16


@settings(deadline=None, max_examples=30)
@given(clusters(), st.data())
def test_laws_of_links(cluster, data):
    device = st.integers(0, cluster.device_count - 1)
    a, b = data.draw(device), data.draw(device)
    link = topology.link(cluster, a, b)
    assert link == topology.link(cluster, b, a)
    assert link.bytes_per_s > 0
    wider = replace(
        cluster, groups=tuple(replace(g, nic=replace(g.nic, bytes_per_s=2 * g.nic.bytes_per_s)) for g in cluster.groups)
    )
    assert topology.link(wider, a, b).bytes_per_s >= link.bytes_per_s
    chosen = sorted(data.draw(st.sets(device, min_size=1)))
    found = topology.group_links(cluster, chosen)
    assert math.prod(level.members for level in found) >= len(chosen)
    everywhere = topology.group_links(cluster, range(cluster.device_count))
    if len({(g.count, g.devices_per_node) for g in cluster.groups}) == 1 and not cluster.tiers:
        assert math.prod(level.members for level in everywhere) == cluster.device_count


@settings(deadline=None, max_examples=30)
@given(order=st.permutations(range(16)))
def test_ports_say_under_which_switch_a_node_hangs(one_site, order):
    """Node i of the shuffled group hangs where node order[i] of the other does."""
    old = one_site.groups[1]
    shuffled = replace(one_site, groups=(one_site.groups[0], replace(old, ports=tuple(8 + port for port in order))))
    fabric, moved = Fabric(one_site), Fabric(shuffled)
    for nodes in ((0, 1, 2), (0, 8), (3, 9, 12, 15)):
        devices = [64 + 8 * order.index(node) + local for node in nodes for local in range(2)]
        where = [64 + 8 * node + local for node in nodes for local in range(2)]
        assert topology.group_links(shuffled, devices) == topology.group_links(one_site, where)
        assert moved.levels(devices) == fabric.levels(where)


@settings(deadline=None, max_examples=30)
@given(clusters(), st.data())
def test_names_and_indices_of_places_agree(cluster, data):
    device = data.draw(st.integers(0, cluster.device_count - 1))
    place = cluster.address(device)
    assert device_index(cluster, node_name(cluster, device), place.local) == device
    excluded = place.node in cluster.groups[place.group].excluded
    assert (device in usable_devices(cluster)) is not excluded
    assert device not in usable_devices(exclude(cluster, [node_name(cluster, device)]))


def test_excluding_takes_nodes_and_groups_and_refuses_strangers(mixed):
    assert len(usable_devices(exclude(mixed, ["old/3", "fast/0"]))) == 192 - 16
    assert usable_devices(exclude(mixed, ["old"])) == tuple(range(64))
    with pytest.raises(BadInput, match="has nodes old/0 to old/15: no 'old/16'"):
        exclude(mixed, ["old/16"])
    with pytest.raises(BadInput, match="did you mean 'old'"):
        exclude(mixed, ["odl/1"])
    with pytest.raises(BadInput, match="devices 0 to 7: no 8"):
        device_index(mixed, "old/3", 8)


def test_slow_nodes(mixed):
    text = MIXED.replace("name: old, count: 16,", "name: old, count: 16, slow: {2: 1.5},")
    cluster = load_cluster(marked_yaml.parse(text, "mixed.yaml"))
    assert slowness(cluster, 64 + 2 * 8) == 1.5
    assert slowness(cluster, 64) == 1.0


def test_identity_is_the_hardware_not_its_health_or_its_file(mixed):
    assert len(cluster_hash(mixed)) == 12
    assert cluster_hash(mixed) == cluster_hash(exclude(mixed, ["old/3"])) == cluster_hash(replace(mixed, origin=()))
    half = replace(mixed, groups=(replace(mixed.groups[0], count=4), mixed.groups[1]))
    assert cluster_hash(half) != cluster_hash(mixed)


def test_a_host_is_shared_by_the_devices_of_its_node(mixed):
    fast, old = mixed.groups
    wide = replace(fast, host=Host(memory_bytes=2**41, memory_bytes_per_s=1e12, links=4))
    # each link of 27.5 GB/s serves two of the eight devices
    assert topology.host_share(wide) == (13.75e9, 0.8 * 1e12 / 8, 2**38)
    assert topology.host_share(replace(wide, host=replace(wide.host, links=0))).bytes_per_s == 27.5e9
    narrow = replace(old, host=Host(memory_bytes_per_s=100e9))
    assert topology.host_share(narrow) == (10e9, 10e9, math.inf)
    fabric = Fabric(replace(mixed, groups=(wide, narrow)))
    assert fabric.host(np.arange(64)) == topology.host_share(wide)
    assert fabric.host(np.array([0, 64])) == (10e9, 10e9, 2**38)
    assert cluster_hash(replace(mixed, groups=(wide, old))) != cluster_hash(mixed)


def test_ten_thousand_nodes_are_quick(mixed):
    large = replace(mixed, groups=(replace(mixed.groups[0], count=10_000),), sites=(), wan=None)
    start = time.process_time()
    assert large.device_count == 80_000
    assert levels(large, range(0, 80_000, 80)) == [("spine", 1000)]
    assert time.process_time() - start < 1.0
