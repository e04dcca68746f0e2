"""Collectives over the levels of a group: formulas by hand, laws, and look-ups that equal the topology's own answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cluster.topology import Level, group_links
from nebula.cluster.values import Link
from nebula.cost_model.border import receive_seconds, send_seconds
from nebula.cost_model.communication import FORMULAS, Fabric, Levels, collective, one_ring, ranks_of
from tests.pure.cluster_samples import clusters
from tests.pure.cost_samples import cluster


def level(members, bytes_per_s, latency_s, name="node") -> Level:
    return Level(name=name, members=members, link=Link(kind="bus", bytes_per_s=bytes_per_s, latency_s=latency_s))


NODE = Levels([level(4, 1e9, 1e-5)])
TWO_NODES = Levels([level(4, 1e9, 1e-5), level(2, 1e8, 1e-4, "leaf")])


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("reduce_scatter", 3 * (1e-5 + 2e6 / 1e9)),
        ("all_gather", 3 * (1e-5 + 2e6 / 1e9)),
        ("all_reduce", 6 * (1e-5 + 2e6 / 1e9)),
        ("all_to_all", 3 * (1e-5 + 2e6 / 1e9)),
        ("broadcast", 3e-5 + 8e6 / 1e9),
        ("send", 1e-5 + 8e6 / 1e9),
    ],
)
def test_eight_megabytes_among_four_ranks_of_a_node(kind, seconds):
    assert collective(kind, NODE).seconds(8e6) == pytest.approx(seconds)


def test_over_two_nodes_rings_pass_both_levels_at_once():
    """Each device's card has 1e8 B/s and four devices share the way out, so that the node's links have 1e9 and 4e8."""
    scatter = 3 * 1e-5 + 1e-4 + 7 / 8 * 8e6 / 4e8
    assert collective("all_reduce", TWO_NODES).seconds(8e6) == pytest.approx(2 * scatter)
    assert collective("all_to_all", TWO_NODES).seconds(8e6) == pytest.approx(3e-5 + 4e-4 + 4 / 8 * 8e6 / 1e8)
    assert collective("send", TWO_NODES).seconds(8e6) == pytest.approx(1e-4 + 8e6 / 1e8)


def test_one_ring_goes_at_the_pace_of_its_slowest_link():
    ring = one_ring(TWO_NODES, 8)
    assert ranks_of(ring) == 8
    assert collective("all_reduce", ring).seconds(8e6) == pytest.approx(14 * (1e-4 + 1e6 / 1e8))


def test_a_group_of_one_costs_nothing():
    assert all(collective(kind, Levels()).seconds(1e9) == 0.0 for kind in FORMULAS)


def test_a_border_sends_parts_and_gathers_them():
    border = Levels([level(2, 1e8, 1e-4, "leaf")])
    assert send_seconds(8e6, 2.0, border, 4) == pytest.approx(2e-4 + 2e6 / 1e8)
    assert receive_seconds(8e6, 2.0, border, NODE) == pytest.approx(2 * 3e-5 + 3 * 2e6 / 1e9)
    assert receive_seconds(8e6, 2.0, Levels(), NODE) == 0.0


levels_of_one_to_three = st.lists(
    st.builds(level, st.integers(2, 9), st.floats(1e6, 1e12), st.floats(0, 1e-2)), min_size=1, max_size=3
).map(Levels)


@given(levels=levels_of_one_to_three, size=st.floats(0, 1e12), factor=st.floats(1, 100), which=st.integers(0, 2))
def test_more_bandwidth_and_less_data_are_never_slower(levels, size, factor, which):
    index = which % len(levels)
    chosen = levels[index]
    wider = level(chosen.members, chosen.link.bytes_per_s * factor, chosen.link.latency_s)
    faster = Levels([*levels[:index], wider, *levels[index + 1 :]])
    for kind in FORMULAS:
        seconds = collective(kind, levels).seconds(size)
        assert collective(kind, faster).seconds(size) <= seconds * (1 + 1e-12)
        assert collective(kind, levels).seconds(size / factor) <= seconds


@given(levels=levels_of_one_to_three)
def test_what_a_reduce_scatter_moves_is_all_but_the_own_part(levels):
    """Each rank sends (p - 1)/p of the buffer in all, whatever the levels: with equal rates that is the time."""
    even = Levels([level(each.members, 1.0, 0.0) for each in levels])
    ranks = ranks_of(even)
    assert collective("reduce_scatter", even).seconds(float(ranks)) == pytest.approx(ranks - 1)


@given(clusters(), st.data())
def test_the_fabric_answers_as_the_topology_does(found, data):
    fabric = Fabric(found)
    size = data.draw(st.integers(1, min(5, found.device_count)))
    drawn = st.lists(st.integers(0, found.device_count - 1), min_size=size, max_size=size, unique=True)
    groups = data.draw(st.lists(drawn, min_size=1, max_size=4))
    levels, which = fabric.distinct(np.array(groups))
    for group, index in zip(groups, which, strict=True):
        expected = Levels(group_links(found, group)) if size > 1 else Levels()
        emulated = any(g.device.emulated for g in found.groups)
        assert levels[index] == (one_ring(expected, size) if emulated else expected)


def test_alike_groups_are_looked_up_once():
    fabric = Fabric(cluster(nodes=4, per_node=4))
    levels, which = fabric.distinct(np.arange(16).reshape(4, 4))
    assert len(levels) == 1
    assert which.tolist() == [0, 0, 0, 0]


def test_a_group_that_lies_unevenly_over_nodes_is_a_ring_of_its_own_ranks():
    """Three ranks on two nodes of two meet two by two at both levels, but are no four."""
    three, four = (Fabric(cluster(nodes=2, per_node=2)).levels(range(ranks)) for ranks in (3, 4))
    assert [level.members for level in three] == [3]
    assert [level.members for level in four] == [4]
    fabric = Fabric(cluster(nodes=2, per_node=2))
    assert [[level.members for level in fabric.levels(range(ranks))] for ranks in (4, 3)] == [[4], [3]]
