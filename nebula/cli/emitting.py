"""The verb that writes a plan in a format of Paddle's other tools: a search's best plan, another of it, or a file's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nebula.cli.options import Force, Json, Output, Overrides, PlanOption, RunFile

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.emit import Config, Emitted, Options
    from nebula.plan.values import Plan

OF_FLEET = ("fleet", "auto-parallel", "auto-tuner", "paddleformers")
"""Formats that have words for plans of fleet alone."""

Format = Annotated[
    str,
    typer.Argument(metavar="FORMAT", help="fleet, auto-parallel, auto-tuner, paddleformers, launch or rank-table."),
]
Into = Annotated[
    Optional[Path],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
    typer.Option("--into", metavar="THEIR.YAML", help="The config that paddleformers puts the plan into."),
]
Script = Annotated[str, typer.Option("--script", metavar="SCRIPT.PY", help="What every rank runs.")]
Master = Annotated[str, typer.Option("--master", metavar="HOST:PORT", help="Of the first node, with several.")]
Candidate = Annotated[int, typer.Option("--candidate", min=1, help="Take the search's second best plan, or later.")]


def emit(
    format_name: Format,
    run: RunFile,
    overrides: Overrides = None,
    plan_file: PlanOption = None,
    output: Output = None,
    into: Into = None,
    script: Script = "train.py",
    master: Master = "",
    candidate: Candidate = 1,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a plan for fleet, auto_parallel, auto_tuner, PaddleFormers, a shell or HCCL."""
    from nebula.cli.output import apart, free
    from nebula.cli.subject import load_subject
    from nebula.emit import Options, check_format
    from nebula.errors import BadInput

    check_format(format_name)
    if into and format_name != "paddleformers":
        raise BadInput(f"--into goes with the format paddleformers; {format_name} changes no file of yours")
    apart(run, output)
    apart(plan_file, output)
    if output:
        free(output, force=force)
    options = Options(to=str(output or ""), into=_config(into) if into else None, script=script, master=master)
    subject = load_subject(run, overrides)
    plans = _candidates(subject, plan_file, candidate, format_name)
    _print_or_write(format_name, subject, plans, options, force=force, as_json=json)


def check_asked(format_name: str, to: Path | None, *, json: bool) -> None:
    """Refuses what `nebula plan` cannot print beside each other, before it searches.

    Raises:
        BadInput: there is no such format, a file without a format, or two documents for one stdout.
    """
    from nebula.emit import check_format
    from nebula.errors import BadInput

    if to and not format_name:
        raise BadInput("--emit-to says where; say what with --emit FORMAT")
    if format_name:
        check_format(format_name)
    if format_name and json and not to:
        raise BadInput("--emit and --json both print; name a file with --emit-to")


def print_or_write(format_name: str, subject: Subject, plans: Sequence[Plan], to: Path | None, *, force: bool) -> None:
    """Emits the first of the plans, to a file where one is named.

    Raises:
        BadInput: the format cannot express the plan, or a file is in the way.
    """
    from nebula.emit import Options

    _print_or_write(format_name, subject, plans, Options(to=str(to or "")), force=force, as_json=False)


def for_format(format_name: str, subject: Subject) -> Subject:
    """The same with fleet for its engine where tools above fleet are to read the plan.

    Unless another engine, or what fleet does not run, is asked for.
    """
    from nebula.planner.search import beyond_fleet

    objective = subject.run.objective
    if format_name not in OF_FLEET or beyond_fleet(objective.fixed):
        return subject
    fixed = {"engine": "fleet", **objective.fixed}
    return replace(subject, run=replace(subject.run, objective=replace(objective, fixed=fixed)))


def _candidates(subject: Subject, plan_file: Path | None, first: int, format_name: str) -> Sequence[Plan]:
    """The plan of the file, or those that a search finds from the `first` on; tools above fleet are given its plans."""
    from nebula.cli.subject import find_plan, given_plan
    from nebula.errors import BadInput

    if plan_file:
        if first > 1:
            raise BadInput("--candidate counts the plans of a search; --plan names one")
        return (given_plan(subject, plan_file),)
    found = find_plan(for_format(format_name, subject)).candidates
    if first > len(found):
        raise BadInput(f"--candidate {first}: the search kept {len(found)} plans")
    return found[first - 1 :]


def _config(path: Path) -> Config:
    """A file of the user's, character for character.

    Raises:
        BadInput: it cannot be read.
    """
    from nebula.emit import Config
    from nebula.errors import BadInput

    try:
        return Config(source=str(path), text=path.read_bytes().decode())
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file; --into names the config to change") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: cannot be read: it is not UTF-8 text") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None


def _print_or_write(
    format_name: str, subject: Subject, plans: Sequence[Plan], options: Options, *, force: bool, as_json: bool
) -> None:
    from nebula.cli.console import log, print_json
    from nebula.emit import Decided
    from nebula.emit import emit as emitted

    decided = Decided(graph=subject.graph, cluster=subject.run.cluster, candidates=tuple(plans))
    made = emitted(format_name, decided, options)
    if options.to:
        _write(made, Path(options.to), force=force)
    if as_json:
        print_json({"format": format_name, "split": decided.plan.split, "notes": list(made.notes), **_told(made)})
        return
    if not options.to:
        print(made.text, end="")
    for note in made.notes:
        log(note)


def _told(made: Emitted) -> dict[str, object]:
    return {"document": made.document, "beside": [path for path, _ in made.beside]}


def _write(made: Emitted, to: Path, *, force: bool) -> None:
    """Writes the text and the files that it names."""
    from nebula.cli.console import log
    from nebula.cli.output import free
    from nebula.whole_file import write_whole

    for path, _ in made.beside:
        free(Path(path), force=force)
    for path, text in (*made.beside, (str(to), made.text)):
        write_whole(Path(path), text)
        log(f"wrote {path}")
