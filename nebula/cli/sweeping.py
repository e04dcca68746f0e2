"""The verbs that plan a run many times: sweep over values of its keys, scaling over sizes of its cluster.

What cannot be planned is a row with its reason; a key that does not exist ends the verb before anything is planned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nebula.cli.options import Force, Json, Overrides, RunFile

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.graph.values import DistributedGraph
    from nebula.plan.axes import Combination
    from nebula.plan.job import ModelSpec
    from nebula.plan.run_file import Run
    from nebula.planner.outcome import Outcome
    from nebula.report.outcome_rows import OutcomeRow

Plot = Annotated[
    Optional[Path],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
    typer.Option("--plot", metavar="FILE", help="Also draw it: .html (with the table) or .svg."),
]
PREDICTED = "Predicted, not measured; every row is the best plan that the planner finds for it."


def sweep(
    run: RunFile,
    values: Annotated[
        list[str],
        typer.Argument(metavar="KEY=V1,V2...", help="Values of a key: job.global_batch=64,128 devices=8,16,...,64"),
    ],
    plot: Plot = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Plan the run for every combination of values, and compare."""
    from nebula.cli.console import CountLine
    from nebula.plan.axes import axes, combinations
    from nebula.report.outcome_drawing import sweep_drawing
    from nebula.report.outcome_rows import OutcomeRow

    _check_plot(plot, force)
    cases = combinations(axes(values))
    runs = [_loaded(run, case) for case in cases]
    line, graphs, rows = CountLine("planning", len(cases), "combinations"), _Graphs(), []
    for number, (case, loaded) in enumerate(zip(cases, runs, strict=True)):
        line(number)
        rows.append(OutcomeRow(labels=case, outcome=_outcome(loaded, graphs)))
    line.clear()
    name = next((loaded.model.name for loaded in runs if not isinstance(loaded, str)), run.name)
    _show(rows, f"{name}: {len(rows)} combinations", sweep_drawing, plot, json)


def scaling(
    run: RunFile,
    overrides: Overrides = None,
    devices: Annotated[
        str, typer.Option("--devices", metavar="N1,N2,...", help="Sizes: 8,16,...,1920 (doubling); all by default.")
    ] = "",
    strong: Annotated[
        bool, typer.Option("--strong/--weak", help="Keep the global batch, or the rows of a device (the default).")
    ] = False,
    plot: Plot = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Plan the run at several sizes of its cluster: how well does it scale?"""
    from nebula.cli.console import CountLine
    from nebula.cli.subject import load_subject
    from nebula.plan.axes import whole_numbers
    from nebula.planner.scaling import doubled_sizes
    from nebula.planner.scaling import scaling as scale
    from nebula.report.outcome_drawing import scaling_drawing
    from nebula.report.outcome_rows import scaling_rows

    _check_plot(plot, force)
    subject = load_subject(run, overrides)
    asked = subject.run
    sizes = whole_numbers(devices, "--devices") if devices else doubled_sizes(asked.cluster)
    line, curve = CountLine("planning", len(sizes), "sizes"), "strong" if strong else "weak"
    points = scale(
        subject.graph,
        asked.cluster,
        asked.job,
        replace(asked.objective, exclude=()),
        sizes=sizes,
        curve=curve,
        conditions=asked.conditions,
        on_point=line,
    )
    line.clear()
    _show(scaling_rows(points), _scaling_title(subject, curve), scaling_drawing, plot, json)


def _scaling_title(subject: Subject, curve: str) -> str:
    job, cluster = subject.run.job, subject.run.cluster
    kept = f"{job.global_batch:,} rows a step"
    if curve == "weak":
        rows = job.global_batch / cluster.device_count
        kept = f"{rows:g} row{'' if rows == 1 else 's'} a device and step"
    return f"{subject.graph.name} on {cluster.name}: {curve} scaling, {kept}"


def _show(
    rows: Sequence[OutcomeRow],
    title: str,
    drawn: Callable[[Sequence[OutcomeRow], str], str],
    plot: Path | None,
    json: bool,
) -> None:
    """Prints the rows, draws them when asked to, and fails when not one of them has a plan."""
    import sys

    from nebula.cli.console import log, print_json, results
    from nebula.errors import Infeasible
    from nebula.report.outcome_page import write_plot
    from nebula.report.outcome_rows import row_document
    from nebula.report.outcome_table import outcome_table

    if json:
        print_json({"title": title, "rows": [row_document(row) for row in rows]})
    else:
        results().print(outcome_table(rows, title, PREDICTED))
    if plot:
        write_plot(plot, drawn(rows, title), rows, title, PREDICTED)
        log(f"wrote {plot}")
    if not any(row.outcome.plan for row in rows):
        sys.stdout.flush()
        raise Infeasible("not one of the rows has a plan, as said above")


def _check_plot(plot: Path | None, force: bool) -> None:
    from nebula.cli.output import free
    from nebula.report.outcome_page import check_kind

    if plot:
        check_kind(plot)
        free(plot, force=force)


def _loaded(path: Path, case: Combination) -> Run | str:
    """The run with the values of a combination, or why there is none.

    Raises:
        UnknownKey: a key that does not exist.
        BadInput: the file itself cannot be read.
    """
    from nebula.cluster.resize import with_devices
    from nebula.errors import BadInput, UnknownKey
    from nebula.marked_yaml import read
    from nebula.plan.axes import DEVICES
    from nebula.plan.phases_section import refuse_phases
    from nebula.plan.run_file import load_run
    from nebula.planner.outcome import first_sentence

    read(path)
    try:
        run = load_run(path, [f"{key}={value}" for key, value in case if key != DEVICES])
        refuse_phases(run.phases, run.source)
        sizes = [int(value) for key, value in case if key == DEVICES]
        # the nodes to leave out are out of the cluster already, and a smaller one may not have them
        objective = replace(run.objective, exclude=())
        return replace(run, cluster=with_devices(run.cluster, *sizes) if sizes else run.cluster, objective=objective)
    except UnknownKey:
        raise
    except BadInput as error:
        return first_sentence(error)


class _Graphs:
    """The graphs of models, each described once."""

    def __init__(self) -> None:
        self.known: dict[tuple[ModelSpec, str], DistributedGraph] = {}

    def of(self, run: Run) -> DistributedGraph:
        from nebula.cli.subject import model_graph

        key = (run.model, run.job.precision)
        if key not in self.known:
            self.known[key] = model_graph(*key)
        return self.known[key]


def _outcome(run: Run | str, graphs: _Graphs) -> Outcome:
    """What planning a run comes to."""
    from nebula.cli.subject import token_wise
    from nebula.errors import BadInput
    from nebula.planner.outcome import Outcome, first_sentence, plan_outcome

    if isinstance(run, str):
        return Outcome(reason=run)
    try:
        graph = graphs.of(run)
    except BadInput as error:
        return Outcome(devices=run.cluster.device_count, reason=first_sentence(error))
    asked = (graph, run.cluster, run.job, run.objective)
    return plan_outcome(*asked, conditions=run.conditions, token_wise=token_wise(run.model))
