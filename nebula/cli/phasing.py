"""What `nebula plan` does for a job with phases: a plan for each, and when to switch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nebula.errors import BadInput

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.plan.run_file import Run
    from nebula.plan.values import Plan
    from nebula.planner.legs import Phased


def show_phases(run: Run, output: Path | None, *, force: bool, json: bool) -> None:
    """Plans the phases of a run, prints them and, where asked to, writes the plan of each.

    Args:
        output: `plan.json` stands for `plan-1.json`, `plan-2.json` and so on.

    Raises:
        BadInput: a file exists and `force` is not set.
        Infeasible: nothing fits in a phase.
    """
    from nebula.cli.console import log, print_json, results
    from nebula.cli.output import free
    from nebula.plan.files import save_plan
    from nebula.report.phases_text import phased_document, phased_text

    files = phase_files(output, len(run.phases)) if output else []
    for path in files:
        free(path, force=force)
    found = find_phases(run)
    if json:
        print_json(phased_document(found))
    else:
        results().print(phased_text(found))
    for path, leg in zip(files, found.legs, strict=False):
        save_plan(leg.plan, path, overwrite=force)
        log(f"wrote {path}")


def phase_files(output: Path, phases: int) -> list[Path]:
    """A file for each phase."""
    return [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(1, phases + 1)]


def find_phases(run: Run) -> Phased:
    """The plans of the phases of a run; a terminal sees how far the search is."""
    from dataclasses import replace

    from nebula.cli.search_bar import SearchBar
    from nebula.cli.subject import model_graph
    from nebula.planner.phases import plan_phases

    line = SearchBar()
    try:
        return plan_phases(
            run.phases,
            lambda seq_len: model_graph(replace(run.model, seq_len=seq_len), run.job.precision),
            run.cluster,
            run.job,
            run.objective,
            run.conditions,
            on_progress=line,
        )
    finally:
        line.clear()


def subject_of(plan: Plan, path: Path) -> Subject:
    """What a run file asks to be planned, or the phase of it that a plan is for: of that batch, model and length.

    Raises:
        BadInput: a mistake in the file, or the plan is for none of its phases.
    """
    from dataclasses import replace

    from nebula.cli.subject import run_subject
    from nebula.graph.identity import graph_hash
    from nebula.plan.run_file import load_run

    run = load_run(path)
    if not run.phases:
        return run_subject(run)
    for phase in run.phases:
        if phase.global_batch == plan.job.global_batch:
            job = replace(run.job, global_batch=phase.global_batch, tokens=phase.tokens)
            one = run_subject(replace(run, phases=(), job=job, model=replace(run.model, seq_len=phase.seq_len)))
            if plan.made_from.model_hash in ("", graph_hash(one.graph)):
                return one
    raise BadInput(f"the plan is for none of the phases of {path}: none has its batch and its model; plan again")


def check_no_more(asked: dict[str, object]) -> None:
    """Refuses options that say nothing about several plans, so that none is silently left out.

    Args:
        asked: by option what was given; what is false was not.

    Raises:
        BadInput: one was.
    """
    for option, given in asked.items():
        if given:
            raise BadInput(f"{option} is for one plan, job.phases asks for several: leave it out, or name one phase")
