"""Two plans side by side: which is better by which term, what differs, and what must be known beforehand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.plan.job import Objective
from nebula.plan.values import Job, Plan, RankPlace, Sharding
from nebula.planner.compare import NEITHER, compare, judge
from nebula.planner.explain import TERMS
from nebula.planner.search import search
from tests.pure.cost_samples import chain, cluster, plan
from tests.pure.report_samples import prediction

NAMES = ("a", "b")
SECONDS = st.floats(0.01, 100)


@pytest.fixture(scope="module")
def two() -> tuple[Plan, Plan]:
    graph, where, job = chain(6), cluster(nodes=2, per_node=4, nic=5e9), Job(global_batch=16)
    return search(graph, where, job).plan, search(graph, where, job, Objective(fixed={"pipeline": 3})).plan


def test_the_faster_plan_is_named_with_the_term_that_the_other_loses_by(two):
    first, second = two
    found = compare(first, second, NAMES)
    judged, won, lost = found.judgement, first.prediction, second.prediction
    behind = {name: of(lost.parts) - of(won.parts) for name, of in TERMS}
    assert judged.better == 0
    assert judged.term_s == pytest.approx(max(behind.values())) == pytest.approx(behind[judged.term])
    assert judged.verdict.startswith("a is faster: ")
    assert f"{1 - won.step_time_s / lost.step_time_s:.1%} less" in judged.verdict
    assert judged.term in judged.verdict
    assert not any("unlike" in note or "not known" in note for note in found.notes)


def test_exchanged_plans_are_told_the_other_way_round(two):
    forth, back = compare(*two, NAMES), compare(two[1], two[0], NAMES[::-1])
    assert forth.judgement.verdict == back.judgement.verdict
    assert forth.judgement.better == 1 - back.judgement.better
    assert forth.judgement.more_s == -back.judgement.more_s
    assert [(d.subject, d.second, d.first) for d in back.differences] == list(forth.differences)


def test_every_degree_that_differs_is_listed_and_no_other(two):
    first, second = two
    subjects = {difference.subject: difference for difference in compare(first, second, NAMES).differences}
    assert subjects["pipeline"][1:] == (str(len(first.stages)), "3")
    assert ("tensor" in subjects) == (first.stages[0].tensor != second.stages[0].tensor)
    assert compare(first, first, NAMES).differences == ()


@given(SECONDS, SECONDS, st.integers(1, 64))
def test_what_trains_more_tokens_is_faster_whatever_its_step(step_s, other_s, times):
    one = prediction(2, memory_gib=20, step_time_s=step_s)
    more = prediction(2, memory_gib=20, step_time_s=other_s)
    more = replace(more, tokens_per_s=times * more.tokens_per_s)
    judged = judge(one, more, NAMES)
    if judged.better != NEITHER:
        assert judged.better == int(more.tokens_per_s > one.tokens_per_s)
        assert judged.term_s > 0
        assert ("tokens/s against" in judged.verdict) == (times > 1)


def test_equal_rates_have_no_winner():
    one = prediction(2, memory_gib=20)
    assert judge(one, one, NAMES).better == NEITHER
    assert "as fast" in judge(one, one, NAMES).verdict


def test_a_plan_that_does_not_fit_is_never_better():
    fast = replace(plan(), prediction=prediction(1, memory_gib=40, step_time_s=0.1))
    slow = replace(plan(), prediction=prediction(1, memory_gib=20, step_time_s=9.0))
    judged = compare(fast, slow, NAMES).judgement
    assert (judged.better, judged.term) == (1, "memory")
    assert judged.verdict == "b is better: of a stage 0 needs 40 GiB > 32 GiB of a device."
    assert compare(fast, fast, NAMES).judgement.better == NEITHER


def test_a_missing_prediction_is_said_and_nothing_is_judged(two):
    found = compare(two[0], replace(two[1], prediction=None), NAMES)
    assert found.judgement.better == NEITHER
    assert "not known" in found.judgement.verdict
    assert found.notes[0].startswith("b holds no prediction")
    assert found.differences


@pytest.mark.parametrize("what", ["model", "cluster"])
def test_other_origins_are_said_with_both_hashes(two, what):
    first, second = two
    other = replace(second, made_from=replace(second.made_from, **{f"{what}_hash": "f" * 12}))
    found = compare(first, other, NAMES)
    own = getattr(first.made_from, f"{what}_hash")
    assert any(f"unlike {what}s" in note and own in note and "f" * 12 in note for note in found.notes)
    assert ("unlike models" in found.judgement.verdict) == (what == "model")
    silent = replace(second, made_from=replace(second.made_from, **{f"{what}_hash": ""}))
    assert (
        f"Whether both are for one {what} is not known: b names no hash of it." in compare(first, silent, NAMES).notes
    )


def test_other_jobs_are_said(two):
    other = replace(two[1], job=replace(two[1].job, global_batch=32))
    assert "They are for unlike jobs: global_batch 16 and 32." in compare(two[0], other, NAMES).notes


def test_ranges_that_overlap_are_said():
    near, far = (replace(plan(), prediction=prediction(1, memory_gib=9, step_time_s=s)) for s in (1.1, 3.0))
    one = replace(plan(), prediction=prediction(1, memory_gib=9))
    assert any("overlap" in note for note in compare(one, near, NAMES).notes)
    assert not any("overlap" in note for note in compare(one, far, NAMES).notes)


def test_stages_and_ranks_that_differ_are_named():
    one, other = plan((0, 2, 4, 6)), plan((0, 1, 4, 6))
    moved = replace(other, ranks=(*other.ranks[:2], RankPlace("n/1", 5)))
    found = compare(one, moved, NAMES).differences
    assert found == (
        ("layers of stage 0", "0–1", "0"),
        ("layers of stage 1", "2–3", "1–3"),
        ("place of rank 2", "n/0 device 2", "n/1 device 5"),
    )


def test_many_stages_that_differ_are_counted():
    found = compare(plan(tuple(range(0, 22, 2))), plan((0, 1, *range(3, 19, 2), 20)), NAMES).differences
    assert [d.subject for d in found] == [*(f"layers of stage {i}" for i in range(4)), "layers of 6 more stages"]


def test_a_stage_that_is_held_otherwise_than_the_first_is_named():
    one = plan((0, 3, 6), data=2)
    last = replace(one.stages[1], recompute="full", sharding=Sharding(stage=1, degree=2))
    found = compare(one, replace(one, stages=(one.stages[0], last)), NAMES).differences
    assert found == (("split of stage 1", "as the first", "sharding 1 over 2 · recompute full"),)
