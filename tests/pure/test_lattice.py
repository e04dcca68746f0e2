"""Groups of devices at equal distances: what meets in a unit against walking the devices, levels of whole splits."""

from collections import Counter
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nebula.cluster.topology import group_links
from nebula.cluster.values import Link, NodeGroup, Tier
from nebula.cost_model.communication import Fabric, Levels, collective
from nebula.cost_model.groups import PROBE_BYTES, uniform_groups
from nebula.cost_model.lattice import Lattice, Rows, meetings
from nebula.cost_model.placed import place, stage_grid
from nebula.plan.layout import ORDERS
from tests.pure.cost_samples import cluster, device


@st.composite
def unit_sizes(draw):
    """Devices of a node and of up to two switches."""
    sizes = [draw(st.integers(1, 8))]
    for _ in range(draw(st.integers(0, 2))):
        sizes.append(sizes[-1] * draw(st.integers(1, 7)))
    return tuple(sizes)


def walked(devices, units):
    """The most parts of each unit, and how many parts there are of the widest."""
    parts, found, below = set(devices), [], 1
    for unit in units:
        found.append(max(Counter(part * below // unit for part in parts).values()))
        parts, below = {part * below // unit for part in parts}, unit
    return [*found, len(parts)]


@settings(max_examples=400)
@given(unit_sizes(), st.lists(st.integers(0, 500), min_size=1, max_size=3), st.integers(1, 200), st.integers(1, 40))
def test_what_meets_in_a_unit_follows_from_start_stride_and_number(units, starts, stride, ranks):
    found = meetings(Rows(np.array([starts]), stride, ranks), units)
    assert found.tolist() == [walked([start + stride * i for i in range(ranks)], units) for start in starts]


def network(per_node, nodes, widths):
    """Equal nodes below switches of so many nodes each, and one that joins them all."""
    where = cluster(nodes=nodes, per_node=per_node, kind=device(emulated=False), nic=3e9, intra=3e10)
    inner = [
        Tier(name=f"tier {i}", nodes=width, oversubscription=1.0 + i, latency_s=1e-6 * (i + 1))
        for i, width in enumerate(widths)
    ]
    return replace(where, tiers=(*inner, Tier(name="core", oversubscription=3.0, latency_s=9e-6)))


@st.composite
def splits(draw):
    """A cluster, and the devices [stages, sharding groups, replicas, ranks] of a split of it."""
    per_node = draw(st.sampled_from([1, 2, 3, 4, 8]))
    leaf = draw(st.integers(1, 4))
    where = network(per_node, draw(st.integers(1, 40)), (leaf, leaf * draw(st.integers(1, 4))))
    shape = [draw(st.integers(1, 5)) for _ in range(4)]
    outer, pipeline, shard, tensor = shape
    assume(prod(shape) <= where.device_count)
    first = draw(st.integers(0, where.device_count - prod(shape)))
    devices = np.arange(first, first + prod(shape)).reshape(outer, pipeline, shard, tensor).transpose(1, 0, 2, 3)
    return where, devices


def slowest(where, groups):
    """The levels of the slowest of some groups, of the topology itself."""
    levels = [Levels(group_links(where, group)) if len(group) > 1 else Levels() for group in groups.tolist()]
    return max(levels, key=lambda each: collective("all_reduce", each).seconds(PROBE_BYTES))


@given(splits())
def test_groups_of_a_regular_split_are_those_that_the_topology_finds(drawn):
    where, devices = drawn
    stages, _, shard, tensor = devices.shape
    fabric = Fabric(where)
    assert fabric.regular(Lattice.of(devices))
    found = uniform_groups(devices.reshape(stages, -1, tensor), shard, fabric)
    for stage, (groups, held) in enumerate(zip(found, devices, strict=True)):
        assert groups.tensor == slowest(where, held.reshape(-1, tensor))
        assert groups.shard == slowest(where, np.moveaxis(held, 1, 2).reshape(-1, shard))
        assert groups.outer == slowest(where, np.moveaxis(held, 0, 2).reshape(-1, len(held)))
        if stage + 1 < stages:
            assert groups.behind == slowest(where, np.stack([held, devices[stage + 1]], axis=-1).reshape(-1, 2))


def test_a_split_with_a_hole_or_over_unlike_nodes_is_walked():
    devices = np.arange(16).reshape(2, 2, 2, 2)
    assert Lattice.of(devices) == Lattice(0, (8, 4, 2, 1), (2, 2, 2, 2))
    assert Lattice.of(np.where(devices > 7, devices + 1, devices)) == Lattice(0, (9, 4, 2, 1), (2, 2, 2, 2))
    assert Lattice.of(np.where(devices > 5, devices + 1, devices)) is None
    assert Lattice.of(devices[::-1]) is None
    one = cluster(nodes=2, per_node=8)
    two = replace(one, groups=(one.groups[0], replace(one.groups[0], name="more")))
    assert Fabric(two).regular(Lattice.of(devices))
    assert Fabric(two).regular(Lattice.of(devices + 8)) is None


def test_nodes_of_a_second_group_count_from_where_its_site_begins():
    link = Link(kind="x", bytes_per_s=1e9, latency_s=1e-6)
    small = NodeGroup(
        name="small", count=3, device=cluster().groups[0].device, devices_per_node=2, intra=link, nic=link
    )
    where = replace(network(4, 8, (2,)), groups=(small, network(4, 8, (2,)).groups[0]))
    devices = np.arange(6, 38).reshape(1, 4, 2, 4)
    regular = Fabric(where).regular(Lattice.of(devices))
    assert regular is not None
    # three small nodes stand before, of four devices each as the second group counts
    assert (regular.lattice.first, regular.units) == (12, (4, 8))
    groups = uniform_groups(devices.reshape(1, 8, 4), 2, Fabric(where))[0]
    assert groups.shard == slowest(where, np.moveaxis(devices[0], 1, 2).reshape(-1, 2))
    assert [level.name for level in groups.shard] == ["core"]


@pytest.mark.parametrize("widths", [(3, 4), (0, 2)])
def test_switches_that_are_no_multiples_of_each_other_are_walked(widths):
    where = network(2, 12, widths)
    devices = np.arange(24).reshape(2, 3, 2, 2)
    fabric = Fabric(where)
    assert fabric.regular(Lattice.of(devices)) is None
    assert uniform_groups(devices.reshape(2, 6, 2), 2, fabric)[0].outer == slowest(
        where, np.moveaxis(devices[0], 0, 2).reshape(-1, 3)
    )


@given(splits(), st.sampled_from(ORDERS), st.booleans())
def test_a_split_is_placed_as_its_devices_are_walked(drawn, order, hole):
    where, held = drawn
    devices = np.sort(held.ravel())
    if hole:
        devices = devices[devices != devices[len(devices) // 2]]
    pipeline, outer, degree, tensor = held.shape
    outer = len(devices) // (pipeline * degree * tensor)
    assume(outer)
    split = {"data": outer * degree, "tensor": tensor, "pipeline": pipeline, "degree": degree}
    fabric = Fabric(where)
    placed = place(devices, **split, fabric=fabric, order=order)
    grid = stage_grid(devices, **split, order=order)
    for stage, kind in enumerate(placed.stages):
        groups, slow = placed.kinds[kind]
        ranks = grid[stage].reshape(outer, degree, tensor)
        assert slow == 1.0
        assert groups.tensor == slowest(where, ranks.reshape(-1, tensor))
        assert groups.shard == slowest(where, np.moveaxis(ranks, 1, 2).reshape(-1, degree))
        assert groups.outer == slowest(where, np.moveaxis(ranks, 0, 2).reshape(-1, outer))
