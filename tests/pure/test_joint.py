"""Plans whose stages span device types: rows follow speed, nothing of the batch is lost, kinds stay apart."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nebula.cost_model.executed import predict_priced
from nebula.plan.job import Objective
from nebula.plan.legality import executable, violations
from nebula.plan.values import Job
from nebula.planner.explore.baselines import alone, as_slowest
from nebula.planner.explore.joint import joint, kinds_of, shared_rows
from nebula.planner.explore.refine import pricing_of
from nebula.planner.explore.search import explore
from nebula.planner.options import fits
from tests.pure.cost_samples import plan
from tests.pure.test_baselines import HALF, never, types
from tests.pure.test_explore import DENSE

FLAT = Objective(fixed={"pipeline": 1, "recompute": "none"})
"""Splits without a pipeline, which devices of two types can share by their rows alone."""


def answered(on, batch, objective=FLAT):
    asked = (DENSE, on, Job(global_batch=batch), objective)
    found = explore(*asked)
    return asked, found, joint(found, as_slowest(*asked, never).plans, DENSE, on, objective)


@given(st.integers(1, 64), st.integers(1, 4), st.integers(1, 4))
def test_every_share_of_the_rows_keeps_the_batch(batch, fast, slow):
    whole = plan((0, 6), data=fast + slow, rows=1, micro_batches=1, job=Job(global_batch=batch))
    kinds = [("a",)] * fast + [("b",)] * slow
    shares = list(shared_rows(whole, kinds, {}))
    for one in shares:
        rows = [replica.micro_batch_rows for replica in one.stages[0].replicas]
        assert one.micro_batches * sum(rows) == batch
        assert min(rows) >= 1
        assert (len(set(rows[:fast])), len(set(rows[fast:]))) == (1, 1)
    assert len({(one.micro_batches, one.stages) for one in shares}) == len(shares)
    shareable = any(_whole(batch // m, fast, slow) for m in range(1, batch + 1) if batch % m == 0)
    assert bool(shares) == shareable
    assert list(shared_rows(whole, kinds, {"micro_batch_rows": 1})) == []
    assert list(shared_rows(whole, [("a",)] * len(kinds), {})) == []


def _whole(rows, fast, slow):
    """Whether replicas of both kinds can have up to 16 rows each, of which all together are so many."""
    return any(fast * a + slow * b == rows for a in range(1, 17) for b in range(1, 17))


def test_replicas_on_slower_devices_get_fewer_rows_and_the_answer_says_so():
    on = types({}, HALF)
    # stages 2 and 3, which no engine runs on unequal rows, may be faster
    asked, found, better = answered(on, 48, Objective(fixed={**FLAT.fixed, "sharding": 1}))
    chosen = better.plan
    rows = {kind: r.micro_batch_rows for kind, r in zip(kinds_of(chosen, on), chosen.stages[0].replicas, strict=True)}
    assert rows["type 0",] == 2 * rows["type 1",]
    assert chosen.prediction == predict_priced(pricing_of(DENSE, on, asked[2]), chosen)
    assert chosen.prediction.step_time_s < 0.8 * found.plan.prediction.step_time_s
    assert chosen.prediction.step_time_s < min(each.step_s for each in alone(*asked, never))
    assert fits(chosen)
    assert violations(chosen, layers=len(DENSE.layers), cluster=on) == ()
    assert executable(chosen, "npu").engine == "executor"
    assert " rows) · tensor" in chosen.split
    assert chosen.because.startswith("Stages span device types, with rows of a micro-batch for each replica: ")
    assert "covers the plans whose stages lie on one type each: this plan is faster" in better.notes[0]
    assert (chosen.bound_s, better.gap) == (0.0, 0.0)


def test_devices_as_fast_share_alike_though_one_type_has_less_memory():
    on = types({}, {"memory_bytes": 8e9})
    _, _, better = answered(on, 24)
    assert len({replica.micro_batch_rows for replica in better.plan.stages[0].replicas}) == 1
    assert set(kinds_of(better.plan, on)) == {("type 0",), ("type 1",)}


def test_kinds_without_a_common_communicator_share_no_stage():
    on = types({}, {"kind": "gpu"})
    _, found, better = answered(on, 24)
    assert better == found


def test_a_plan_that_is_no_faster_leaves_the_answer_as_it_was():
    asked, found, _ = answered(types({}, HALF), 24)
    poor = replace(found, plan=replace(found.plan, prediction=replace(found.plan.prediction, step_time_s=1e-9)))
    assert joint(poor, as_slowest(*asked, never).plans, DENSE, asked[1], FLAT) == poor
