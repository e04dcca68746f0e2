"""The planner against trying every plan of its space, on random small cases that anyone can draw again.

A case is known by its seed, which is in the name of a test: `pytest "tests/pure/test_brute_force.py::NAME[17]"` runs
one again, and what it was is printed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest

from nebula.cost_model.evaluate import evaluate
from nebula.errors import BadInput, Infeasible
from nebula.plan.degrees import degrees_of
from nebula.plan.job import Objective
from nebula.plan.legality import violations
from nebula.planner.aims import SCORES, aimed
from nebula.planner.placed_answer import placed_search
from nebula.planner.search import Answer, search
from tests.pure.brute_cases import Case, fleet_case, long_case, narrowed, wan_case
from tests.pure.naive_fleet import Degrees, Found, every_degrees_of, every_plan, offer

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
    if seed % 4 == 0:
        check_placed(case, answer)
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


def check_placed(case: Case, answer: Answer) -> None:
    """Placing ranks makes no plan slower, and what it gains is priced."""
    found = placed_search(case.graph, case.cluster, case.job, case.objective)
    own = found.plan.prediction
    assert own.step_time_s <= answer.plan.prediction.step_time_s * (1 + EXACT)
    assert 0.0 <= found.gap <= EXACT
    assert violations(found.plan, layers=len(case.graph.layers), cluster=case.cluster) == ()
    assert all(held.total_bytes <= held.limit_bytes for held in own.memory)
    assert evaluate(case.graph, case.cluster, found.plan) == own


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


def check_aimed(case: Case, seed: int) -> None:
    """On each number of nodes that is tried the fastest plan is found, and of these the best by the aim is chosen."""
    case, _ = narrowed(case, seed, 40, every_degrees_of)
    aim = random.Random(seed).choice(("cost", "energy", "days"))
    print(f"seed {seed}, {aim}: {case}")
    fastest = {}
    for nodes, fewer in on_fewer_nodes(case):
        fitting = [found for found in every_plan(fewer, every_degrees_of(fewer)).values() if found.fits]
        if fitting:
            fastest[nodes] = min(fitting, key=lambda found: found.prediction.step_time_s)
    whole, asked = max(fastest, default=0), replace(case.objective, minimise=aim)
    searching = partial(placed_search, case.graph, case.cluster, case.job)
    if whole < len(list(on_fewer_nodes(case))):
        with pytest.raises((Infeasible, BadInput)):
            aimed(case.graph, case.cluster, case.job, asked, None, searching)
        return
    found = aimed(case.graph, case.cluster, case.job, asked, None, searching)
    tried = {one.nodes: one for one in found.tried}
    halves = {-(-whole // 2**i) for i in range(4)}
    assert halves & set(fastest) <= set(tried) <= set(fastest)
    for nodes, one in tried.items():
        assert one.step_s <= fastest[nodes].prediction.step_time_s * (1 + EXACT)
        assert one.answer.bound_s <= one.step_s
    score = SCORES[aim][1]
    chosen = next(one for one in found.tried if one.answer.plan.ranks == found.answer.plan.ranks)
    assert score(chosen) == min(score(one) for one in found.tried)


def on_fewer_nodes(case: Case) -> Iterator[tuple[int, Case]]:
    """The case on all nodes of the type that it is planned on, and on ever fewer of them."""
    offered = offer(case.cluster, case.job, case.objective.exclude)
    names = list(dict.fromkeys(place.node for place in offered.places))
    others = [group.name for group in case.cluster.groups if group.device.name != offered.device.name]
    for nodes in range(len(names), 0, -1):
        out = (*case.objective.exclude, *others, *names[nodes:])
        yield nodes, replace(case, objective=replace(case.objective, exclude=out))


@pytest.mark.parametrize("seed", range(20))
def test_plans_by_money_energy_and_days_are_the_best_of_the_numbers_of_nodes_that_are_tried(seed):
    case = fleet_case(seed)
    check_aimed(replace(case, job=replace(case.job, tokens=1e9)), seed)


@pytest.mark.parametrize("seed", range(20))
def test_across_a_wan_no_split_planned_alone_is_better(seed):
    """Where the ranks of a split lie across sites is the planner's rule, so each split is planned with its degrees."""
    case, choices = narrowed(wan_case(seed), seed, 40, every_degrees_of)
    print(f"seed {seed}: {case}")
    alone = []
    for degrees in dict.fromkeys(each._replace(layers=(1,) * len(each.layers)) for each in choices):
        with suppress(Infeasible, BadInput):
            only = search(case.graph, case.cluster, case.job, Objective(fixed=degrees.given()))
            alone.append(only.plan.prediction.step_time_s)
    if not alone:
        with pytest.raises((Infeasible, BadInput)):
            search(case.graph, case.cluster, case.job, case.objective)
        return
    answer = search(case.graph, case.cluster, case.job, case.objective)
    assert answer.plan.prediction.step_time_s == pytest.approx(min(alone), rel=EXACT)
    assert answer.bound_s <= min(alone) * (1 + EXACT)
    assert violations(answer.plan, layers=len(case.graph.layers), cluster=case.cluster) == ()


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


@pytest.mark.parametrize("seed", range(380))
def test_the_fleet_planner_equals_trying_everything(seed):
    check_fleet(fleet_case(seed), seed, most=50)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(380, 700))
def test_the_fleet_planner_equals_trying_everything_on_larger_cases(seed):
    check_fleet(fleet_case(seed, most_devices=12), seed, most=400)
