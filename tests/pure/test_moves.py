"""What moves between two plans: nothing where nothing changes, what is lacking elsewhere, from storage what is lost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cluster.places import exclude
from nebula.cost_model.chain import Chains
from nebula.errors import BadInput
from nebula.plan.conditions import Reliability
from nebula.plan.values import Job, Sharding
from nebula.planner.moves import Sizes, layer_sizes, moves
from tests.pure.candidate_samples import plans, random_candidates
from tests.pure.cost_samples import chain, cluster, plan

NODES, PER_NODE, LAYERS = 4, 4, 6
JOB = Job(global_batch=16, precision="bf16")
WHERE = cluster(nodes=NODES, per_node=PER_NODE)
SIZES = Sizes(
    cut=tuple(100.0 + i for i in range(LAYERS)),
    whole=tuple(10.0 + i for i in range(LAYERS)),
    weights_bytes=(2.0,) * LAYERS,
    states_bytes=12.0,
    master_bytes=4.0,
)


def random_plan(rng: random.Random):
    drawn = random_candidates(rng, 1, 1, LAYERS, NODES * PER_NODE, JOB)
    return next(iter(plans(drawn, WHERE, JOB).values()))


def holdings(own):
    """For each rank and layer what it holds: kind, bytes an element, and its part of both sides."""
    found = {}
    for stage in own.stages:
        degree, zero = stage.sharding.degree, stage.sharding.stage
        for index, replica in enumerate(stage.replicas):
            for place, rank in enumerate(replica.ranks):
                across = (place / len(replica.ranks), (place + 1) / len(replica.ranks))
                for layer in range(*stage.layers):
                    for kind, least, size in (("weights", 3, 2.0), ("states", 1, 12.0)):
                        parts = degree if zero >= least else 1
                        along = (index % parts / parts, (index % parts + 1) / parts)
                        found[rank, layer, kind] = size, across, along
    return found


def bytes_of(layer, size, across, along):
    return size * (SIZES.cut[layer] * (across[1] - across[0]) + SIZES.whole[layer]) * (along[1] - along[0])


def common(one, other):
    low, high = max(one[0], other[0]), min(one[1], other[1])
    return low, max(low, high)


def needs(own):
    """Bytes that each rank holds, added up from the definition."""
    total = dict.fromkeys(range(own.world_size), 0.0)
    for (rank, layer, _), part in holdings(own).items():
        total[rank] += bytes_of(layer, *part)
    return total


def lacks(before, after):
    """Bytes that each rank needs and the same rank did not hold before."""
    had, total = holdings(before), needs(after)
    for (rank, layer, kind), (size, across, along) in holdings(after).items():
        if (rank, layer, kind) in had:
            _, old_across, old_along = had[rank, layer, kind]
            both = common(along, old_along)
            cut = common(across, old_across)
            total[rank] -= size * (both[1] - both[0]) * (SIZES.cut[layer] * (cut[1] - cut[0]) + SIZES.whole[layer])
    return total


seeds = st.integers(0, 10**6)


@given(seeds)
def test_nothing_moves_when_the_plan_does_not_change(seed):
    own = random_plan(random.Random(seed))
    way = moves(own, own, WHERE, SIZES)
    assert (way.total_bytes, way.seconds, way.levels) == (0.0, 0.0, ())


@given(seeds)
def test_what_every_rank_receives_is_what_its_device_lacked(seed):
    rng = random.Random(seed)
    before, after = random_plan(rng), random_plan(rng)
    way = moves(before, after, WHERE, SIZES)
    received = way.by_rank or (0.0,) * after.world_size
    lacking = lacks(before, after)
    assert received == pytest.approx([lacking[rank] for rank in range(after.world_size)], abs=1e-6)
    assert sum(received) == pytest.approx(way.total_bytes)
    assert way.weights_bytes + way.master_bytes + way.moments_bytes == pytest.approx(way.total_bytes)
    assert way.lost_bytes == 0.0


@given(seeds, st.integers(0, NODES - 1))
def test_what_is_lost_is_read_once_and_all_ranks_get_their_state(seed, node):
    rng = random.Random(seed)
    before, after = random_plan(rng), random_plan(rng)
    left = exclude(WHERE, [f"n/{node}"])
    used = {place.node for place in after.ranks}
    if f"n/{node}" in used:
        with pytest.raises(BadInput, match=f"n/{node}"):
            moves(before, after, left, SIZES)
        return
    way = moves(before, after, left, SIZES, Reliability(storage_bytes_per_s=100.0))
    if way.rolls_back:
        assert way.levels[-1].name == "storage"
        assert way.levels[-1].total_bytes == pytest.approx(SIZES.total_bytes)
        assert way.storage_s == pytest.approx(SIZES.total_bytes / 100.0)
        assert way.total_bytes == pytest.approx(sum(needs(after).values()))
    else:
        assert way.storage_s == 0.0


def test_a_copy_of_an_unsharded_stage_comes_from_the_node_beside_it_and_a_lost_shard_from_storage():
    whole = plan((0, LAYERS), data=4, per_node=1)
    where = cluster(nodes=5, per_node=1)
    spare = plan((0, LAYERS), data=4, per_node=1, ranks=(*whole.ranks[1:], whole.ranks[0]._replace(node="n/4")))
    left = exclude(where, ["n/0"])
    copied = moves(whole, spare, left, SIZES)
    assert [(level.name, level.total_bytes) for level in copied.levels] == [("spine", SIZES.total_bytes)]
    assert copied.by_rank == (0.0, 0.0, 0.0, SIZES.total_bytes)
    cut = plan((0, LAYERS), data=4, per_node=1, sharding=Sharding(stage=1, degree=4))
    after = plan((0, LAYERS), data=4, per_node=1, sharding=Sharding(stage=1, degree=4), ranks=spare.ranks)
    assert moves(cut, after, left, SIZES).lost_bytes == pytest.approx(sum(SIZES.cut + SIZES.whole) * 12.0 / 4)


def test_seconds_are_those_of_the_busiest_device():
    where = cluster(nodes=2, per_node=2, intra=100.0, nic=10.0)
    one = plan((0, LAYERS), data=1, per_node=2)
    two = plan((0, LAYERS), data=2, per_node=2)
    four = plan((0, LAYERS), data=4, per_node=2)
    inside, outside = moves(one, two, where, SIZES), moves(one, four, where, SIZES)
    assert inside.seconds == pytest.approx(SIZES.total_bytes / 100.0)
    # one device sends both copies of the other node
    assert outside.seconds == pytest.approx(2 * SIZES.total_bytes / 10.0)


def test_sizes_are_those_of_the_graph():
    graph = chain(3)
    sizes = layer_sizes(Chains(graph), plan((0, 3), tensor=2, job=JOB))
    assert sum(sizes.cut) + sum(sizes.whole) == pytest.approx(graph.parameter_count)
    # of a feed-forward block the second bias is held whole
    assert sizes.whole == pytest.approx((64.0,) * 3)
    assert (sizes.states_bytes, sizes.master_bytes) == (12.0, 4.0)
