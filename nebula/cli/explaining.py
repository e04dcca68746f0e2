"""The verb that explains: why a plan is that one, what came near it, what was left out, and why another is not it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nebula.cli.options import Json, Overrides, PlanOption, RunFile

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.plan.values import Plan


def explain(
    run: RunFile,
    overrides: Overrides = None,
    plan_file: PlanOption = None,
    why_not: Annotated[
        Optional[str],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
        typer.Option("--why-not", metavar="DEGREES", help="Why the plan has not these: tensor=8,pipeline=4."),
    ] = None,
    json: Json = False,
) -> None:
    """Say why a plan is the best, and what speaks against others."""
    from nebula.cli.subject import find_plan, load_subject
    from nebula.errors import BadInput
    from nebula.plan.degrees import parse_degrees

    try:
        degrees = parse_degrees(why_not) if why_not is not None else {}
    except BadInput as mistake:
        raise BadInput(f"--why-not: {mistake}") from None
    subject = load_subject(run, overrides)
    given = _given(subject, plan_file) if plan_file else None
    if degrees:
        _print_why_not(subject, given or find_plan(subject).plan, degrees, json=json)
    else:
        _print_explanation(subject, given, json=json)


def _print_explanation(subject: Subject, given: Plan | None, *, json: bool) -> None:
    from nebula.cli.console import print_json, results
    from nebula.cli.subject import find_plan, setting
    from nebula.planner.alternatives import explanation
    from nebula.report.explanation_document import explanation_document
    from nebula.report.explanation_text import explanation_text

    answer = find_plan(subject)
    found = explanation(setting(subject), answer, given or answer.plan)
    if json:
        print_json(explanation_document(found))
    else:
        results().print(explanation_text(found, virtual=_virtual(subject)))


def _print_why_not(subject: Subject, plan: Plan, degrees: dict[str, int | str], *, json: bool) -> None:
    from nebula.cli.console import print_json, results
    from nebula.cli.subject import setting
    from nebula.planner.why_not import why_not
    from nebula.report.explanation_document import why_not_document
    from nebula.report.explanation_text import why_not_text

    found = why_not(setting(subject), plan, degrees)
    if json:
        print_json(why_not_document(found, plan))
    else:
        results().print(why_not_text(found))


def _given(subject: Subject, path: Path) -> Plan:
    """A plan file for this run.

    Raises:
        BadInput: the file is damaged, or was made for another model, cluster or job.
    """
    from nebula.cli.checking import other_job
    from nebula.cli.subject import given_plan
    from nebula.errors import BadInput

    plan = given_plan(subject, path)
    for sentence in other_job(plan, subject):
        raise BadInput(f"{path}: {sentence}")
    return plan


def _virtual(subject: Subject) -> bool:
    return any(group.device.emulated for group in subject.run.cluster.groups)
