"""Plans whose stages differ in policy, degrees or rows: each stage is priced as in a plan where all are like it."""

from dataclasses import replace

import pytest

from nebula.cost_model.by_stage import ByStage
from nebula.cost_model.eager import paddle_execution
from nebula.cost_model.evaluate import evaluate, predicted_timeline
from nebula.cost_model.executed import plan_memory, predict_executed, predict_priced
from nebula.cost_model.flows import plan_flows
from nebula.cost_model.memory_timeline import memory_timelines
from nebula.cost_model.operations import operation_rows
from nebula.cost_model.step import StepPricing
from nebula.models.describe import decoder_graph
from nebula.plan.job import RECOMPUTE
from nebula.plan.values import Job, Plan, RankPlace, Sharding
from tests.pure.cost_samples import cluster, device, plan
from tests.pure.decoder_samples import GROUPED

MODEL = decoder_graph("dense", replace(GROUPED, layers=6), dtype="float32")
LAYERS = len(MODEL.layers)
FAST = device(memory_bytes=16e9)
ON = cluster(4, 2, kind=FAST)
JOB = Job(global_batch=8)


def pricing(on=ON) -> ByStage:
    return ByStage({policy: StepPricing(MODEL, on, paddle_execution(JOB, on, policy)) for policy in RECOMPUTE})


def two(first="none", second="none", **more) -> Plan:
    """Two stages, on devices of their own."""
    own = plan((0, 3, LAYERS), **({"per_node": 2, "micro_batches": 8, "job": JOB} | more))
    one, other = own.stages
    return replace(own, engine="executor", stages=(replace(one, recompute=first), replace(other, recompute=second)))


@pytest.mark.parametrize("policy", RECOMPUTE)
def test_one_policy_costs_what_it_does_under_its_execution(policy):
    alike = two(policy, policy)
    assert predict_priced(pricing(), alike) == predict_executed(MODEL, ON, alike, paddle_execution(JOB, ON, policy))


def test_a_stage_is_priced_under_its_own_policy():
    at, plans = pricing(), (two("full", "none"), two(), two("full", "full"))
    unlike, none, full = (at.step(one).stages for one in plans)
    assert unlike == (full[0], none[1])
    held, plain, again = (plan_memory(at, one) for one in plans)
    assert held == (again[0], plain[1])
    assert again[0].total_bytes < plain[0].total_bytes


def test_virtual_stages_of_one_device_may_have_policies_of_their_own():
    own = two(micro_batches=8)
    halves = tuple(replace(stage, layers=(a, a + 2)) for a, stage in zip((0, 2, 4, 6), own.stages * 2, strict=True))
    halves = (*halves[:3], replace(halves[3], layers=(6, LAYERS)))
    whole = replace(own, schedule="interleaved", stages=halves)
    part = replace(whole, stages=(replace(halves[0], recompute="full"), *halves[1:]))
    every = replace(whole, stages=tuple(replace(stage, recompute="full") for stage in halves))
    least, some, most = (evaluate(MODEL, ON, one) for one in (whole, part, every))
    assert least.step_time_s < some.step_time_s < most.step_time_s
    assert least.memory[0].total_bytes > some.memory[0].total_bytes > most.memory[0].total_bytes
    assert some.memory[1] == least.memory[1]
    assert some.memory[0] == some.memory[2]
    timeline = predicted_timeline(MODEL, ON, part)
    shown = memory_timelines(MODEL, ON, replace(part, prediction=some), timeline)
    assert [len(one.stages) for one in shown] == [2, 2]
    assert operation_rows(MODEL, ON, replace(part, prediction=some))
    assert sum(flow.sent_bytes for flow in plan_flows(MODEL, ON, part)) > 0


def test_a_stage_of_another_tensor_degree_costs_what_it_does_among_its_like():
    at = pricing()
    wide = plan((0, 3, LAYERS), tensor=2, rows=2, micro_batches=4, per_node=2, job=JOB, sequence_parallel=True)
    flat = plan((0, 3, LAYERS), data=2, rows=1, micro_batches=4, per_node=2, job=JOB)
    flat = replace(flat, stages=tuple(replace(s, sharding=Sharding()) for s in flat.stages))
    # the second stage of both is on the second node
    both = replace(wide, stages=(wide.stages[0], replace(flat.stages[1], replicas=_on(flat.stages[1], (2, 3)))))
    found, among = plan_memory(at, both), (plan_memory(at, wide), plan_memory(at, flat))
    assert found == (among[0][0], among[1][1])
    assert at.step(both).stages[0].compute_s == at.step(wide).stages[0].compute_s
    assert at.step(both).stages[1].compute_s == at.step(flat).stages[1].compute_s


def _on(stage, ranks):
    return tuple(replace(replica, ranks=(rank,)) for replica, rank in zip(stage.replicas, ranks, strict=True))


def test_replicas_on_unlike_devices_wait_for_the_slowest_and_rows_follow_speed():
    quick = device(memory_bytes=16e9, peak_flops={"float32": 4e9}, memory_bytes_per_s=4e8)
    slow = device(name="e", memory_bytes=2e9, peak_flops={"float32": 1e9}, memory_bytes_per_s=1e8)
    one, other = cluster(1, 2, kind=quick), cluster(1, 2, kind=slow)
    on = replace(one, groups=(one.groups[0], replace(other.groups[0], name="m")))
    at = pricing(on)
    base = plan((0, LAYERS), data=2, rows=4, micro_batches=1, job=JOB)
    base = replace(base, ranks=(RankPlace("n/0", 0), RankPlace("m/0", 0)), engine="executor")

    def dealt(fast_rows, slow_rows):
        first, second = base.stages[0].replicas
        replicas = (replace(first, micro_batch_rows=fast_rows), replace(second, micro_batch_rows=slow_rows))
        return replace(base, stages=(replace(base.stages[0], replicas=replicas),))

    even, fitting = at.step(dealt(4, 4)).step_s, at.step(dealt(6, 2)).step_s
    assert fitting < even
    assert at.step(dealt(2, 6)).step_s > even
    (held,) = plan_memory(at, dealt(6, 2))
    assert held.limit_bytes == pytest.approx(JOB.memory_fraction * 2e9)
    assert held.activations_bytes == 0.0  # few rows, so that it is fullest when gradients are summed
    (some,), (most,) = (plan_memory(at, dealt(*rows)) for rows in ((4, 4), (2, 6)))
    assert most.activations_bytes == pytest.approx(1.5 * some.activations_bytes)
