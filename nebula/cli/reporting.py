"""The verb that writes a report: of a run file (a dry run), of a plan on a run file, or of a run that took place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nebula.cli.options import Force, Json, Output, Overrides, PlanOption

if TYPE_CHECKING:
    from nebula.report.findings import Findings


def report(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="A run file, or the folder of a run.")],
    overrides: Overrides = None,
    plan_file: PlanOption = None,
    output: Output = None,
    trace: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
        typer.Option("--trace", metavar="FILE", help="Also write a Chrome trace, for Perfetto."),
    ] = None,
    what_if: Annotated[
        bool, typer.Option("--what-if", help="Also plan again with more memory and with a node lost (dry runs).")
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write all about a plan, and its run, as one HTML file."""
    from nebula.cli.console import log, print_json
    from nebula.cli.output import apart, free
    from nebula.cli.run_folder import REPORT, TRACE
    from nebula.report.report_document import report_document

    in_run = source.is_dir()
    paths = [output or (source / REPORT if in_run else Path(REPORT))]
    paths += [trace] if trace else [source / TRACE] if in_run else []
    # a report in its run's own folder is a view of that run and is written again; elsewhere nothing is replaced
    apart(source, *paths)
    for path in paths:
        free(path, force=force or (in_run and path.parent == source))
    found = gather(source, overrides, plan_file, replan=what_if)
    write(found, *paths)
    if json:
        written = {"report": str(paths[0]), "trace": str(paths[1]) if len(paths) > 1 else None}
        print_json({**written, **report_document(found)})
    for path in paths:
        log(f"wrote {path}")


def gather(source: Path, overrides: list[str] | None, plan_file: Path | None, *, replan: bool = False) -> Findings:
    """The findings of a run's folder, or of a dry run with what would be if."""
    from nebula.cli.details import chosen_in_depth, dry_findings
    from nebula.cli.run_folder import run_findings
    from nebula.cli.subject import load_subject

    if source.is_dir():
        return run_findings(source)
    subject = load_subject(source, overrides)
    plan, search = chosen_in_depth(subject, plan_file, replan=replan)
    return dry_findings(plan, subject, search, replan=replan)


def write(found: Findings, output: Path, trace: Path | None = None) -> None:
    """Writes the report and, if asked, the trace."""
    from nebula.report.html import write_report
    from nebula.report.trace import write_trace

    write_report(found, output)
    if trace:
        write_trace(found, trace)
