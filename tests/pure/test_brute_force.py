"""The planner against trying every plan of its space, on random small cases that anyone can draw again.

A case is known by its seed, which is in the name of a test: `pytest "tests/pure/test_brute_force.py::NAME[17]"` runs
one again, and what it was is printed.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from nebula.cost_model.evaluate import evaluate
from nebula.errors import BadInput, Infeasible
from nebula.plan.degrees import degrees_of
from nebula.plan.job import Objective
from nebula.plan.legality import violations
from nebula.planner.search import Answer, search
from tests.pure.brute_cases import Case, fleet_case, long_case, narrowed
from tests.pure.naive_fleet import Degrees, Found, every_degrees_of, every_plan

EXACT = 1e-9
"""Rounding."""

INTERRUPTED = 24
"""A case whose search prices several splits."""


def check_fleet(case: Case, seed: int, most: int) -> None:
    """The search finds what loops over all plans find: the best, the second, or that there is none."""
    case, choices = narrowed(case, seed, most, every_degrees_of)
    print(f"seed {seed}: {case}")
    every = every_plan(case, choices)
    fitting = {degrees: found for degrees, found in every.items() if found.fits}
    if not fitting:
        with pytest.raises((Infeasible, BadInput) if not every else Infeasible):
            search(case.graph, case.cluster, case.job, case.objective)
        return
    answer = search(case.graph, case.cluster, case.job, case.objective)
    least_s = min(found.prediction.step_time_s for found in fitting.values())
    check_answer(case, answer, fitting, least_s)
    check_runner_up(answer, fitting)
    one = random.Random(seed).choice(list(fitting.values()))
    alone = evaluate(case.graph, case.cluster, one.plan)
    assert alone == one.prediction
    assert alone.step_time_s >= answer.plan.prediction.step_time_s * (1 - EXACT)


def check_answer(case: Case, answer: Answer, fitting: dict[Degrees, Found], least_s: float) -> None:
    """The answer is a plan of the space, none is better, and its bound is below all."""
    own = answer.plan.prediction
    assert own.step_time_s == pytest.approx(least_s, rel=EXACT)
    assert answer.bound_s <= least_s * (1 + EXACT)
    assert 0.0 <= answer.gap <= EXACT
    assert violations(answer.plan, layers=len(case.graph.layers), cluster=case.cluster) == ()
    assert all(held.total_bytes <= held.limit_bytes for held in own.memory)
    assert fitting[degrees_in(answer.plan)].prediction == own


def degrees_in(plan) -> Degrees:
    given = degrees_of(plan)
    names = ("data", "tensor", "micro_batch_rows", "sharding", "sharding_degree", "recompute")
    return Degrees(
        *(given[name] for name in names), tuple(last - first for first, last in (s.layers for s in plan.stages))
    )


def check_runner_up(answer: Answer, fitting: dict[Degrees, Found]) -> None:
    """The second candidate is the best of the other splits."""
    by_split: dict[tuple[object, ...], float] = {}
    for degrees, found in fitting.items():
        by_split[degrees.split] = min(found.prediction.step_time_s, by_split.get(degrees.split, float("inf")))
    times = sorted(by_split.values())
    told = [plan.prediction.step_time_s for plan in answer.candidates[:2]]
    assert told == pytest.approx(times[:2], rel=EXACT)


@pytest.mark.parametrize("seed", range(6))
def test_uneven_stages_of_longer_chains_equal_trying_every_deal(seed):
    """There are 462 deals of 12 layers to 6 stages."""
    fixed = {"pipeline": 6, "tensor": 1, "data": 1, "micro_batch_rows": 1, "recompute": "none"}
    case = long_case(seed, 12)
    check_fleet(replace(case, objective=Objective(fixed=fixed)), seed, most=500)


def test_an_interrupted_search_knows_how_far_it_may_be_from_the_best():
    case = fleet_case(INTERRUPTED)
    best = search(case.graph, case.cluster, case.job, case.objective)
    assert best.priced > 5
    for priced in range(1, best.priced):

        def stop(progress, priced=priced):
            if progress.priced == priced:
                raise KeyboardInterrupt

        early = search(case.graph, case.cluster, case.job, case.objective, on_progress=stop)
        assert early.bound_s <= best.plan.prediction.step_time_s <= early.plan.prediction.step_time_s


@pytest.mark.parametrize("seed", range(400))
def test_the_fleet_planner_equals_trying_everything(seed):
    check_fleet(fleet_case(seed), seed, most=60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(400, 700))
def test_the_fleet_planner_equals_trying_everything_on_larger_cases(seed):
    check_fleet(fleet_case(seed, most_devices=12), seed, most=400)
