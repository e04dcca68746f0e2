"""What a report shows beyond a table of its plan: memory, traffic, what a search left out, and what would be if."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nebula.cli.subject import find_plans, given_plan, search_record, setting, subject_findings
from nebula.report.findings import Findings, Launch, Search, TimeCost

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.cost_model.simulate import Timeline
    from nebula.plan.job import Objective
    from nebula.plan.values import Plan
    from nebula.planner.aims import Tried
    from nebula.planner.search import Answer


def detailed(found: Findings, steps: Timeline | None = None) -> Findings:
    """The findings with what a predicted step holds and sends; as they are without a prediction.

    Args:
        steps: the timeline of the step, where it is known.
    """
    from nebula.cost_model.evaluate import predicted_timeline
    from nebula.cost_model.memory_timeline import memory_timelines
    from nebula.cost_model.operations import operation_rows
    from nebula.cost_model.traffic_matrix import traffic_matrix

    graph, cluster, plan = found.graph, found.cluster, found.plan
    if plan.prediction is None:
        return found
    steps = steps or predicted_timeline(graph, cluster, plan)
    return replace(
        found,
        memory=memory_timelines(graph, cluster, plan, steps),
        operations=operation_rows(graph, cluster, plan),
        traffic=traffic_matrix(graph, cluster, plan),
        launch=_launch(found),
    )


def _launch(found: Findings) -> Launch:
    """The commands of paddle.distributed.launch, or why there are none."""
    from nebula.emit import Decided, Options, emit
    from nebula.errors import BadInput

    if found.missing:
        return Launch(notes=found.missing)
    try:
        made = emit("launch", Decided(graph=found.graph, cluster=found.cluster, candidates=(found.plan,)), Options())
    except BadInput as error:
        return Launch(notes=(str(error),))
    nodes = made.document["nodes"]
    return Launch(commands=tuple((node["node"], node["line"]) for node in nodes), notes=made.notes)


def dry_findings(plan: Plan, subject: Subject, search: Search | None = None, *, replan: bool = False) -> Findings:
    """The findings of a dry run, with the plan under other links, memory and nodes.

    Args:
        replan: whether to plan again for more memory and without a node, which takes two more searches.
    """
    from nebula.cost_model.evaluate import predicted_timeline
    from nebula.planner.sensitivity import what_ifs

    run = subject.run
    steps = predicted_timeline(subject.graph, run.cluster, plan)
    found = detailed(subject_findings(plan, subject, search, steps), steps)
    rows = what_ifs(subject.graph, run.cluster, plan, run.objective, replan=replan, chains=subject.chains())
    return replace(found, what_ifs=rows, objective=run.objective)


def chosen_in_depth(subject: Subject, plan_file: Path | None, *, replan: bool = False) -> tuple[Plan, Search]:
    """The plan in a file, or else the one that a search finds, with all that a report tells of the search.

    Args:
        replan: whether to search on fewer nodes as well, and without each fixed degree.
    """
    if plan_file:
        return given_plan(subject, plan_file), Search()
    answer, tried = find_plans(subject)
    if replan and not tried:
        tried = _on_fewer_nodes(subject)
    return answer.plan, recorded(subject, answer, tried, replan=replan)


def recorded(
    subject: Subject,
    answer: Answer,
    tried: Sequence[Tried] = (),
    *,
    replan: bool = False,
    explored: bool = False,
) -> Search:
    """What a search went through, with what would admit what its rules left out, and time against money.

    Args:
        tried: plans on other numbers of nodes; where there are none, plans near the answer stand for them.
        replan: whether to search without each fixed degree.
        explored: the answer is that of an exploration, whose rules are others.
    """
    from nebula.planner.fewer import near_on_fewer_nodes
    from nebula.planner.rejected import rejections

    others = [one.answer.plan for one in tried] or near_on_fewer_nodes(subject.graph, subject.run.cluster, answer.plan)
    return replace(
        search_record(answer),
        rejections=() if explored else rejections(setting(subject), answer, search=replan),
        time_costs=time_costs(subject, [*answer.candidates, *others]),
    )


def time_costs(subject: Subject, plans: Iterable[Plan]) -> tuple[TimeCost, ...]:
    """Plans by step time and by what a token costs, each once, the fastest first."""
    from nebula.cost_model.economy import outlook

    run, found = subject.run, {}
    for plan in plans:
        assert plan.prediction is not None
        ahead = outlook(subject.graph, run.cluster, plan, run.conditions)
        one = TimeCost(
            split=plan.split,
            devices=plan.world_size,
            step_time_s=plan.prediction.step_time_s,
            money=0.0 if ahead.money.unknown else ahead.money.per_million_tokens,
            energy_j=0.0 if ahead.energy.unknown else ahead.energy.per_million_tokens_j,
        )
        found[one.split, one.devices] = one
    return with_front(found.values())


def with_front(points: Iterable[TimeCost]) -> tuple[TimeCost, ...]:
    """The points whose cost is known, the fastest first, marked where no other beats them in both."""
    found: list[TimeCost] = []
    least = math.inf
    for one in sorted((p for p in points if p.cost), key=lambda p: (p.step_time_s, p.cost)):
        found.append(replace(one, on_front=one.cost < least))
        least = min(least, one.cost)
    return tuple(found)


def _on_fewer_nodes(subject: Subject) -> tuple[Tried, ...]:
    from nebula.cli.search_bar import SearchBar
    from nebula.planner.aims import halves
    from nebula.planner.placed_answer import placed_search

    run, line = subject.run, SearchBar()

    def fastest(objective: Objective) -> Answer:
        return placed_search(subject.graph, run.cluster, run.job, objective, chains=subject.chains(), on_progress=line)

    try:
        return halves(subject.question, fastest)
    finally:
        line.clear()
