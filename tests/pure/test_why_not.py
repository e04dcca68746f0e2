"""Why another split is not the plan: contradictions in their smallest set, memory by stage and byte, time by term."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cost_model.evaluate import evaluate
from nebula.errors import BadInput
from nebula.plan.degrees import degrees_of, parse_degrees
from nebula.plan.job import FIXABLE, RECOMPUTE, Objective
from nebula.plan.values import Job
from nebula.planner.contradiction import contradictions, first_fault, multiples
from nebula.planner.explain import TERMS
from nebula.planner.placed_answer import placed_search
from nebula.planner.setting import Setting, setting_of
from nebula.planner.why_not import why_not
from tests.pure.cost_samples import chain, cluster, device

GRAPH, WHERE, JOB = chain(6), cluster(nodes=2, per_node=4, nic=5e9), Job(global_batch=16)


def ground(graph=GRAPH, where=WHERE, job=JOB, **objective) -> Setting:
    return setting_of(graph, where, job, Objective(**objective))


@pytest.fixture(scope="module")
def best():
    return placed_search(GRAPH, WHERE, JOB).plan


DEGREES = {
    **{name: st.integers(1, 18) for name in ("data", "tensor", "pipeline", "sharding_degree", "micro_batch_rows")},
    "sharding": st.integers(0, 3),
    "recompute": st.sampled_from(["none", "full"]),
}


@settings(max_examples=80, deadline=None)
@given(st.fixed_dictionaries({}, optional=DEGREES))
def test_what_contradicts_is_a_smallest_set_with_remedies_that_hold(degrees):
    setting = ground()
    found = contradictions(setting, degrees)
    assert bool(found) == (first_fault(setting, degrees) is not None)
    assert [len(each.degrees) for each in found] == sorted(len(each.degrees) for each in found)
    for each in found:
        assert each.degrees.items() <= degrees.items()
        for name in each.degrees:
            rest = {other: value for other, value in each.degrees.items() if other != name}
            assert first_fault(setting, rest) is None
        for name, value in re.findall(r"(?<![.\w])(\w+)=(\d+) would do", "; ".join(each.remedies)):
            assert first_fault(setting, {**each.degrees, name: int(value)}) is None


def test_degrees_that_need_more_ranks_than_devices_are_named_with_their_product(best):
    found = why_not(ground(), best, {"recompute": "none", "tensor": 4, "data": 16})
    assert (found.outcome, found.rule) == ("contradiction", "devices")
    assert found.sentence == "Data 16 > 8 devices."
    found = why_not(ground(), best, {"recompute": "none", "tensor": 4, "data": 8})
    assert found.sentence == "Tensor 4, data 8 contradict: data 8 × tensor 4 = 32 > 8 devices."
    assert found.remedies == ("tensor=1 would do", "data=2 would do", "32 devices would do")


def test_a_batch_that_is_not_divided_names_the_next_ones(best):
    found = why_not(ground(), best, {"data": 3})
    assert (found.rule, found.sentence) == ("batch", "Data 3 is impossible here: global_batch 16 % data 3 = 1.")
    assert "job.global_batch=15 or 18 would do" in found.remedies
    for batch in (15, 18):
        assert contradictions(ground(job=Job(global_batch=batch)), {"data": 3}) == ()


@given(st.integers(1, 10**6), st.integers(1, 10**4))
def test_multiples_enclose_a_number(number, factor):
    below, above = multiples(number, factor)
    assert below <= number < above == below + factor
    assert below % factor == above % factor == 0


@pytest.mark.parametrize("degrees", [{"tensor": 4}, {"pipeline": 3, "recompute": "full"}, {"data": 2, "sharding": 1}])
def test_what_is_slower_is_the_best_of_its_kind_and_the_term_is_the_largest_difference(best, degrees):
    found = why_not(ground(), best, degrees)
    (other,) = found.plans
    assert other == placed_search(GRAPH, WHERE, JOB, Objective(fixed=degrees)).plan
    assert degrees.items() <= degrees_of(other).items()
    assert found.outcome == "slower"
    assert found.more_s == pytest.approx(other.prediction.step_time_s - best.prediction.step_time_s)
    behind = {name: of(other.prediction.parts) - of(best.prediction.parts) for name, of in TERMS}
    assert found.term_more_s == max(behind.values()) == behind[found.term]
    assert f"more {found.term}." in found.sentence
    assert other.split in found.sentence


def test_what_does_not_fit_names_the_stage_the_bytes_and_what_would_do():
    graph, kind, job = chain(4, hidden=128, tokens=128), device(memory_bytes=6e6), Job(global_batch=8)
    where = cluster(per_node=4, kind=kind)
    plan = placed_search(graph, where, job).plan
    degrees = {"sharding": 0, "pipeline": 1, "tensor": 1}
    found = why_not(ground(graph, where, job), plan, degrees)
    (leanest,) = found.plans
    held = evaluate(graph, where, leanest).memory[found.stage]
    assert (found.outcome, found.rule) == ("memory", "memory")
    assert found.over_bytes == pytest.approx(held.total_bytes - kind.memory_bytes * job.memory_fraction)
    assert found.over_bytes > 0
    for policy in RECOMPUTE:
        same = replace(leanest, stages=tuple(replace(stage, recompute=policy) for stage in leanest.stages))
        assert max(m.total_bytes for m in evaluate(graph, where, same).memory) >= held.total_bytes
    assert f"stage {found.stage} needs" in found.sentence
    enough = int(re.search(r"devices with ([\d,]+) MiB each", "; ".join(found.remedies))[1].replace(",", ""))
    roomy = cluster(per_node=4, kind=device(memory_bytes=enough * 2**20))
    assert degrees.items() <= degrees_of(placed_search(graph, roomy, job, Objective(fixed=degrees)).plan).items()


def test_the_plans_own_degrees_lose_against_nothing(best):
    found = why_not(ground(), best, {"tensor": degrees_of(best)["tensor"], "pipeline": len(best.stages)})
    assert found.outcome == "chosen"
    assert best.split in found.sentence


def test_a_plan_that_the_search_did_not_choose_can_lose(best):
    slow = placed_search(GRAPH, WHERE, JOB, Objective(fixed={"recompute": "full", "tensor": 4})).plan
    found = why_not(ground(), slow, {"tensor": degrees_of(best)["tensor"], "recompute": "none"})
    assert found.outcome == "faster"
    assert found.more_s == pytest.approx(best.prediction.step_time_s - slow.prediction.step_time_s)
    assert " less than the " in found.sentence


def test_a_plan_that_does_not_fit_itself_says_so():
    graph, job = chain(4, hidden=128, tokens=128), Job(global_batch=8)
    plan = placed_search(graph, cluster(per_node=4), job, Objective(fixed={"pipeline": 1, "data": 1, "tensor": 1})).plan
    where = cluster(per_node=4, kind=device(memory_bytes=6e6))
    plan = replace(plan, prediction=evaluate(graph, where, plan))
    found = why_not(ground(graph, where, job), plan, {"pipeline": 4})
    assert any("The plan itself does not fit: stage 0 needs " in fact for fact in found.facts)


def test_a_degree_that_is_fixed_is_set_aside_and_it_says_so(best):
    found = why_not(ground(fixed={"tensor": 1, "recompute": "full"}), best, {"tensor": 4})
    assert degrees_of(found.plans[0])["tensor"] == 4
    assert degrees_of(found.plans[0])["recompute"] == "full"
    assert "objective.fixed asks for tensor 1" in found.facts[0]


def test_a_tensor_group_across_nodes_says_why_no_search_looks_at_it(best):
    found = why_not(ground(), best, {"tensor": 8})
    assert found.outcome == "slower"
    assert any("(8 > 4)" in fact for fact in found.facts)


def test_what_no_engine_runs_is_a_contradiction_with_what_is_missing():
    where = cluster(per_node=4, kind=device(kind="cpu", emulated=False))
    plan = placed_search(chain(4), where, Job(global_batch=8)).plan
    found = why_not(ground(chain(4), where, Job(global_batch=8)), plan, {"tensor": 2})
    assert found.rule == "engine"
    assert "tensor-parallel layers refuse the CPU" in found.sentence


def test_a_schedule_that_is_not_planned_for_is_refused_with_its_reason(best):
    found = why_not(ground(), best, {"schedule": "fthenb"})
    assert found.outcome == "refused"
    assert "fthenb" in found.sentence


@given(st.fixed_dictionaries({}, optional=DEGREES).filter(bool))
def test_degrees_are_read_as_they_are_written(degrees):
    assert parse_degrees(", ".join(f"{name} = {value}" for name, value in degrees.items())) == degrees


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tensr=8", "did you mean 'tensor'?"),
        ("tensor", "write name=value"),
        ("", "write name=value"),
        ("tensor=8,tensor=4", "stands twice"),
        ("tensor=0", "a whole number from 1 on"),
        ("tensor=-1", "a whole number from 1 on"),
        ("tensor=eight", "a whole number from 1 on"),
        ("tensor=" + "9" * 5000, "a whole number from 1 on"),
        ("sharding=4", "0, 1, 2 or 3"),
        ("recompute=ful", "did you mean 'full'?"),
        ("schedule=1f1c", "did you mean '1f1b'?"),
    ],
)
def test_a_mistyped_degree_says_what_to_write(text, sentence):
    with pytest.raises(BadInput, match=re.escape(sentence)):
        parse_degrees(text)


def test_every_degree_that_can_be_fixed_is_read_off_a_plan(best):
    assert degrees_of(best).keys() == set(FIXABLE)
    again = placed_search(GRAPH, WHERE, JOB, Objective(fixed=degrees_of(best))).plan
    assert replace(again, because="", runner_up=None, bound_s=0.0) == replace(
        best, because="", runner_up=None, bound_s=0.0
    )
