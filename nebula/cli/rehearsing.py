"""The verb that rehearses: a plan at reduced width on emulated devices of its cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nebula.cli.options import FaultOption, Force, Json, Overrides, PlanOption, RunFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nebula.cli.subject import Subject
    from nebula.cluster.values import Cluster
    from nebula.models.config import ErnieConfig
    from nebula.models.decoders import DecoderConfig
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
    fault: FaultOption = None,
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
    _layers_of(subject)
    folder = folder or Path("rehearsals") / subject.graph.name
    chosen, _ = chosen_in_depth(subject, plan_file)
    log(f"{chosen.split} · {folder}")
    found = rehearsal(subject, chosen, folder, steps, force=force, faults=fault or ())
    if json:
        print_json(rehearsal_document(found))
    else:
        results().print(rehearsal_text(found))
        log(f"report: {folder / SPLIT / 'report.html'} · trace of both timelines: {folder / SPLIT / 'trace.json'}")
    if not found.holds:
        raise typer.Exit(4)


def rehearsal(
    subject: Subject, plan: Plan, folder: Path, steps: int, *, force: bool, faults: Sequence[str] = ()
) -> Rehearsal:
    """Runs a plan and a serial process at reduced width.

    Args:
        faults: of the devices of the split run, on command (nebula.launch.faults).

    Raises:
        BadInput: the model has no layers of ours, the plan is not legal or has more ranks than a host rehearses, or
            the folder holds another rehearsal.
        RunFailed: a rank failed, or waited for another until its patience ended.
    """
    from dataclasses import replace

    from nebula.cli.run_folder import make_folder
    from nebula.cli.running import run_in
    from nebula.cli.subject import trained_graph
    from nebula.cost_model.evaluate import evaluate, predicted_timeline
    from nebula.errors import BadInput
    from nebula.launch.emulate import steps_on_shared_links
    from nebula.launch.faults import faults as parsed
    from nebula.launch.training import LOGS, ready
    from nebula.plan.legality import executable_on, violations
    from nebula.rehearsal.devices import emulated
    from nebula.rehearsal.fold import alone, folded, made_for
    from nebula.rehearsal.shape import degrees_of, narrow
    from nebula.rehearsal.verdict import Rehearsal, loss_difference, stage_rows
    from nebula.rehearsal.walk import waiting
    from nebula.report.findings import Search, median_step
    from nebula.runtime.training import Training

    run = subject.run
    wide = _layers_of(subject)
    broken = violations(plan, layers=len(subject.graph.layers), cluster=run.cluster)
    if broken:
        raise BadInput("the plan is not legal: " + "; ".join(violation.sentence for violation in broken))
    try:
        small = folded(plan)
    except BadInput as error:
        raise BadInput(f"{error}{_without_a_run(plan)}") from None
    shape = narrow(wide, degrees_of(small.plan))
    cluster = emulated(run.cluster, plan.job.precision)
    training = Training(preset=run.model.preset, steps=steps, shape=shape, evaluate=False)
    graph = trained_graph(training, "fp32")
    split = made_for(small.plan, graph, cluster)
    able = executable_on(split, cluster)
    if not able.engine:
        raise BadInput("no engine can run this plan: " + "; ".join(able.missing))
    split = replace(split, prediction=evaluate(graph, cluster, split))
    serial = alone(split)
    serial = replace(serial, prediction=evaluate(graph, cluster, serial))
    measured, on_command = [], parsed(faults, split.world_size)
    both = ((SERIAL, serial, ()), (SPLIT, split, on_command))
    for _, one, what in both:
        ready(one, training, cluster, what)
    for name, one, what in both:
        make_folder(folder / name, one, cluster, Search(), run.conditions, force=force)
        took = run_in(folder / name, training, cluster, quiet=True, faults=what, record=name == SPLIT)
        measured.append(took.measured)
    shared = steps_on_shared_links(cluster, split, folder / SPLIT / LOGS)
    losses = [[step.loss for step in one.steps] for one in measured]
    assert split.prediction is not None
    return Rehearsal(
        plan=split,
        left_out=(*small.left_out, *_unproved(plan, run.cluster)),
        whole_ranks=plan.world_size,
        whole_waits=waiting(plan),
        whole_memory=_fullest(plan),
        loss_difference=loss_difference(losses[1], losses[0]),
        predicted_s=split.prediction.step_time_s,
        measured_s=measured[1].step_time_s,
        shared_s=median_step(shared),
        rows=stage_rows(split, predicted_timeline(graph, cluster, split), folder / SPLIT),
    )


def _layers_of(subject: Subject) -> ErnieConfig | DecoderConfig:
    """The model that is made narrow.

    Raises:
        BadInput: it has no layers of ours.
    """
    from nebula.errors import BadInput
    from nebula.models.presets import layered

    if not subject.run.model.preset:
        raise BadInput("nebula rehearse runs built-in models (model.preset), whose layers it can make narrow")
    return layered(subject.run.model.preset)


def _unproved(plan: Plan, cluster: Cluster) -> tuple[str, ...]:
    """A sentence on what no engine can do yet on the devices themselves, though emulated ones ran it."""
    from nebula.plan.legality import executable_on

    able = executable_on(plan, cluster)
    return () if able.engine else (f"that {cluster.name} can run it: {'; '.join(able.missing)}",)


def _without_a_run(plan: Plan) -> str:
    """What is known of a plan that no host runs: whether its ranks wait for ever, and its memory."""
    from nebula.plan.legality import executable
    from nebula.rehearsal.walk import waiting

    if not executable(plan, "emulated").engine:
        return ""
    memory = f"; its fullest device would hold {_fullest(plan):.0%} of what it may" if plan.prediction else ""
    return f". Without a run: {waiting(plan) or 'no rank waits for ever'}{memory} (predicted)"


def _fullest(plan: Plan) -> float:
    """Of its limit, what the fullest device of the whole plan fills."""
    return max((memory.share for memory in plan.prediction.memory), default=0.0) if plan.prediction else 0.0
