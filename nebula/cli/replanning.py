"""The verbs for a cluster that changes: replan when it has, family before it does. Nothing is started or moved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nebula.cli.options import Force, Json, Output, Overrides, RunFile

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.plan.values import Plan
    from nebula.planner.family import Member
    from nebula.planner.replan import Replanner

OldPlan = Annotated[Path, typer.Option("--plan", metavar="PLAN.JSON", help="The plan that runs, or ran.")]
Lost = Annotated[
    Optional[list[str]],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
    typer.Option("--lost", metavar="NODE[,NODE]...", help="Nodes and groups that are lost: atlas/7"),
]
Patience = Annotated[
    str,
    typer.Option("--patience", metavar="TIME", help="About how long to search beyond plans near the old one: 30s"),
]
BASE, INDEX = "base.json", "index.json"


def replan(
    run: RunFile,
    plan_file: OldPlan,
    overrides: Overrides = None,
    lost: Lost = None,
    patience: Patience = "0s",
    output: Output = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Find how to go on with a plan when nodes are lost, and say what moves."""
    from nebula.cli.console import log, print_json, results
    from nebula.cli.output import apart, free
    from nebula.cli.subject import load_subject, subject_findings
    from nebula.cluster.places import exclude
    from nebula.plan.files import load_plan, save_plan
    from nebula.planner.replan import replan as find
    from nebula.report.replan_text import replanned_document, replanned_text
    from nebula.report.table import print_plan
    from nebula.units import parse_seconds

    apart(run, plan_file, output)
    if output:
        free(output, force=force)
    subject, old = load_subject(run, overrides), load_plan(plan_file)
    check_job(old, subject, plan_file)
    here, names = subject.run.cluster, [name for text in lost or () for name in text.split(",") if name]
    found = find(
        subject.graph,
        old,
        exclude(here, names),
        before=here if names else None,
        objective=subject.run.objective,
        reliability=subject.run.conditions.reliability,
        patience_s=parse_seconds(patience),
    )
    if json:
        print_json(replanned_document(found))
    else:
        print_plan(subject_findings(found.plan, subject), results())
        results().print()
        results().print(replanned_text(found))
    if output:
        save_plan(found.plan, output, overwrite=force)
        log(f"wrote {output}")


def family(
    run: RunFile,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Write the plans here.")] = Path(
        "family"
    ),
    base: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--plan", metavar="PLAN.JSON", help="The base plan, instead of searching for one."),
    ] = None,
    most_lost: Annotated[int, typer.Option("--most-lost", help="Nodes of a group that are lost together.")] = 2,
    patience: Patience = "10min",
    force: Force = False,
    json: Json = False,
) -> None:
    """Plan ahead for lost nodes, groups and device types: a folder of plans with an index."""
    from nebula.cli.console import log, print_json, results
    from nebula.cli.subject import chosen_plan, load_subject
    from nebula.planner.replan import Replanner
    from nebula.report.replan_text import index_document, index_text
    from nebula.units import parse_seconds

    patience_s = parse_seconds(patience)
    check_folder(output, force=force)
    subject = load_subject(run, overrides)
    plan, _ = chosen_plan(subject, base)
    check_job(plan, subject, base or run)
    asked, reliability = subject.run.objective, subject.run.conditions.reliability
    kept = Replanner(subject.graph, subject.run.cluster, plan, objective=asked, reliability=reliability)
    members = _members(kept, most_lost, patience_s)
    index = index_document(plan, members)
    write_family(output, plan, members, index)
    if json:
        print_json(index)
    else:
        results().print(index_text(members))
    log(f"wrote {output / INDEX} and {1 + sum(m.replanned is not None for _, m in members)} plans beside it")


def _members(kept: Replanner, most_lost: int, patience_s: float) -> list[tuple[str, Member]]:
    """Pairs of file name and member; a terminal sees how far it is."""
    from nebula.cli.console import CountLine
    from nebula.planner.family import cases
    from nebula.planner.family import family as each_member

    line = CountLine("planning", len(cases(kept.cluster, kept.plan, most_lost)), "cases")
    members: list[tuple[str, Member]] = []
    try:
        for member in each_member(kept, most_lost, patience_s=patience_s):
            # names of device types may hold what file names may not
            members.append((re.sub(r"[^\w.-]+", "-", member.case.name) + ".json", member))
            line(len(members))
    finally:
        line.clear()
    return members


def check_job(plan: Plan, subject: Subject, source: Path) -> None:
    """Refuses a plan that trains otherwise than the run file asks.

    Raises:
        BadInput: with what differs.
    """
    from nebula.errors import BadInput

    asked = subject.run.job
    for name in ("global_batch", "precision", "optimizer"):
        had, wanted = getattr(plan.job, name), getattr(asked, name)
        if had != wanted:
            raise BadInput(f"{source}: the plan's {name} is {had}, the run's is {wanted}; re-planning keeps the job")


def check_folder(folder: Path, *, force: bool) -> None:
    """Makes sure that nothing is lost in a folder.

    Raises:
        BadInput: it is a file, or something is in it and `force` is not set.
    """
    from nebula.errors import BadInput

    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file: name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise BadInput(f"{folder} is not empty and stays as it is: name another folder, or write into it with --force")


def write_family(folder: Path, base: Plan, members: list[tuple[str, Member]], index: dict[str, object]) -> None:
    """Writes the base plan, a plan for each member and, last, the index."""
    import json

    from nebula.plan.files import save_plan
    from nebula.whole_file import write_whole

    folder.mkdir(parents=True, exist_ok=True)
    save_plan(base, folder / BASE, overwrite=True)
    for file, member in members:
        if member.replanned:
            save_plan(member.replanned.plan, folder / file, overwrite=True)
    write_whole(folder / INDEX, json.dumps(index, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
