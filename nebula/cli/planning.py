"""The verbs of a dry run: graph, plan, simulate. Nothing is started, and built-in models need no Paddle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nebula.cli.options import Force, Json, Output, Overrides, PlanOption, RunFile

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.plan.values import Plan
    from nebula.report.findings import Search


PATIENCE_S = 60.0
"""After so many seconds an exploration answers with the best so far and its gap."""


def graph(run: RunFile, overrides: Overrides = None, json: Json = False) -> None:
    """Show the model as a folded graph: blocks, parameters, FLOPs."""
    from nebula.cli.console import print_json, results
    from nebula.cli.subject import load_subject
    from nebula.report.graph_table import graph_document, graph_table

    model = load_subject(run, overrides).graph
    if json:
        print_json(graph_document(model))
    else:
        results().print(graph_table(model))


def plan(
    run: RunFile,
    overrides: Overrides = None,
    output: Output = None,
    force: Force = False,
    json: Json = False,
    report: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
        typer.Option("--report", metavar="FILE", help="Also write the HTML report."),
    ] = None,
    emit: Annotated[
        str,
        typer.Option(metavar="FORMAT", help="Print the plan as `nebula emit FORMAT` does, instead of the table."),
    ] = "",
    emit_to: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--emit-to", metavar="FILE", help="Write what --emit prints here, and print the table."),
    ] = None,
    explore: Annotated[
        bool,
        typer.Option(
            "--explore",
            help="Also try what no engine runs yet, and mark it: sharding 2 and 3 with experts, states on the host.",
        ),
    ] = False,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine",
            help="With --explore: also move single layers, and give stages policies and degrees of their own.",
        ),
    ] = False,
    patience: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.0, help="How long --explore may take, and --refine after it."),
    ] = PATIENCE_S,
    resume: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Go on with what an earlier --explore found, and keep what is found here."),
    ] = None,
) -> None:
    """Find how to train the model on the cluster, and say why."""
    from nebula.cli.console import log, print_json
    from nebula.cli.details import dry_findings, recorded
    from nebula.cli.emitting import check_asked, for_format, print_or_write
    from nebula.cli.exploring import explored_plans, refined, unchanged
    from nebula.cli.output import apart, free
    from nebula.cli.phasing import check_no_more, show_phases
    from nebula.cli.subject import find_plans, run_subject, search_record
    from nebula.cost_model.economy import outlook
    from nebula.errors import BadInput
    from nebula.plan.files import save_plan
    from nebula.plan.legality import executable_on
    from nebula.plan.run_file import load_run
    from nebula.report.document import plan_document
    from nebula.report.html import write_report

    if resume and not explore:
        raise BadInput("--resume goes on with an exploration: add --explore; what engines run is searched in seconds")
    if refine and not explore:
        raise BadInput("--refine works on what an exploration finds: add --explore")
    apart(run, output, report, emit_to, resume)
    check_asked(emit, emit_to, json=json)
    for path in (output, report, emit_to):
        if path:
            free(path, force=force)
    asked = load_run(run, list(overrides or ()))
    if asked.phases:
        check_no_more({"--explore": explore, "--report": report, "--emit": emit})
        show_phases(asked, output, force=force, json=json)
        return
    subject = run_subject(asked)
    if explore:
        settle = refined(subject, patience) if refine else unchanged
        answer, tried = explored_plans(subject, patience, resume, settle)
    else:
        subject = for_format(emit, subject)
        answer, tried = find_plans(subject)
    search = search_record(answer)
    if json:
        able = executable_on(answer.plan, subject.run.cluster)
        ahead = outlook(subject.graph, subject.run.cluster, answer.plan, subject.run.conditions)
        print_json(plan_document(answer.plan, search, able, ahead))
    elif not emit or emit_to:
        show(answer.plan, subject, search)
    if output:
        save_plan(answer.plan, output, overwrite=force)
        log(f"wrote {output}")
    if report:
        told = recorded(subject, answer, tried, explored=explore)
        write_report(dry_findings(answer.plan, subject, told), report)
        log(f"wrote {report}")
    if emit:
        print_or_write(emit, subject, answer.candidates, emit_to, force=force)


def show(plan: Plan, subject: Subject, search: Search) -> None:
    """Prints a plan as a table."""
    from nebula.cli.console import results
    from nebula.cli.subject import subject_findings
    from nebula.report.table import print_plan

    print_plan(subject_findings(plan, subject, search), results())


def simulate(
    run: RunFile,
    overrides: Overrides = None,
    plan_file: PlanOption = None,
    trace: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--trace", metavar="FILE", help="Write a Chrome trace, for Perfetto."),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Predict one step of a plan, event by event."""
    from nebula.cli.console import log, print_json, results
    from nebula.cli.output import free
    from nebula.cli.subject import chosen_plan, load_subject, subject_findings
    from nebula.report.document import prediction_document
    from nebula.report.timeline_text import timeline_text
    from nebula.report.trace import write_trace

    if trace:
        free(trace, force=force)
    subject = load_subject(run, overrides)
    chosen, search = chosen_plan(subject, plan_file)
    found = subject_findings(chosen, subject, search)
    if json:
        assert chosen.prediction is not None
        events = [span._asdict() for span in found.spans]
        print_json({"prediction": prediction_document(chosen.prediction, found.outlook), "events": events})
    else:
        results().print(timeline_text(found))
    if trace:
        write_trace(found, trace)
        log(f"wrote {trace}: open it at https://ui.perfetto.dev")
