"""Trains a built-in model as one member of a group of replicas; the one of the least number writes what is written."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from nebula.checkpoint.folder import checkpoints
from nebula.checkpoint.manifest import Damaged
from nebula.models.families import family_of
from nebula.plan.values import Plan
from nebula.runtime.checkpoints import Checkpoints, NoCheckpoints, split_of
from nebula.runtime.damaged import set_aside
from nebula.runtime.hosts import Directory, Hosts
from nebula.runtime.parallelize import Step
from nebula.runtime.progress import NoProgress, Progress, Section
from nebula.runtime.replicas.members import Members, Roll
from nebula.runtime.replicas.on_paddle import OnPaddle, Rows
from nebula.runtime.replicas.session import Session
from nebula.runtime.replicas.tree import Array
from nebula.runtime.resume import resume
from nebula.runtime.steps import StepRecord
from nebula.runtime.trainer import about_of, built, checkpoints_of, finish
from nebula.runtime.training import STEPS, Training


class Line(Roll, Directory, Protocol):
    """A member's line to the roll."""

    @property
    def number(self) -> int:
        """This member's."""

    def tell_changes(self, heard: Callable[[Members], None]) -> None:
        """Has a function hear of every change, by another thread."""

    def close(self) -> None:
        """Says that all steps are done, and hangs up."""


def train(plan: Plan, training: Training, run_dir: Path, line: Line, host: str) -> None:
    """Trains to the end.

    Args:
        plan: of one process, with as many micro-batches as there are shards.
        line: to the roll.
        host: of this member, as the others reach it.

    Raises:
        BadInput: the training cannot be parted into shards.
        LeftOut: the others go on without this member.
    """
    step, rate, data = built(plan, training)
    family, progress = family_of(training.config), step.progress
    replica = Watched(step, lambda index, rows: family.batch(data, index, rows), seed=training.seed, after=rate.step)
    first = _taken_up(step, training, run_dir, progress)
    progress.begin_at(first)
    hosts = Hosts(line.number, line, host)
    session = Session(hosts, line, replica, shards=plan.micro_batches, step=first)
    line.tell_changes(session.heard)
    tokens = family.sequences * data.seq_len * data.global_batch
    books = Books(step, training, run_dir, tokens)
    replica.saves = lambda: books.saves
    before_s = time.perf_counter()
    while session.done < training.steps:
        session.step()
        now_s = time.perf_counter()
        books.note(session, replica.loss, now_s - before_s)
        before_s = now_s
        progress.begin_at(session.done - 1)  # a newcomer has done none of those before
        progress.step_done()
        progress.enter(Section.COLLECTIVE)  # before its next shard it may wait for one that comes
    leads = session.leads
    books.close(session.done, leads=leads)
    if leads:
        finish(step, family, training.config, data, training, run_dir)
    hosts.close()
    line.close()


class Watched(OnPaddle):
    """A member's model whose agent sees what it does.

    Members do unlike numbers of shards, so that of each step the first one alone counts as work to compare them by;
    while a member writes a checkpoint beside, what it took before counts.

    Attributes:
        saves: whether a checkpoint is being written.
    """

    saves: Callable[[], bool]

    def __init__(self, step: Step, batch: Rows, **more: Any) -> None:
        super().__init__(step, batch, **more)
        self._progress = step.progress  # that of the saves, too: two on one file would count all time twice
        self.saves = lambda: False
        self._begun, self._shard_s, self._uncounted_s = -1, 0.0, 0.0
        self._progress.keep(lambda: time.monotonic() - self._uncounted_s)

    def gradient(self, step: int, shard: int) -> tuple[Array, Any]:
        """A shard's share; whatever follows the last one waits for others."""
        self._progress.enter(Section.FORWARD)
        began_s, saves = time.monotonic(), self.saves()
        found = super().gradient(step, shard)
        self._count(time.monotonic() - began_s, first=step > self._begun, saves=saves or self.saves())
        self._begun = step
        self._progress.enter(Section.COLLECTIVE)
        return found

    def _count(self, took_s: float, *, first: bool, saves: bool) -> None:
        if not first:
            self._uncounted_s += took_s
        elif saves:
            self._uncounted_s += took_s - self._shard_s
        else:
            self._shard_s = took_s


class Books:
    """The steps of a run and its checkpoints, which the member that leads writes; another may lead at any time.

    A member that comes to lead writes first what it knows of and the file lacks.
    """

    def __init__(self, step: Step, training: Training, run_dir: Path, tokens: int) -> None:
        self._step, self._training, self._run_dir, self._tokens = step, training, run_dir, tokens
        self._latest: deque[StepRecord] = deque(maxlen=64)
        self._checkpoints: Checkpoints | NoCheckpoints | None = None
        self._leads = False

    @property
    def saves(self) -> bool:
        """Whether a checkpoint is being written beside the training."""
        return isinstance(self._checkpoints, Checkpoints) and self._checkpoints.saves

    def note(self, session: Session, loss: float, took_s: float) -> None:
        """Takes note of a step that is done."""
        record = StepRecord(
            step=session.done,
            loss=loss,
            tokens=self._tokens,
            predicted_s=0.0,
            took_s=took_s,
            clock="wall",
            memory_bytes=0,
            mfu=0.0,
        )
        self._latest.append(record)
        if session.leads:
            self._write([record] if self._leads else self._latest)
            if self._checkpoints is None:
                training = self._training
                self._checkpoints = checkpoints_of(
                    self._step, training, training.config, self._run_dir, beside_passes=False
                )
                if isinstance(self._checkpoints, Checkpoints):
                    self._checkpoints.others_hold = True
            self._checkpoints.after(session.done)
        self._leads = session.leads

    def _write(self, records: Iterable[StepRecord]) -> None:
        path = self._run_dir / STEPS
        written = _last_step(path)
        with path.open("a") as file:
            for record in records:
                if record.step > written:
                    record.write(file)
                    print(record.line, flush=True)

    def close(self, done: int, *, leads: bool) -> None:
        """Saves the last step, and waits for it."""
        if leads and self._checkpoints is not None:
            self._checkpoints.save(done)
            if isinstance(self._checkpoints, Checkpoints):
                self._checkpoints.close()


def _last_step(path: Path) -> int:
    """Of the file; a last line that was cut off is removed."""
    if not path.is_file():
        return 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole))
    return int(json.loads(whole[-1])["step"]) if whole else 0


def _taken_up(step: Step, training: Training, run_dir: Path, progress: Progress | NoProgress) -> int:
    """Optimizer steps that are done when the process begins: those of the newest whole checkpoint."""
    policy = training.checkpoint
    goes_on = training.resume and policy.every
    there = [one for one in checkpoints(run_dir / policy.folder) if one.complete] if goes_on else []
    about = about_of(step, training, training.config)
    while there:
        newest = there.pop()
        try:
            return int(resume(step, newest.path, split_of(step.plan), about).step)
        except Damaged as error:
            instead = f"{there[-1].path.name} is" if there else ""
            print(set_aside(newest.path, error, instead, progress), flush=True)
    return 0
