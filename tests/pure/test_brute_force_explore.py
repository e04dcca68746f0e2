"""The explorer against trying every plan of its space, on random small cases that anyone can draw again.

A case is known by its seed, which is in the name of a test: `pytest "tests/pure/test_brute_force_explore.py::NAME[17]"`
runs one again, and what it was is printed.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import plan_pricing
from nebula.cost_model.executed import predict_priced
from nebula.errors import BadInput, Infeasible
from nebula.graph.values import DistributedGraph
from nebula.plan.job import Objective
from nebula.plan.legality import executable, kind_of, violations
from nebula.plan.values import Job, Plan
from nebula.planner.explore.extent import Extent, executor_extent
from nebula.planner.explore.search import NothingFaster, explore
from nebula.planner.search import Answer
from tests.pure.brute_cases import (
    Case,
    explored_case,
    narrowed,
    offloaded_case,
    partly_recomputed_case,
    uneven_case,
)
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


@pytest.fixture
def to_the_end(monkeypatch):
    """Searches do not end at a gap, however many sets they look at."""
    monkeypatch.setattr("nebula.planner.explore.openings.EXACT", math.inf)


@pytest.mark.parametrize("seed", range(60))
def test_where_a_sequence_cannot_be_cut_it_equals_trying_everything(seed, to_the_end):
    check_explored(uneven_case(seed), seed, most=60)


def runs(plan: Plan, kind: str) -> bool:
    """Whether the table says that the executor runs a plan on devices of a kind, the job's precision apart."""
    return executable(replace(plan, job=replace(plan.job, precision="fp32")), kind).engine == "executor"


def check_executor(case: Case, seed: int, most: int) -> None:
    """The executor's space has all plans that the table says it runs and no others, and heeds what there is to beat."""
    kind = kind_of(case.cluster)
    extent = executor_extent(case.job, (kind,))
    if extent is None:
        assert kind == "cpu"
        return
    case, ways = narrowed(case, seed, most, every_way_of)
    print(f"seed {seed}: {case}")
    prices = Prices(case)
    every = [found for found in every_plan(prices, ways) if runs(found.plan, kind)]
    best = next((found for found in every if prices.fits(found.plan)), None)
    asked = (case.graph, case.cluster, case.job, case.objective)
    if best is None:
        with pytest.raises((Infeasible, BadInput) if not every else Infeasible):
            explore(*asked, extent=extent)
        return
    answer = explore(*asked, extent=extent)
    check_answer(case, answer, best, every)
    assert runs(answer.plan, kind)
    assert explore(*asked, extent=extent, to_beat_s=1.1 * best.step_s).plan.stages == answer.plan.stages
    check_unbeaten(asked, extent, best.step_s)


def check_unbeaten(asked: tuple[DistributedGraph, Cluster, Job, Objective], extent: Extent, least_s: float) -> None:
    """Where nothing is faster than what there is to beat, the bound is true and near it."""
    try:
        bound_s = explore(*asked, extent=extent, to_beat_s=0.9 * least_s).bound_s
    except NothingFaster as nothing:
        bound_s = nothing.bound_s
    assert bound_s == pytest.approx(0.9 * least_s, rel=EXACT)


@pytest.mark.parametrize("seed", range(100))
def test_what_the_executor_runs_equals_trying_everything_that_the_table_says_it_runs(seed, to_the_end):
    check_executor(explored_case(seed), seed, most=60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
def test_what_the_executor_runs_equals_trying_everything_on_larger_cases(seed, to_the_end):
    check_executor(explored_case(seed, most_devices=8), seed, most=150)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(120, 320))
def test_the_explorer_equals_trying_everything_on_larger_cases(seed):
    check_explored(explored_case(seed, most_devices=8), seed, most=150)


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
