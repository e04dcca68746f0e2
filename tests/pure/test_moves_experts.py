"""What moves between plans that deal experts or share sequences: what a rank lacks, and no more."""

from dataclasses import replace

import numpy as np
import pytest

from nebula.cluster.places import exclude
from nebula.cost_model.chain import Chains
from nebula.models.describe import graph
from nebula.plan.values import Job, MadeFrom, Sharding
from nebula.planner.moves import Sizes, layer_sizes, moves
from nebula.planner.replan import replan
from nebula.planner.survivors import survivors
from tests.pure.cost_samples import cluster, plan

LAYERS = 3
SIZES = Sizes(
    cut=(100.0,) * LAYERS,
    whole=(10.0,) * LAYERS,
    weights_bytes=(2.0,) * LAYERS,
    states_bytes=12.0,
    master_bytes=4.0,
    experts=(800.0,) * LAYERS,
)
WHERE = cluster(nodes=1, per_node=4)
EXPERTS_BYTES = LAYERS * 800.0 * 14.0
DENSE_BYTES = LAYERS * 110.0 * 14.0


def with_degrees(data, *, expert=1, context=1, sharding=0):
    """A plan of one stage on data * context ranks."""
    made = plan((0, LAYERS), data=data, tensor=context, per_node=4)
    degrees = Sharding(stage=sharding, degree=data if sharding else 1)
    stage = replace(made.stages[0], expert=expert, context=context, sharding=degrees)
    return replace(made, stages=(stage,))


@pytest.mark.parametrize("degrees", [{"expert": 2}, {"expert": 4, "sharding": 1}, {"context": 2}, {"sharding": 1}])
def test_nothing_moves_where_nothing_changes(degrees):
    own = with_degrees(2 if "context" in degrees else 4, **degrees)
    assert moves(own, own, WHERE, SIZES).total_bytes == 0.0


@pytest.mark.parametrize("expert", [2, 4])
def test_who_holds_all_experts_needs_none_and_who_holds_some_needs_the_others(expert):
    all_of_them, dealt = with_degrees(4), with_degrees(4, expert=expert)
    assert moves(all_of_them, dealt, WHERE, SIZES).total_bytes == 0.0
    back = moves(dealt, all_of_them, WHERE, SIZES)
    assert back.total_bytes == pytest.approx(4 * EXPERTS_BYTES * (1 - 1 / expert))


def test_ranks_that_share_a_sequence_hold_all_that_replicas_hold():
    assert moves(with_degrees(2, context=2), with_degrees(4), WHERE, SIZES).total_bytes == 0.0
    assert moves(with_degrees(1, context=4), with_degrees(4), WHERE, SIZES).total_bytes == 0.0


def test_states_are_shared_by_ranks_of_a_context_group_too():
    shared = moves(with_degrees(2, context=2, sharding=1), with_degrees(4), WHERE, SIZES)
    states = (DENSE_BYTES + EXPERTS_BYTES) * 12.0 / 14.0
    assert shared.total_bytes == pytest.approx(4 * states * 3 / 4)


def test_a_share_of_the_experts_that_one_rank_holds_is_lost_with_it():
    found = np.array([0, 1, 2, -1])
    (dealt,) = survivors(with_degrees(4, expert=4), found)
    (twice,) = survivors(with_degrees(4, expert=2), found)
    assert (dealt.weights_copies, twice.weights_copies) == (0, 1)


def test_sizes_tell_experts_from_the_rest():
    model = graph("ernie-4.5-small", dtype="bfloat16")
    own = replace(plan((0, len(model.layers)), job=Job(global_batch=8, precision="bf16")), sequence_parallel=False)
    for other_tensor in (1, 2):
        sizes = layer_sizes(Chains(model), own, other_tensor)
        assert sum(sizes.cut) + sum(sizes.whole) + sum(sizes.experts) == pytest.approx(model.parameter_count)
        assert min((*sizes.cut, *sizes.whole)) >= 0.0
        assert 0.3 < sum(sizes.experts) / model.parameter_count < 1.0


def test_a_plan_that_deals_experts_is_planned_again_without_a_node():
    model, on = graph("ernie-4.5-small", dtype="bfloat16"), cluster(nodes=3, per_node=2)
    job = Job(global_batch=8, precision="bf16")
    made = plan((0, len(model.layers)), data=4, per_node=2, job=job)
    stage = replace(made.stages[0], expert=4)
    nameless = MadeFrom(model="", model_hash="", cluster="", cluster_hash="")
    old = replace(made, stages=(stage,), engine="executor", made_from=nameless)
    found = replan(model, old, exclude(on, [old.ranks[-1].node]), before=on)
    assert found.plan.ranks
    assert old.ranks[-1].node not in {place.node for place in found.plan.ranks}
    # two idle devices take the place of the lost ones, where other plans are not reached sooner
    assert any(option.plan.stages == old.stages for option in found.options)
