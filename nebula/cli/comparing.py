"""The verb that sets two plan files side by side; with a run file also what they cost in days, money and energy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nebula.cli.options import Json

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.plan.values import Plan
    from nebula.report.comparison_text import Side


def compare(
    first: Annotated[Path, typer.Argument(metavar="A.JSON", help="A plan file.")],
    second: Annotated[Path, typer.Argument(metavar="B.JSON", help="Another plan file.")],
    run: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
        typer.Option("--run", metavar="RUN.YAML", help="Predict both on this run, with days, money and energy."),
    ] = None,
    json: Json = False,
) -> None:
    """Set two plans side by side, and say which is better by what."""
    from nebula.cli.console import print_json, results
    from nebula.cli.subject import load_subject
    from nebula.plan.files import load_plan
    from nebula.planner.compare import compare as compared
    from nebula.report.comparison_document import comparison_document
    from nebula.report.comparison_text import comparison_text

    plans = [load_plan(path) for path in (first, second)]
    subject = load_subject(run, None) if run else None
    notes: list[str] = []
    one, other = (_side(path, plan, subject, notes) for path, plan in zip((first, second), plans, strict=True))
    found = compared(one.plan, other.plan, (one.name, other.name))
    found = replace(found, notes=(*notes, *found.notes))
    if json:
        print_json(comparison_document(found, (one, other)))
    else:
        results().print(comparison_text(found, (one, other)))


def _side(path: Path, plan: Plan, subject: Subject | None, notes: list[str]) -> Side:
    """A plan with what the run tells of it; one made for another model or cluster keeps its own prediction."""
    from nebula.cli.subject import check_origin
    from nebula.cluster.identity import cluster_hash
    from nebula.cost_model.economy import outlook
    from nebula.cost_model.evaluate import evaluate
    from nebula.errors import BadInput
    from nebula.graph.identity import graph_hash
    from nebula.plan.values import MadeFrom
    from nebula.report.comparison_text import Side

    if subject is None:
        return Side(name=str(path), plan=_checked(path, plan))
    graph, cluster = subject.graph, subject.run.cluster
    try:
        check_origin(plan, graph, cluster)
        made = MadeFrom(
            model=graph.name, model_hash=graph_hash(graph), cluster=cluster.name, cluster_hash=cluster_hash(cluster)
        )
        plan = replace(plan, prediction=evaluate(graph, cluster, plan), made_from=made)
    except BadInput as stranger:
        notes.append(f"{path} is taken as its file says: {stranger}.")
        return Side(name=str(path), plan=_checked(path, plan))
    return Side(name=str(path), plan=plan, outlook=outlook(graph, cluster, plan, subject.run.conditions))


def _checked(path: Path, plan: Plan) -> Plan:
    """A plan as its file says.

    Raises:
        BadInput: its prediction is none that anything can be compared with.
    """
    from nebula.errors import BadInput

    said = plan.prediction
    if said and min(said.step_time_s, said.tokens_per_s) <= 0:
        figures = f"{said.step_time_s:g} s a step and {said.tokens_per_s:g} tokens/s"
        raise BadInput(f"{path}: its prediction says {figures}; leave it out, or predict anew with --run")
    return plan
