"""The planner against trying every plan of its space, on random small cases that anyone can draw again.

A case is known by its seed, which is in the name of a test: `pytest "tests/pure/test_brute_force.py::NAME[17]"` runs
one again, and what it was is printed.
"""

from __future__ import annotations

import math
import random
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest

from nebula.cost_model.economy import DAY_S, Outlook, outlook
from nebula.cost_model.evaluate import evaluate
from nebula.errors import BadInput, Infeasible
from nebula.plan.conditions import Conditions, PowerUse, Reliability
from nebula.plan.degrees import degrees_of
from nebula.plan.job import Objective
from nebula.plan.legality import violations
from nebula.planner.by_aim import best_by_aim
from nebula.planner.placed_answer import placed_search
from nebula.planner.scale import Question
from nebula.planner.search import Answer, search
from tests.pure.brute_cases import Case, fleet_case, long_case, narrowed, wan_case
from tests.pure.naive_fleet import Degrees, Found, every_degrees_of, every_plan

EXACT = 1e-9
"""Rounding."""

INTERRUPTED = 6
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


def question(case: Case, asked: Objective, conditions: Conditions) -> Question:
    """The case with another objective, under those conditions."""
    return Question(graph=case.graph, cluster=case.cluster, job=case.job, objective=asked, conditions=conditions)


def check_aimed(case: Case, seed: int, most: int) -> None:
    """No plan of the space comes to less by the aim, within the limits, and the bound is what the best comes to."""
    case, choices = narrowed(case, seed, most, every_degrees_of)
    rng = random.Random(f"aim {seed}")
    aim, conditions = rng.choice(("cost", "energy", "days")), some_conditions(rng)
    every = [found.plan_with_prediction for found in every_plan(case, choices).values() if found.fits]
    ahead = [outlook(case.graph, case.cluster, plan, conditions) for plan in every]
    asked = limited(replace(case.objective, minimise=aim), ahead, rng)
    print(f"seed {seed}: {case}, {asked}, {conditions}")
    kept = [one for one in ahead if keeps(one, asked)]
    searching = partial(search, case.graph, case.cluster, case.job)
    if not kept:
        with pytest.raises((Infeasible, BadInput)):
            best_by_aim(question(case, asked, conditions), searching)
        return
    found = best_by_aim(question(case, asked, conditions), searching).answer
    own = outlook(case.graph, case.cluster, found.plan, conditions)
    assert keeps(own, asked)
    assert BY_AIM[aim](own) == pytest.approx(min(map(BY_AIM[aim], kept)), rel=EXACT)
    assert 0.0 <= found.gap <= EXACT
    assert violations(found.plan, layers=len(case.graph.layers), cluster=case.cluster) == ()
    assert all(held.total_bytes <= held.limit_bytes for held in found.plan.prediction.memory)
    if seed % 4 == 0:
        check_placed_by_aim(case, asked, conditions, BY_AIM[aim](own))


def check_placed_by_aim(case: Case, asked: Objective, conditions: Conditions, least: float) -> None:
    """Placing ranks makes no plan worse, and the limits are kept."""
    searching = partial(placed_search, case.graph, case.cluster, case.job)
    found = best_by_aim(question(case, asked, conditions), searching).answer
    own = outlook(case.graph, case.cluster, found.plan, conditions)
    assert keeps(own, asked)
    assert BY_AIM[asked.minimise](own) <= least * (1 + EXACT)
    assert 0.0 <= found.gap <= EXACT


BY_AIM = {
    "cost": lambda ahead: ahead.money.per_million_tokens,
    "energy": lambda ahead: ahead.energy.per_million_tokens_j,
    "days": lambda ahead: ahead.days.with_failures,
}


def some_conditions(rng: random.Random) -> Conditions:
    """Usual ones, or failures that count and saves by any rule."""
    if rng.random() < 0.3:
        return Conditions()
    reliability = Reliability(
        failures_per_device_hour=10 ** rng.uniform(-6, -2),
        node_mtbf_s=rng.choice((0.0, 0.0, 10 ** rng.uniform(4, 6))),
        storage_bytes_per_s=rng.choice((0.0, 10 ** rng.uniform(4, 8))),
        saves=rng.choice(("synchronous", "asynchronous")),
        interval_s=rng.choice((0.0, 0.0, 10 ** rng.uniform(-3, 3))),
        lost_nodes=rng.choice(("continue", "wait")),
        spares=rng.choice((0, 0, 1, 2)),
        repair_s=rng.choice((600.0, 86400.0)),
    )
    return Conditions(reliability=reliability, power=PowerUse(idle_share=rng.uniform(0, 1), pue=rng.uniform(1, 2)))


def limited(objective: Objective, ahead: list[Outlook], rng: random.Random) -> Objective:
    """Now and then a deadline or a budget that some of the plans keep."""
    if not ahead or rng.random() < 0.6:
        return objective
    some = rng.choice(ahead)
    deadline_s, budget = 1.01 * DAY_S * some.days.with_failures, 1.01 * some.money.budget
    if not math.isfinite(deadline_s):
        return objective
    return replace(objective, **rng.choice(({"deadline_s": deadline_s}, {"budget": budget})))


def keeps(ahead: Outlook, objective: Objective) -> bool:
    """Whether a plan that comes to that is within the limits and ever ends."""
    days, money = ahead.days.with_failures, ahead.money.budget
    late = objective.deadline_s and days * DAY_S > objective.deadline_s
    return math.isfinite(days) and not late and not (objective.budget and money > objective.budget)


@pytest.mark.parametrize("seed", range(120))
def test_plans_by_money_energy_and_days_equal_trying_everything(seed):
    case = fleet_case(seed)
    check_aimed(replace(case, job=replace(case.job, tokens=1e9)), seed, most=50)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(380, 500))
def test_plans_by_money_energy_and_days_equal_trying_everything_on_larger_cases(seed):
    case = fleet_case(seed, most_devices=12)
    check_aimed(replace(case, job=replace(case.job, tokens=1e9)), seed, most=400)


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
