"""The explorer against trying every plan of its space, on random small cases that anyone can draw again.

A case is known by its seed, which is in the name of a test: `pytest "tests/pure/test_brute_force_explore.py::NAME[17]"`
runs one again, and what it was is printed.
"""

from __future__ import annotations

import math
import random

import pytest

from nebula.cost_model.evaluate import plan_pricing
from nebula.cost_model.executed import predict_priced
from nebula.errors import BadInput, Infeasible
from nebula.plan.legality import violations
from nebula.planner.explore.search import explore
from nebula.planner.search import Answer
from tests.pure.brute_cases import Case, explored_case, narrowed, offloaded_case, partly_recomputed_case
from tests.pure.naive_explore import Found, Prices, binding, every_plan, every_way_of

EXACT = 1e-9
"""Rounding."""


def check_explored(case: Case, seed: int, most: int, *, bind: bool = False) -> None:
    """The explorer finds what loops over all plans find, or that there is none.

    Args:
        bind: with as much memory as one of the plans just fills.
    """
    case, ways = narrowed(case, seed, most, every_way_of)
    case = binding(case, ways, seed) if bind else case
    print(f"seed {seed}: {case}")
    prices = Prices(case)
    every = every_plan(prices, ways)
    best = next((found for found in every if prices.fits(found.plan)), None)
    if best is None:
        with pytest.raises((Infeasible, BadInput) if not every else Infeasible):
            explore(case.graph, case.cluster, case.job, case.objective)
        return
    answer = explore(case.graph, case.cluster, case.job, case.objective)
    check_answer(case, answer, best, every)
    one = random.Random(seed).choice(every)
    alone = predict_priced(plan_pricing(case.graph, case.cluster, one.plan), one.plan)
    assert alone.step_time_s == pytest.approx(one.step_s, rel=EXACT)
    assert prices.fits(one.plan) == all(held.share <= 1.0 for held in alone.memory)


def check_answer(case: Case, answer: Answer, best: Found, every: list[Found]) -> None:
    """The answer is a plan of the space, none is better, and its bound says so."""
    own = answer.plan.prediction
    assert own.step_time_s == pytest.approx(best.step_s, rel=EXACT)
    assert answer.bound_s <= best.step_s * (1 + EXACT)
    assert 0.0 <= answer.gap <= EXACT
    assert violations(answer.plan, layers=len(case.graph.layers), cluster=case.cluster) == ()
    assert all(held.share <= 1.0 for held in own.memory)
    same = [
        found for found in every if found.plan.stages == answer.plan.stages and found.plan.ranks == answer.plan.ranks
    ]
    assert pytest.approx(own.step_time_s, rel=EXACT) in [found.step_s for found in same]


@pytest.mark.parametrize("seed", range(120))
def test_the_explorer_equals_trying_everything(seed):
    check_explored(explored_case(seed), seed, most=30)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(120, 320))
def test_the_explorer_equals_trying_everything_on_larger_cases(seed):
    check_explored(explored_case(seed, most_devices=8), seed, most=150)


@pytest.fixture
def to_the_end(monkeypatch):
    """Searches do not end at a gap, however many sets they look at."""
    monkeypatch.setattr("nebula.planner.explore.search.EXACT", math.inf)


@pytest.mark.parametrize("seed", range(60))
def test_with_offload_allowed_it_equals_trying_everything(seed, to_the_end):
    check_explored(offloaded_case(seed), seed, most=60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60, 260))
def test_with_offload_allowed_it_equals_trying_everything_on_larger_cases(seed, to_the_end):
    check_explored(offloaded_case(seed, most_devices=8), seed, most=240)


def test_with_activations_on_the_host_computing_again_may_be_quicker(to_the_end):
    check_explored(offloaded_case(122, most_devices=8), 122, most=240)


@pytest.mark.parametrize("seed", range(60))
def test_with_layers_of_a_stage_computed_again_it_equals_trying_everything(seed, to_the_end):
    check_explored(partly_recomputed_case(seed), seed, most=24, bind=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60, 260))
def test_with_layers_of_a_stage_computed_again_it_equals_trying_everything_on_larger_cases(seed, to_the_end):
    check_explored(partly_recomputed_case(seed, most_devices=8), seed, most=200, bind=True)
