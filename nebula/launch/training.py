"""Trains a built-in model under a plan: `train` starts the ranks, `main` is what each of them runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from nebula.checkpoint.folder import newest
from nebula.cluster.values import Cluster
from nebula.emulator.table import Fault
from nebula.errors import RunFailed
from nebula.launch import process
from nebula.launch.process import launch
from nebula.models.data.encoded import encoded_corpus
from nebula.plan.values import Plan
from nebula.runtime.training import Training, load, save

LOGS = "log"
"""Folder in that of a run."""

SCRIPT = Path(__file__).parent / "entry" / "train.py"


def train(
    plan_path: Path,
    training: Training,
    *,
    run_dir: Path,
    cluster: Cluster | None = None,
    out: TextIO | None = None,
    faults: Sequence[Fault] = (),
    record: bool = False,
) -> int:
    """Trains a built-in model and returns once it is done.

    Args:
        plan_path: the plan file.
        run_dir: receives training.json, steps.jsonl, timeline.<rank>.json, weights.safetensors, evaluation.json,
            checkpoints and saves.jsonl where the training saves and, in `log`, what the processes said.
        faults, record: as `launch` takes them.

    Raises:
        BadInput: the plan does not fit the cluster, or the text corpus is not installed.
        RunFailed: a rank failed; the text names the newest checkpoint, if the run made one.
    """
    encoded_corpus(training.config.vocabulary)  # built once here, before every rank looks for it
    save(training, run_dir)
    before = _saved(training, run_dir)
    try:
        arguments, logs = [str(run_dir.resolve())], run_dir / LOGS
        return launch(
            plan_path, SCRIPT, arguments, cluster=cluster, log_dir=logs, out=out, faults=faults, record=record
        )
    except RunFailed as error:
        kept = _saved(training, run_dir)
        if kept == before:  # what was there before may be what the ranks refused
            raise
        raise RunFailed(f"{error}; step {kept} is saved: nebula train --resume goes on from it") from None


def ready(plan: Plan, training: Training, cluster: Cluster, faults: Sequence[Fault] = ()) -> None:
    """Makes sure that a training can start here, before anything that an earlier one left is replaced.

    Raises:
        BadInput: the plan does not fit the cluster, the text corpus is not installed, or real devices were to fail.
        EmulatorUnavailable: the emulated device cannot be built here.
    """
    encoded_corpus(training.config.vocabulary)
    process.ready(plan, cluster, faults)


def _saved(training: Training, run_dir: Path) -> int:
    """The step of the newest complete checkpoint; 0 without one."""
    found = newest(run_dir / training.checkpoint.folder) if training.checkpoint.every else None
    return found.step if found else 0


def main() -> None:
    """One rank of a training; the run folder is the only argument."""
    import nebula
    from nebula.launch.emulated_clock import clock_of
    from nebula.runtime.circles import kinds
    from nebula.runtime.start import device
    from nebula.runtime.trainer import train as run

    run_dir = Path(sys.argv[1])
    plan = nebula.init()
    run(plan, load(run_dir), run_dir, clock_of(device(), kinds()))
