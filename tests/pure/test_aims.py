"""Plans by money, energy and days, under a deadline and a budget; the front of time against money."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest

from nebula.cost_model.economy import DAY_S, outlook
from nebula.errors import BadInput, Infeasible
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.aims import SCORES, Tried, front, per_token, wants_more
from nebula.planner.by_aim import best_by_aim
from nebula.planner.scale import Question
from nebula.planner.search import search
from tests.pure.cost_samples import chain, cluster, device

GRAPH = chain(6, hidden=256, tokens=256)
PRICED = cluster(8, 2, nic=2e8, kind=device(price_per_hour=2.0, power_w=300.0))
JOB = Job(global_batch=16, tokens=1e12)


def found(objective, on=PRICED, job=JOB):
    return best_by_aim(Question(graph=GRAPH, cluster=on, job=job, objective=objective), partial(search, GRAPH, on, job))


def on_nodes(nodes, on=PRICED):
    fewer = replace(on, groups=(replace(on.groups[0], count=nodes),))
    plan = search(GRAPH, fewer, JOB).plan
    return plan, outlook(GRAPH, fewer, plan, None)


@pytest.mark.parametrize("aim", ["cost", "energy", "days"])
def test_no_number_of_nodes_is_better_by_the_aim(aim):
    value = SCORES[aim][1]
    chosen = found(Objective(minimise=aim))
    best = next(t for t in chosen.tried if t.answer.plan.split == chosen.answer.plan.split)
    every = []
    for nodes in range(1, 9):
        plan, ahead = on_nodes(nodes)
        every.append(value(Tried(nodes=nodes, answer=replace(best.answer, plan=plan), outlook=ahead)))
    assert value(best) <= min(every) * (1 + 1e-9)
    assert value(best) == min(map(value, chosen.tried))


def test_cheaper_plans_use_fewer_devices_than_the_fastest_where_links_are_slow():
    fastest = search(GRAPH, PRICED, JOB).plan
    cheapest = found(Objective(minimise="cost")).answer.plan
    assert cheapest.world_size < fastest.world_size
    assert cheapest.because.startswith("Least money for a token on ")


@pytest.mark.parametrize("aim", ["cost", "energy", "days"])
def test_what_no_plan_comes_below_is_told_in_the_unit_of_the_aim(aim):
    answer = found(Objective(minimise=aim)).answer
    assert answer.gap == pytest.approx(0.0, abs=1e-9)
    assert answer.plan.bound_s == 0.0, "others may be faster"
    unit = {"cost": "for a million tokens", "energy": "kWh for a million tokens", "days": "days to the token budget"}
    assert answer.notes[-1].startswith("Proved: no plan of the space comes below its ")
    assert answer.notes[-1].endswith(f"{unit[aim]}.")


def test_nothing_on_the_front_is_beaten_in_both():
    aim = found(Objective(minimise="cost"))
    for one in aim.tried:
        beaten = any(f.step_s <= one.step_s and per_token(f.outlook) <= per_token(one.outlook) for f in aim.front)
        assert beaten
    steps = [one.step_s for one in aim.front]
    money = [per_token(one.outlook) for one in aim.front]
    assert steps == sorted(steps)
    assert money == sorted(money, reverse=True)
    assert front(aim.tried) == aim.front


def test_a_deadline_and_a_budget_are_kept():
    aim = found(Objective(minimise="cost"))
    soonest = min(t.outlook.days.with_failures for t in aim.tried)
    late = max(t.outlook.days.with_failures for t in aim.tried)
    deadline_s = (soonest + (late - soonest) / 3) * DAY_S
    timely = found(Objective(minimise="cost", deadline_s=deadline_s)).answer
    assert outlook(GRAPH, PRICED, timely.plan, None).days.with_failures * DAY_S <= deadline_s
    cheapest = min(t.outlook.money.budget for t in aim.tried)
    within = found(Objective(budget=1.02 * cheapest)).answer
    assert outlook(GRAPH, PRICED, within.plan, None).money.budget <= 1.02 * cheapest
    assert "within the budget" in within.plan.because


def test_limits_that_nothing_keeps_say_what_would_do():
    aim = found(Objective(minimise="cost"))
    soonest = min(t.outlook.days.with_failures for t in aim.tried)
    cheapest = min(t.outlook.money.budget for t in aim.tried)
    with pytest.raises(Infeasible, match=rf"limits.deadline.*deadline={math.ceil(soonest)}d would do"):
        found(Objective(deadline_s=0.5 * soonest * DAY_S))
    with pytest.raises(Infeasible, match=rf"limits.budget.*budget={math.ceil(cheapest)} would do"):
        found(Objective(budget=0.5 * cheapest))
    with pytest.raises(Infeasible, match=r"deadline and budget contradict.*budget=\d+ or deadline=\d+d would do"):
        found(Objective(deadline_s=1.001 * soonest * DAY_S, budget=1.001 * cheapest))


def test_fixed_degrees_that_need_more_nodes_leave_the_others_out():
    aim = found(Objective(minimise="cost", fixed={"pipeline": 6}))
    assert {tried.nodes for tried in aim.tried} >= {8, 4}
    assert min(tried.nodes for tried in aim.tried) >= 3
    assert len(aim.answer.plan.stages) == 6
    with pytest.raises(BadInput, match="pipeline 7 > 6 layers"):
        found(Objective(minimise="cost", fixed={"pipeline": 7}))


def test_fewer_nodes_are_nodes_of_the_same_type():
    slow = device(name="slow", peak_flops={"float32": 6e11}, price_per_hour=2.0, power_w=300.0)
    group = replace(PRICED.groups[0], name="old", count=8, device=slow)
    both = replace(PRICED, groups=(group, *PRICED.groups))
    for one in found(Objective(minimise="cost"), both).tried:
        assert {place.node.split("/")[0] for place in one.answer.plan.ranks} == {PRICED.groups[0].name}
        assert len({place.node for place in one.answer.plan.ranks}) <= one.nodes


def test_what_is_not_known_cannot_be_minimised():
    unknown = cluster(2, 2)
    with pytest.raises(BadInput, match=r"minimise=cost: d has no price; give price_per_hour"):
        found(Objective(minimise="cost"), unknown)
    with pytest.raises(BadInput, match=r"minimise=energy: d has no board power"):
        found(Objective(minimise="energy"), unknown)
    with pytest.raises(BadInput, match=r"minimise=days needs to know how many tokens"):
        found(Objective(minimise="days"), job=replace(JOB, tokens=0.0))
    assert not wants_more(Objective())
    assert wants_more(Objective(budget=1.0))
