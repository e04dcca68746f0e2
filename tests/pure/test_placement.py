"""Ranks on devices: heavy traffic on strong links on every kind of tree, what crosses a WAN, never below first-fit."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nebula.cluster.places import device_index, usable_devices
from nebula.cluster.values import Cluster, Link, Site, Tier
from nebula.cost_model.communication import Fabric, collective
from nebula.cost_model.fleet import Pricing
from nebula.cost_model.groups import uniform_groups
from nebula.cost_model.step_parameters import DEFAULT
from nebula.cost_model.traffic import attained, stage_axes
from nebula.errors import BadInput
from nebula.plan.layout import FLEET, ORDERS, order_of, uniform_stages
from nebula.plan.legality import violations
from nebula.plan.values import Sharding
from nebula.planner.arrangements import Arrangement, Arrangements, Mesh, weaves
from nebula.planner.packing import packed, slots_of
from nebula.planner.placement import best_placement, mesh_of, reason, with_arrangement
from tests.pure.cost_samples import chain, cluster, device, plan

GRAPH = chain(8, hidden=256)
"""Wide layers, short rows: gradients weigh more than activations."""

LONG = chain(8, hidden=64, tokens=2048)
"""Narrow layers, long rows: activations weigh more than gradients."""

OVERSUBSCRIBED = (Tier(name="leaf", nodes=4, latency_s=1e-6), Tier(name="spine", oversubscription=8.0))
DRAGONFLY = (
    Tier(name="router", nodes=2, latency_s=1e-6),
    Tier(name="group", nodes=4, oversubscription=2.0, latency_s=1e-6),
    Tier(name="global", oversubscription=4.0, latency_s=1e-6),
)
EVEN = (0, 2, 4, 6, 8)
GPU = device(kind="gpu", emulated=False)


def put(own, where, graph=GRAPH):
    pricing = Pricing(graph, where, own.job)
    return best_placement(own, Arrangements(where, usable_devices(where), pricing.fabric), pricing.predict)


def wired(where, ports):
    return replace(where, groups=(replace(where.groups[0], ports=tuple(ports)),))


def switches(where, placement, width):
    """The switches of that width under which each stage has ranks."""
    ports = where.groups[0].ports or range(where.groups[0].count)
    port = [ports[int(place.node.rpartition("/")[2])] for place in placement.plan.ranks]
    return [{port[rank] // width for rank in stage.ranks} for stage in placement.plan.stages]


def nodes(placement, stage):
    return {placement.plan.ranks[rank].node for rank in placement.plan.stages[stage].ranks}


def step_s(own):
    return own.prediction.step_time_s


def test_within_one_node_rank_i_lies_on_device_i():
    """NVLink: every pair of devices has the same link, so that no placement can be better."""
    where = cluster(nodes=1, per_node=8, kind=GPU)
    found = put(plan((0, 4, 8), data=4), where)
    assert not found.moved
    assert reason(found, where).startswith("Rank i lies on device i")


def test_replicas_that_add_large_gradients_share_a_node():
    where = cluster(nodes=2, per_node=4, kind=GPU, intra=1e11, nic=1e9)
    found = put(plan((0, 4, 8), data=4), where)
    assert [len(nodes(found, stage)) for stage in (0, 1)] == [1, 1]
    first = {place.node for place in (found.first_fit.ranks[r] for r in found.first_fit.stages[0].ranks)}
    assert len(first) == 2
    assert step_s(found.plan) < step_s(found.first_fit)
    assert "more data communication" in reason(found, where)


def test_rails_leave_less_to_gain_than_one_card():
    """With a card for every device the network is as strong for each as one card is for all of a node."""
    gains = []
    for cards in (1, 4):
        where = cluster(nodes=2, per_node=4, kind=GPU, intra=1e11, nic=1e9)
        where = replace(where, groups=(replace(where.groups[0], nic_count=cards),))
        found = put(plan((0, 4, 8), data=4), where)
        gains.append(step_s(found.first_fit) - step_s(found.plan))
    one, rails = gains
    assert one > rails > 0


def test_activations_that_weigh_more_than_gradients_keep_stages_near():
    where = cluster(nodes=2, per_node=4, kind=GPU, intra=1e11, nic=1e9)
    found = put(plan((0, 4, 8), data=4, rows=8, micro_batches=8), where, LONG)
    assert len(nodes(found, 0)) == 2


def test_a_fat_tree_with_nodes_in_any_order_keeps_stages_under_one_leaf():
    where = replace(cluster(nodes=16, per_node=4, kind=GPU), tiers=OVERSUBSCRIBED)
    shuffled = wired(where, [port % 4 * 4 + port // 4 for port in range(16)])
    own = plan(EVEN, data=8, tensor=2, sharding=Sharding(stage=1, degree=8), per_node=4)
    straight, found = put(own, where), put(own, shuffled)
    assert [len(each) for each in switches(shuffled, found, 4)] == [1] * 4
    assert step_s(found.plan) == pytest.approx(step_s(straight.plan))
    assert step_s(found.first_fit) > 1.5 * step_s(found.plan)


def test_leaves_that_are_not_full_hold_whole_stages_where_they_can():
    """Nodes 1, 2 and 6 are out: in order the first stage would lie under two leaves, though two leaves are whole."""
    where = replace(cluster(nodes=16, per_node=4, kind=GPU, excluded=frozenset((1, 2, 6))), tiers=OVERSUBSCRIBED)
    own = plan((0, 4, 8), data=16, sharding=Sharding(stage=2, degree=16), per_node=4)
    found = put(own, where)
    assert [len(each) for each in switches(where, found, 4)] == [1, 1]
    assert step_s(found.plan) < step_s(found.first_fit)


def test_a_dragonfly_keeps_replicas_of_a_stage_in_one_group():
    where = wired(
        replace(cluster(nodes=16, per_node=2, kind=GPU), tiers=DRAGONFLY), [5 * port % 16 for port in range(16)]
    )
    found = put(plan(EVEN, data=8, per_node=2), where)
    assert [len(each) for each in switches(where, found, 4)] == [1] * 4
    assert step_s(found.plan) < step_s(found.first_fit)


def test_nodes_of_unlike_sizes_keep_tensor_groups_whole():
    small, large = (cluster(nodes=2, per_node=n, kind=GPU).groups[0] for n in (4, 6))
    where = Cluster(name="c", groups=(replace(large, name="l"), replace(small, name="s")), tiers=(Tier(name="leaf"),))
    own = plan((0, 8), data=4, tensor=4)
    found = put(own, where)
    for replica in found.plan.stages[0].replicas:
        assert len({found.plan.ranks[rank].node for rank in replica.ranks}) == 1
    assert step_s(found.plan) < step_s(found.first_fit)


def two_sites(east, west, per_node=2, wan=1e8):
    """Nodes `e/0`, ... and `w/0`, ... with a WAN between them."""
    groups = tuple(
        replace(cluster(nodes=count, per_node=per_node, kind=GPU).groups[0], name=name)
        for name, count in (("e", east), ("w", west))
    )
    return Cluster(
        name="c",
        groups=groups,
        tiers=(Tier(name="leaf"),),
        sites=(Site(name="east", groups=("e",)), Site(name="west", groups=("w",))),
        wan=Link(kind="wan", bytes_per_s=wan, latency_s=1e-3),
    )


def test_the_axis_that_carries_less_crosses_a_wan():
    where = two_sites(4, 4)
    heavy = put(plan((0, 4, 8), data=8), where)
    long = put(plan((0, 4, 8), data=8, rows=8, micro_batches=8), where, LONG)
    assert (heavy.crossing, long.crossing) == (("pipeline",), ("data",))
    told = reason(heavy, where)
    assert "pipeline crosses the WAN between east and west; with data across it a step takes" in told


def test_sites_of_unlike_size_cut_the_pipeline_where_they_can():
    """Three stages fit into the larger site and one into the smaller; rank i on device i would cut a group in two."""
    where = two_sites(7, 2)
    own = plan(EVEN, data=4, sharding=Sharding(stage=1, degree=4))
    found = put(own, where)
    assert found.first_fit is None or step_s(found.plan) <= step_s(found.first_fit)
    assert found.crossing == ("pipeline",)
    sites = [{found.plan.ranks[r].node[0] for r in stage.ranks} for stage in found.plan.stages]
    assert sorted(map(sorted, sites)) == [["e"], ["e"], ["e"], ["w"]]
    assert violations(found.plan, layers=8, cluster=where) == ()


def test_no_sharding_group_crosses_a_wan():
    where = two_sites(3, 3)
    own = plan((0, 8), data=8, sharding=Sharding(stage=1, degree=8))
    with pytest.raises(BadInput, match="groups of 8 ranks span sites east and west: only pipeline and data may cross"):
        put(own, where)
    placed = with_arrangement(own, Arrangement(FLEET, np.arange(8)), where)
    assert [v.rule for v in violations(placed, layers=8, cluster=where)] == ["wan"]


def test_a_tensor_group_across_a_wan_is_illegal():
    where = two_sites(1, 1, per_node=2)
    placed = with_arrangement(plan((0, 8), tensor=4), Arrangement(FLEET, np.arange(4)), where)
    (found,) = violations(placed, layers=8, cluster=where)
    assert found.sentence.startswith("tensor group of stage 0 (ranks 0 to 3) spans sites east and west")


def test_weaves_are_permutations_that_differ():
    mesh = Mesh(data=4, tensor=2, pipeline=4, degree=2)
    found = [(way.order, way.devices.tolist()) for way in weaves(mesh, np.arange(32), 4)]
    assert found[0] == (FLEET, list(range(32)))
    assert all(sorted(devices) == list(range(32)) for _, devices in found)
    assert len({(order, tuple(devices)) for order, devices in found}) == len(found)


@given(st.sampled_from(ORDERS), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))
def test_every_order_is_one_that_fleet_runs_and_another_is_not(order, outer, degree, pipeline, tensor):
    sharding = Sharding(stage=1, degree=degree) if degree > 1 else Sharding()
    own = plan((*range(pipeline), 8), data=outer * degree, tensor=tensor, sharding=sharding)
    stages = uniform_stages(
        boundaries=(*range(pipeline), 8),
        data=outer * degree,
        tensor=tensor,
        sharding=sharding,
        micro_batch_rows=1,
        order=order,
    )
    numbered = replace(own, stages=stages)
    assert violations(numbered, layers=8, cluster=None) == ()
    mesh = mesh_of(numbered)
    same = {
        each for each in ORDERS if [a for a in each if mesh.sizes[a] > 1] == [a for a in order if mesh.sizes[a] > 1]
    }
    assert order_of(stages) in same
    if mesh.ranks > 2 and outer * degree > 1:
        swapped = replace(
            stages[0], replicas=(stages[0].replicas[-1], *stages[0].replicas[1:-1], stages[0].replicas[0])
        )
        assert order_of((swapped, *stages[1:])) is None


@given(st.permutations(range(12)), st.sampled_from([1, 2, 4, 8]))
def test_packing_loses_no_node(ports, block):
    where = wired(cluster(nodes=12, per_node=2), ports)
    slots = slots_of(where, range(24))
    assert sorted(packed(slots, (4 * block, block))) == sorted(slots)


@st.composite
def trees(draw):
    """A tree of up to 6 nodes in any order under leaves of 2 or 3, some of them excluded or slow."""
    count, per_node = draw(st.integers(2, 6)), draw(st.sampled_from([1, 2, 4]))
    out = draw(st.sets(st.integers(0, count - 1), max_size=count - 2))
    where = cluster(
        count,
        per_node,
        kind=device(emulated=draw(st.booleans()), kind="gpu"),
        intra=draw(st.sampled_from([1e9, 1e10, 1e11])),
        nic=draw(st.sampled_from([1e8, 1e9, 1e10])),
        ports=tuple(draw(st.permutations(range(count + 3)))[:count]),
        excluded=frozenset(out),
        slow=tuple((n, 1.5) for n in draw(st.sets(st.integers(0, count - 1), max_size=1))),
    )
    narrow = draw(st.sampled_from([1.0, 4.0, 16.0]))
    return replace(
        where,
        tiers=(Tier(name="leaf", nodes=draw(st.sampled_from([2, 3]))), Tier(name="spine", oversubscription=narrow)),
    )


@st.composite
def splits(draw, devices, per_node):
    """A split of the chain that fits on so many devices."""
    tensor = draw(st.sampled_from([t for t in (1, 2, 4) if per_node % t == 0]))
    pipeline = draw(st.integers(1, min(4, devices // tensor)))
    data = draw(st.integers(1, devices // (tensor * pipeline)))
    degree = draw(st.sampled_from([d for d in range(1, data + 1) if data % d == 0]))
    sharding = Sharding(stage=draw(st.integers(1, 3)), degree=degree) if degree > 1 else Sharding()
    return plan((*range(pipeline), 8), data=data, tensor=tensor, sharding=sharding, per_node=per_node)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(trees(), st.data())
def test_never_worse_than_rank_i_on_device_i_on_any_tree(where, data):
    devices = usable_devices(where)
    own = data.draw(splits(len(devices), where.groups[0].devices_per_node))
    found = put(own, where)
    assert step_s(found.plan) <= step_s(found.first_fit)
    assert [device_index(where, *place) for place in found.first_fit.ranks] == list(devices[: own.world_size])
    assert violations(found.plan, layers=8, cluster=where) == ()
    met = [place.node for place in found.plan.ranks]
    assert sorted(met, key=list(dict.fromkeys(met)).index) == met
    assert Pricing(GRAPH, where, own.job).predict(found.plan) == found.plan.prediction


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_what_is_placed_over_a_wan_keeps_its_rule(east, west, data):
    """It is refused only where the sites do not hold as many whole groups as there are."""
    where = two_sites(east, west)
    own = data.draw(splits(where.device_count, 2))
    mesh = mesh_of(own)
    group = mesh.degree * mesh.tensor
    if sum(2 * nodes // group for nodes in (east, west)) < mesh.ranks // group:
        with pytest.raises(BadInput, match="only pipeline and data may cross a WAN"):
            put(own, where)
        return
    found = put(own, where)
    assert violations(found.plan, layers=8, cluster=where) == ()
    if found.first_fit is not None:
        assert step_s(found.plan) <= step_s(found.first_fit)


@pytest.mark.parametrize("seed", range(6))
def test_small_trees_are_placed_as_well_as_by_trying_every_order_of_nodes(seed):
    rng = np.random.default_rng(seed)
    count, per_node = int(rng.integers(3, 5)), int(rng.choice([2, 4]))
    where = wired(cluster(count, per_node, nic=10 ** rng.uniform(8, 10)), rng.permutation(count + 2)[:count].tolist())
    where = replace(where, tiers=(Tier(name="leaf", nodes=2), Tier(name="spine", oversubscription=8.0)))
    pipeline = int(rng.integers(2, 4))
    data = count * per_node // pipeline // 2 * 2
    own = plan((*range(pipeline), 8), data=data, sharding=Sharding(stage=1, degree=2), per_node=per_node)
    pricing, mesh = Pricing(GRAPH, where, own.job), mesh_of(own)
    every = [
        Arrangement(order, np.concatenate([np.arange(n * per_node, (n + 1) * per_node) for n in ways])[: mesh.ranks])
        for order in mesh.orders
        for ways in permutations(range(count))
    ]
    least = min(pricing.predict(with_arrangement(own, way, where)).step_time_s for way in every)
    assert step_s(put(own, where).plan) == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_all_that_cross_a_wan_at_once_share_it(replicas, tensor):
    """No border and no sum of gradients passes a WAN faster than all their bytes need there."""
    where, size_bytes = two_sites(4, 4, wan=1e7), 64e6
    fabric = Fabric(attained(where, DEFAULT))
    ranks = replicas * tensor
    across = np.stack([np.arange(ranks), 8 + np.arange(ranks)]).reshape(2, replicas, tensor)
    border = uniform_groups(across, 1, fabric)[0].behind
    assert collective("send", border).seconds(size_bytes / tensor) >= replicas * size_bytes / 1e7
    axes = stage_axes(across[:1], shard=1, expert=1, expert_tensor=1, behind=across[1:], fabric=fabric)
    assert axes.pair == border
    stages = across.transpose(1, 0, 2).reshape(replicas, 2, tensor)
    for groups in uniform_groups(stages, 1, fabric):
        summed = collective("all_reduce", groups.outer).seconds(size_bytes)
        assert summed >= 2 * (1 / 2) * replicas * tensor * size_bytes / 1e7
