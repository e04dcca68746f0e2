"""What a report shows beyond a table of its plan: memory over the step, traffic, and what would be if."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nebula.cli.subject import subject_findings
from nebula.report.findings import Findings, Search

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.plan.values import Plan


def detailed(found: Findings) -> Findings:
    """The findings with what a predicted step holds and sends; as they are without a prediction."""
    from nebula.cost_model.evaluate import predicted_timeline
    from nebula.cost_model.memory_timeline import memory_timelines
    from nebula.cost_model.traffic_matrix import traffic_matrix

    graph, cluster, plan = found.graph, found.cluster, found.plan
    if plan.prediction is None:
        return found
    steps = predicted_timeline(graph, cluster, plan)
    memory = memory_timelines(graph, cluster, plan, steps)
    return replace(found, memory=memory, traffic=traffic_matrix(graph, cluster, plan))


def dry_findings(plan: Plan, subject: Subject, search: Search | None = None, *, replan: bool = False) -> Findings:
    """The findings of a dry run, with the plan under other links, memory and nodes.

    Args:
        replan: whether to plan again for more memory and without a node, which takes two more searches.
    """
    from nebula.planner.sensitivity import what_ifs

    run = subject.run
    rows = what_ifs(subject.graph, run.cluster, plan, run.objective, replan=replan)
    return replace(detailed(subject_findings(plan, subject, search)), what_ifs=rows)
