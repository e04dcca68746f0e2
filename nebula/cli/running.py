"""The verbs that start processes: launch a script under a plan, train a built-in model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from nebula.cli.options import FaultOption, Force, Json, Overrides, PlanFile, PlanOption, RunFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nebula.cli.subject import Subject
    from nebula.cluster.values import Cluster
    from nebula.emulator.table import Fault
    from nebula.plan.values import Plan
    from nebula.report.findings import Findings, Search
    from nebula.runtime.training import Training

STEPS = 100
"""Optimizer steps of a training whose run file gives none."""


def launch(
    plan_file: PlanFile,
    script: Annotated[Path, typer.Argument(metavar="SCRIPT.PY", help="What every rank runs; it calls nebula.init().")],
    arguments: Annotated[
        Optional[list[str]],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
        typer.Argument(metavar="[ARGUMENT]...", help="Passed on to the script."),
    ] = None,
    cluster_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--cluster", metavar="CLUSTER.YAML", help="What the plan was made for; emulated devices need it."),
    ] = None,
    logs: Annotated[Path, typer.Option("--logs", metavar="FOLDER", help="Where the ranks' output goes.")] = Path("log"),
    master: Annotated[str, typer.Option("--master", metavar="HOST:PORT", help="Of the first node, with several.")] = "",
    json: Json = False,
) -> None:
    """Run a script under a plan.

    Starts paddle.distributed.launch with what the plan says. Options stand before the plan file.
    """
    from nebula.cli.console import print_json
    from nebula.cluster.schema import load_cluster
    from nebula.launch import launch as start

    cluster = load_cluster(cluster_file) if cluster_file else None
    out = sys.stderr if json else sys.stdout
    start(plan_file, script, arguments or [], cluster=cluster, log_dir=logs, master=master, out=out)
    if json:
        print_json({"plan": str(plan_file), "logs": str(logs), "failed": False})


def train(
    run: RunFile,
    overrides: Overrides = None,
    plan_file: PlanOption = None,
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", metavar="FOLDER", help="The run's folder; default: runs/MODEL."),
    ] = None,
    force: Force = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run's folder, under any plan.")
    ] = False,
    fault: FaultOption = None,
    json: Json = False,
) -> None:
    """Plan, launch and train a built-in model, then report."""
    from nebula.cli.console import log, print_json
    from nebula.cli.details import chosen_in_depth
    from nebula.cli.subject import load_subject
    from nebula.launch.faults import faults

    subject = load_subject(run, overrides)
    folder = folder or Path("runs") / subject.graph.name
    chosen, search = chosen_in_depth(subject, plan_file)
    log(f"{chosen.split} · {folder}")
    on_command = faults(fault or (), chosen.world_size)
    found = run_training(subject, chosen, search, folder, force=force, resume=resume, quiet=json, faults=on_command)
    if json:
        print_json(outcome(found, folder))
    else:
        log(outcome_words(found))
        log(f"report: {folder / 'report.html'} · trace: {folder / 'trace.json'}")


def run_training(
    subject: Subject,
    plan: Plan,
    search: Search,
    folder: Path,
    *,
    force: bool = False,
    resume: bool = False,
    quiet: bool = False,
    faults: Sequence[Fault] = (),
) -> Findings:
    """Trains under a plan and leaves plan, steps, weights, timelines, report and trace in the folder.

    Args:
        force: replace another run.
        resume: go on from its newest checkpoint.
        quiet: print the steps on stderr instead of stdout.
        faults: of emulated devices, on command.

    Raises:
        BadInput: the model is not built in, or the folder holds another run.
        EmulatorUnavailable: the emulated device cannot be built here. What the folder held is there still.
        RunFailed: a rank failed.
    """
    from nebula.cli.run_folder import make_folder
    from nebula.errors import BadInput
    from nebula.launch.training import ready
    from nebula.plan.legality import executable_on
    from nebula.runtime.training import Training

    model, job = subject.run.model, subject.run.job
    if not model.preset:
        raise BadInput("nebula train trains built-in models (model.preset); start your own script with nebula launch")
    able = executable_on(plan, subject.run.cluster)
    if not able.engine:
        raise BadInput(f"no engine can run this plan on {subject.run.cluster.name}: " + "; ".join(able.missing))
    if resume and not subject.run.checkpoint.every:
        raise BadInput(f"{subject.run.source} says nothing of checkpoints: --resume needs `checkpoint: {{every: 100}}`")
    saves = subject.run.checkpoint
    run = subject.run
    training = Training(
        preset=model.preset, seq_len=model.seq_len or 0, steps=job.steps or STEPS, checkpoint=saves, resume=resume
    )
    ready(plan, training, run.cluster, faults)
    make_folder(folder, plan, run.cluster, search, run.conditions, force=force, checkpoint=saves, resume=resume)
    return run_in(folder, training, subject.run.cluster, quiet=quiet, faults=faults)


def run_in(
    folder: Path,
    training: Training,
    cluster: Cluster,
    *,
    quiet: bool,
    faults: Sequence[Fault] = (),
    record: bool = False,
) -> Findings:
    """Trains as the plan in a run's folder says, then writes report and trace.

    Args:
        faults, record: as nebula.launch.launch takes them.

    Raises:
        RunFailed: a rank failed.
    """
    from nebula.cli.reporting import write
    from nebula.cli.run_folder import PLAN, REPORT, TRACE, run_findings
    from nebula.launch.training import train as start

    out = sys.stderr if quiet else sys.stdout
    start(folder / PLAN, training, run_dir=folder, cluster=cluster, out=out, faults=faults, record=record)
    found = run_findings(folder)
    write(found, folder / REPORT, folder / TRACE)
    return found


def outcome(found: Findings, folder: Path) -> dict[str, Any]:
    """What a training came to, for machines."""
    steps, prediction = found.measured.steps, found.plan.prediction
    return {
        "folder": str(folder),
        "steps": len(steps),
        "first_loss": steps[0].loss,
        "last_loss": steps[-1].loss,
        "clock": found.measured.clock,
        "predicted_s": prediction.step_time_s if prediction else None,
        "measured_s": found.measured.step_time_s,
        "evaluation": dict(found.measured.evaluation),
    }


def outcome_words(found: Findings) -> str:
    """What a training came to, in a sentence."""
    from nebula.report.words import measured_words

    steps = found.measured.steps
    return f"loss {steps[0].loss:.3f} → {steps[-1].loss:.3f} in {len(steps)} steps; {measured_words(found)}"
