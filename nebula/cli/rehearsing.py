"""The verb that rehearses: a plan at reduced width on emulated devices of its cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from nebula.cli.options import Force, Json, Overrides, PlanOption, RunFile

if TYPE_CHECKING:
    from nebula.cli.subject import Subject
    from nebula.plan.values import Plan
    from nebula.rehearsal.verdict import Rehearsal

SPLIT, SERIAL = "split", "serial"
"""Folders of the two runs, in that of the rehearsal."""


def rehearse(
    run: RunFile,
    overrides: Overrides = None,
    plan_file: PlanOption = None,
    folder: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
        typer.Option("-o", "--output", metavar="FOLDER", help="For both runs; default: rehearsals/MODEL."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=3, metavar="N", help="Optimizer steps of each run.")] = 4,
    force: Force = False,
    json: Json = False,
) -> None:
    """Run a plan at reduced width on emulated devices, beside a serial run.

    Shows whether it deadlocks, whether it computes what one process computes, and its times and memory beside the
    prediction's. Ends with 4 where the plan does not hold.
    """
    from nebula.cli.console import log, print_json, results
    from nebula.cli.details import chosen_in_depth
    from nebula.cli.subject import load_subject
    from nebula.report.rehearsal_text import rehearsal_document, rehearsal_text

    subject = load_subject(run, overrides)
    folder = folder or Path("rehearsals") / subject.graph.name
    chosen, _ = chosen_in_depth(subject, plan_file)
    log(f"{chosen.split} · {folder}")
    found = rehearsal(subject, chosen, folder, steps, force=force)
    if json:
        print_json(rehearsal_document(found))
    else:
        results().print(rehearsal_text(found))
        log(f"report: {folder / SPLIT / 'report.html'} · trace of both timelines: {folder / SPLIT / 'trace.json'}")
    if not found.holds:
        raise typer.Exit(4)


def rehearsal(subject: Subject, plan: Plan, folder: Path, steps: int, *, force: bool) -> Rehearsal:
    """Runs a plan and a serial process at reduced width.

    Raises:
        BadInput: the model has no layers of ours, the plan has more ranks than a host rehearses, or the folder holds
            another rehearsal.
        RunFailed: a rank failed, or waited for another until its patience ended.
    """
    from dataclasses import replace

    from nebula.cli.run_folder import make_folder
    from nebula.cli.running import run_in
    from nebula.cost_model.evaluate import evaluate, predicted_timeline
    from nebula.errors import BadInput
    from nebula.models.presets import preset
    from nebula.plan.legality import executable_on
    from nebula.rehearsal.devices import emulated
    from nebula.rehearsal.fold import alone, folded, made_for
    from nebula.rehearsal.shape import narrow
    from nebula.rehearsal.verdict import Rehearsal, loss_difference, stage_rows
    from nebula.report.findings import Search
    from nebula.runtime.training import Training

    run = subject.run
    if not run.model.preset:
        raise BadInput("nebula rehearse runs built-in models (model.preset), whose layers it can make narrow")
    small = folded(plan)
    degrees = [len(replica.ranks) for stage in small.plan.stages for replica in stage.replicas]
    shape = narrow(preset(run.model.preset), degrees)
    cluster = emulated(run.cluster, plan.job.precision)
    training = Training(preset=run.model.preset, steps=steps, shape=shape, evaluate=False)
    graph = _graph(training)
    split = made_for(small.plan, graph, cluster)
    able = executable_on(split, cluster)
    if not able.engine:
        raise BadInput("no engine can run this plan: " + "; ".join(able.missing))
    split = replace(split, prediction=evaluate(graph, cluster, split))
    serial = alone(split)
    serial = replace(serial, prediction=evaluate(graph, cluster, serial))
    measured = []
    for name, one in ((SERIAL, serial), (SPLIT, split)):
        make_folder(folder / name, one, cluster, Search(), run.conditions, force=force)
        measured.append(run_in(folder / name, training, cluster, quiet=True).measured)
    losses = [[step.loss for step in one.steps] for one in measured]
    assert split.prediction is not None
    return Rehearsal(
        plan=split,
        left_out=small.left_out,
        whole_memory=_fullest(plan),
        loss_difference=loss_difference(losses[1], losses[0]),
        predicted_s=split.prediction.step_time_s,
        measured_s=measured[1].step_time_s,
        rows=stage_rows(split, predicted_timeline(graph, cluster, split), folder / SPLIT),
    )


def _graph(training: Any) -> Any:
    from nebula.cli.subject import trained_graph

    return trained_graph(training, "fp32")


def _fullest(plan: Plan) -> float:
    """Of its limit, what the fullest device of the whole plan fills."""
    return max((memory.share for memory in plan.prediction.memory), default=0.0) if plan.prediction else 0.0
