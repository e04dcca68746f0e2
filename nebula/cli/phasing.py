"""What `nebula plan` does for a job with phases: a plan for each, and when to switch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nebula.errors import BadInput

if TYPE_CHECKING:
    from nebula.plan.run_file import Run
    from nebula.planner.phases import Phased


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
