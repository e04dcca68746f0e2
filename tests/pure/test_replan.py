"""Re-planning: no lost node is used, nothing changes without need, and what it costs to get there is weighed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from nebula.cluster.places import exclude
from nebula.cost_model.evaluate import evaluate
from nebula.errors import BadInput, Infeasible
from nebula.plan.conditions import Reliability
from nebula.plan.job import Objective
from nebula.plan.legality import violations
from nebula.plan.values import Job, MadeFrom, Sharding
from nebula.planner.moves import devices_of
from nebula.planner.options import Option, break_even_steps
from nebula.planner.replan import Replanner, replan
from nebula.planner.search import search
from nebula.planner.survivors import survivors
from tests.pure.cost_samples import chain, cluster, device, plan

GRAPH, JOB = chain(6), Job(global_batch=16)
WHERE = cluster(nodes=4, per_node=2, nic=5e9)
ANY = MadeFrom(model="", model_hash="", cluster="", cluster_hash="")


@pytest.fixture(scope="module")
def planned():
    return search(GRAPH, WHERE, JOB).plan


@pytest.fixture(scope="module")
def kept(planned):
    return Replanner(GRAPH, WHERE, planned).warm()


def without(*nodes):
    return exclude(WHERE, [f"n/{node}" for node in nodes])


def test_the_same_cluster_brings_the_same_plan_back(planned, kept):
    for answer in (kept.replan(WHERE), replan(GRAPH, planned, WHERE)):
        assert answer.plan is planned
        assert (answer.moves.total_bytes, answer.looked, answer.lost) == (0.0, "kept", ())


@pytest.mark.parametrize("lost", [(0,), (1,), (3,), (0, 2), (1, 2, 3)])
@pytest.mark.parametrize("patience_s", [0.0, math.inf])
def test_a_lost_node_is_never_used_and_every_option_is_legal(planned, kept, lost, patience_s):
    left = without(*lost)
    answer = kept.replan(left, patience_s=patience_s)
    assert answer.plan.stages == answer.options[0].plan.stages
    assert set(answer.lost) == {f"n/{node}" for node in lost} & {place.node for place in planned.ranks}
    for option in answer.options:
        own = option.plan
        assert violations(own, layers=6, cluster=left) == ()
        assert own.prediction == evaluate(GRAPH, left, own)
        assert all(held.total_bytes <= held.limit_bytes for held in own.prediction.memory)
        assert own.job.global_batch == JOB.global_batch
    assert [o.effective_step_s for o in answer.options] == sorted(o.effective_step_s for o in answer.options)


@pytest.mark.parametrize("lost", [(0,), (1, 2)])
def test_patience_finds_no_slower_plan_than_a_search(kept, lost):
    left = without(*lost)
    best_s = search(GRAPH, left, JOB).plan.prediction.step_time_s
    quick, patient = kept.replan(left), kept.replan(left, patience_s=math.inf)
    assert patient.looked == "all"
    assert quick.looked == "near"
    assert min(o.step_s for o in patient.options) <= best_s * (1 + 1e-9)
    assert patient.options[0].effective_step_s <= quick.options[0].effective_step_s * (1 + 1e-9)


def test_an_idle_node_takes_the_place_of_a_lost_one_and_only_it_receives():
    own = plan((0, 3, 6), data=2, micro_batches=8, per_node=2, job=JOB, made_from=ANY)
    answer = replan(GRAPH, own, exclude(WHERE, ["n/0"]), objective=Objective(fixed={"data": 2, "pipeline": 2}))
    option = next(o for o in answer.options if o.plan.stages == own.stages and o.plan.ranks[2:] == own.ranks[2:])
    assert {place.node for place in option.plan.ranks[:2]} <= {"n/2", "n/3"}
    assert option.moves.by_rank[2:] == (0.0, 0.0)
    assert min(option.moves.by_rank[:2]) > 0


def test_fixed_degrees_stay_fixed(kept):
    for fixed in ({"data": 2}, {"tensor": 2}, {"pipeline": 2}, {"recompute": "full"}):
        own = replan(GRAPH, kept.plan, without(0), objective=Objective(fixed=fixed)).plan
        first = own.stages[0]
        found = {"data": first.data, "tensor": first.tensor, "pipeline": len(own.stages), "recompute": first.recompute}
        assert found | fixed == found


def test_slow_moving_keeps_the_plan_that_moves_little():
    # links so slow, and a change so soon, that a faster step is not worth the way
    slow = cluster(nodes=4, per_node=2, nic=2e6, intra=1e7)
    own = search(GRAPH, slow, JOB).plan
    left = exclude(slow, [own.ranks[0].node])
    hasty = replan(GRAPH, own, left, reliability=Reliability(repair_s=1.0), patience_s=math.inf)
    calm = replan(GRAPH, own, left, reliability=Reliability(repair_s=1e9), patience_s=math.inf)
    assert hasty.moves.seconds <= calm.moves.seconds
    assert calm.options[0].step_s <= hasty.options[0].step_s


def test_steps_to_break_even():
    own = plan(made_from=ANY)
    prediction = evaluate(GRAPH, WHERE, own)
    quick = replace(own, prediction=replace(prediction, step_time_s=1.0))
    slow = replace(own, prediction=replace(prediction, step_time_s=1.5))
    none = Replanner(GRAPH, WHERE, own).replan(WHERE).moves
    far, here = replace(none, network_s=10.0), replace(none, network_s=2.0)
    a = Option(plan=quick, moves=far, horizon_s=100.0)
    b = Option(plan=slow, moves=here, horizon_s=100.0)
    assert break_even_steps(a, b) == pytest.approx(16)
    assert 10.0 + 16 * 1.0 == 2.0 + 16 * 1.5
    assert break_even_steps(b, a) == 0.0
    assert break_even_steps(replace(b, moves=far), replace(a, moves=here)) == math.inf
    assert a.effective_step_s == pytest.approx(1.0 / 0.9)


def test_a_node_that_joins_is_used(planned):
    larger = cluster(nodes=8, per_node=2, nic=5e9)
    answer = replan(GRAPH, planned, larger, before=WHERE)
    assert answer.lost == ()
    assert answer.options[0].step_s <= planned.prediction.step_time_s
    assert answer.plan.made_from.cluster_hash != planned.made_from.cluster_hash


def test_the_reason_names_what_is_lost_and_what_moves(kept):
    because = kept.replan(without(1)).plan.because
    assert because.startswith("n/1 is lost with 2 of 8 ranks: ")
    assert " a step (before: " in because
    assert "moves " in because
    assert because.endswith(".")


def test_mistakes_are_refused(planned):
    with pytest.raises(BadInput, match="6 layers"):
        replan(chain(5), replace(planned, made_from=replace(planned.made_from, model_hash="")), WHERE)
    with pytest.raises(BadInput, match="made for model"):
        replan(chain(5), planned, WHERE)
    with pytest.raises(BadInput, match="minimise"):
        replan(GRAPH, planned, without(0), objective=Objective(minimise="cost"))
    with pytest.raises(BadInput, match="did you mean 'tensor'"):
        replan(GRAPH, planned, without(0), objective=Objective(fixed={"tensr": 2}))
    with pytest.raises(BadInput, match="no device"):
        replan(GRAPH, planned, without(0, 1, 2, 3))


def test_what_does_not_fit_is_said_with_a_remedy():
    small = cluster(nodes=2, per_node=2, kind=device(memory_bytes=1.4e6), nic=5e9)
    graph = chain(6, hidden=64, tokens=32)
    own = search(graph, small, Job(global_batch=4)).plan
    with pytest.raises(Infeasible):
        replan(graph, own, exclude(small, ["n/0"]))


def test_what_survives_is_told_by_stage():
    own = plan((0, 3, 6), data=2, per_node=2, micro_batches=8, job=JOB, sharding=Sharding(stage=1, degree=2))
    # ranks 0 and 1 hold stage 0, one shard of its states each; node n/0 holds both
    assert [stage.ranks for stage in own.stages] == [(0, 1), (2, 3)]
    gone, here = survivors(own, devices_of(own, without(0)))
    assert (gone.ranks, gone.weights_copies, gone.states_copies, gone.lost_shards) == ((), 0, 0, ((0, 0), (0, 1)))
    assert (here.ranks, here.weights_copies, here.states_copies, here.lost_shards) == ((2, 3), 2, 1, ())


def test_a_shard_that_survives_nowhere_sends_training_back_to_the_checkpoint():
    own = plan((0, 6), data=4, per_node=2, job=JOB, made_from=ANY, sharding=Sharding(stage=1, degree=4))
    answer = replan(GRAPH, own, without(0), reliability=Reliability(storage_bytes_per_s=1e6))
    assert all(option.moves.rolls_back for option in answer.options)
    assert "from the last checkpoint" in answer.plan.because
    unsharded = replan(GRAPH, plan((0, 6), data=4, per_node=2, job=JOB, made_from=ANY), without(0))
    assert not any(option.moves.rolls_back for option in unsharded.options)


def test_a_search_that_takes_too_long_is_given_up(kept):
    ticks = iter(range(10**6))
    hasty = Replanner(GRAPH, WHERE, kept.plan, clock=lambda: float(next(ticks)))
    answer = hasty.replan(without(0), patience_s=3.0)
    assert answer.plan.stages == kept.replan(without(0)).plan.stages


def test_a_slow_node_is_weighed_with_its_slowness(planned):
    slow = replace(WHERE, groups=(replace(WHERE.groups[0], slow=((1, 3.0),)),))
    answer = replan(GRAPH, planned, slow, before=WHERE)
    assert answer.lost == ()
    assert answer.plan.prediction == evaluate(GRAPH, slow, answer.plan)
    assert answer.options[0].step_s <= evaluate(GRAPH, slow, planned).step_time_s
    assert answer.plan.because.startswith("The cluster changed: ")


def test_a_plan_stays_on_its_devices_when_others_would_now_compute_more():
    # 4 fast nodes compute more than 7 of half their speed, 3 less
    fast = WHERE.groups[0]
    slow = replace(fast, name="s", count=7, device=device(name="half", peak_flops={"float32": 0.5e12}))
    where = replace(WHERE, groups=(fast, slow))
    own = search(GRAPH, where, JOB).plan
    assert {place.node[0] for place in own.ranks} == {"n"}
    answer = replan(GRAPH, own, exclude(where, ["n/3"]), before=where)
    assert {place.node[0] for place in answer.plan.ranks} == {"n"}
    patient = replan(GRAPH, own, exclude(where, ["n/3"]), before=where, patience_s=math.inf)
    assert patient.options[0].effective_step_s <= answer.options[0].effective_step_s
    gone = replan(GRAPH, own, exclude(where, ["n"]), before=where)
    assert {place.node[0] for place in gone.plan.ranks} == {"s"}
