"""Saves a training while it goes on, and takes it up again, under the same plan or another.

A save copies what this rank holds to host memory, which is all that training waits for when it is asynchronous; a
thread writes it (nebula.runtime.save). Where nothing but an optimizer's update changes weights, the thread copies, too,
beside the passes of the next step. The next save waits for the one before. What goes wrong in the thread is raised at
the next call.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import paddle

from nebula.checkpoint import folder as folders
from nebula.checkpoint.boxes import Box
from nebula.checkpoint.commit import saving_folder
from nebula.checkpoint.copies import WHERE, CopyReader
from nebula.checkpoint.manifest import Damaged
from nebula.checkpoint.policy import FOLDER, KEEP, Policy
from nebula.checkpoint.shard_file import Part
from nebula.checkpoint.share import Copy, writers
from nebula.errors import BadInput, RunFailed
from nebula.plan.plain import encode
from nebula.plan.values import Plan
from nebula.runtime import random_state
from nebula.runtime.circles import from_all
from nebula.runtime.damaged import set_aside
from nebula.runtime.fence import check_fence, raise_fence
from nebula.runtime.held import Held, held, innermost
from nebula.runtime.memory_copy import NoMemoryCopies, memory_copies, offered, parts_in_place
from nebula.runtime.parallelize import Step
from nebula.runtime.progress import STOPPED, NoProgress, Section
from nebula.runtime.resume import resume
from nebula.runtime.save import LAST_S, LONG_S, Save, SaveRecord
from nebula.runtime.save_interval import SaveInterval


class Checkpoints:
    """The checkpoints of a training.

    Use it in a `with` block: at its end the last save is complete, or its error is raised.

    Attributes:
        position: what `after` was given with the checkpoint that `resume` took up; None without.
        records: of the saves that are complete, on rank 0.
        run: a word that tells this run's unfinished checkpoints from another's.
        others_hold: other processes hold the same training, as replicas do.
    """

    def __init__(
        self,
        step: Step,
        folder: Path | str = FOLDER,
        *,
        every: int,
        keep: int = KEEP,
        asynchronous: bool = True,
        beside_passes: bool = False,
        mtbf_s: float = 0.0,
        about: Mapping[str, Any] | None = None,
        tell: Callable[[str], None] = print,
        journal: Path | None = None,
    ) -> None:
        """Looks at the folder, which every rank must see; call it on all ranks.

        Where an agent watches the rank, `after` copies the training to its memory as well, and `resume` prefers what
        the agent kept there to a checkpoint that is older.

        Args:
            step: from nebula.parallelize.
            every: optimizer steps between two saves.
            keep: how many of the newest checkpoints stay.
            asynchronous: go on training while files are written.
            beside_passes: copy weights and optimizer states in the host's memory while the next step's passes run: only
                for a script that does not change them between two steps (as an evaluation with averaged weights does).
            mtbf_s: mean seconds between failures of the job; above 0 the interval follows from what saves cost.
            about: plain data that must be the same when the training is taken up again: what the data are, seeds.
            tell: receives a sentence of every save and of the resume, on rank 0.
            journal: receives a JSON line of every save, on rank 0.

        Raises:
            BadInput: `every` or `keep` is not 1 or more.
        """
        if every < 1:
            raise BadInput(f"checkpoints every {every} steps: give 1 or more")
        self.step, self.folder = step, Path(folder)
        self.policy = Policy(every=every, folder=str(folder), keep=keep, asynchronous=asynchronous, mtbf_s=mtbf_s)
        self._interval = SaveInterval(self.policy)
        self.journal = journal
        self.about, self.position = plain(dict(about or {}), "about"), None
        self.records: list[SaveRecord] = []
        self.run = from_all(self._begin(), step.plan.world_size)[0]
        self._tell = tell if step.place.rank == 0 else _silent
        self._digests: list[int] = []
        self._mine: set[tuple[str, Box]] = set()
        self._save: Save | None = None
        self._saved, self._ending, self._long_s = -1, False, LONG_S
        self.others_hold = False
        self._copies = memory_copies(step)
        self._beside_passes = beside_passes and asynchronous
        if self._beside_passes:
            step.driver.observers.append(self._before_update)

    def _begin(self) -> str:
        """A word for this run, once nothing is left of a run that crashed."""
        if self.step.place.rank == 0:
            raise_fence(self.folder)
            folders.sweep(self.folder)
        return uuid.uuid4().hex[:8]

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()

    def resume(self) -> int:
        """Fills the model and its optimizer with the newest complete checkpoint, if there is one.

        Returns:
            Optimizer steps that are done: the index of the next batch.

        Raises:
            Damaged: the checkpoint is damaged; in an elastic job, all are, and it has no copies in memory.
            BadInput: it is of another model, optimizer or data.
        """
        self.step.progress.enter(Section.LOAD)
        done = self._resume()
        self.step.progress.begin_at(done)
        return done

    def _resume(self) -> int:
        there, copies = [one for one in folders.checkpoints(self.folder) if one.complete], offered()
        saved = from_all([(one.step, one.path.name) for one in there], self.step.plan.world_size)[0]
        while saved or copies is not None:
            in_memory = copies is not None and (not saved or copies.manifest.step >= saved[-1][0])
            path = None if in_memory else self.folder / saved.pop()[1]
            try:
                return self._take_up(path, copies)
            except Damaged as error:
                copies = None if in_memory else copies
                self._set_aside(path, error, saved, copies)
        self._tell(f"no complete checkpoint in {self.folder}: training begins at step 1")
        return 0

    @property
    def _watched(self) -> bool:
        """Whether an agent has this process go on by itself, and the job's events are read by people."""
        return not isinstance(self.step.progress, NoProgress)

    def _set_aside(
        self, path: Path | None, error: Damaged, older: Sequence[tuple[int, str]], copies: CopyReader | None
    ) -> None:
        """Has all ranks go on from what there is besides; raises the error where there is nothing."""
        in_memory = copies is not None and (not older or copies.manifest.step >= older[-1][0])
        instead = "copies in memory are" if in_memory else f"{older[-1][1]} is" if older else ""
        if self.step.place.rank == 0:
            self._tell(set_aside(path, error, instead, self.step.progress))
        elif not instead or not self._watched:
            raise error

    def _take_up(self, path: Path | None, copies: CopyReader | None) -> int:
        """Fills the training with a checkpoint; without one with copies in memory."""
        found = path or copies
        assert found is not None
        manifest = resume(self.step, found, split_of(self.step.plan), self.about)
        self.position, self._saved = manifest.facts["position"], manifest.step
        same = manifest.facts["split"] == split_of(self.step.plan)
        saved = "" if same else f", saved under another plan ({manifest.facts['words']})"
        self._tell(f"resumed from {path or 'memory'}{saved}: training goes on at step {manifest.step + 1}")
        return manifest.step

    def after(self, done: int, *, position: Any = None) -> bool:
        """Saves if it is time to.

        Args:
            done: optimizer steps that are done.
            position: plain data that tell the place in the data, where `done` alone does not.

        Returns:
            Whether it was.

        Raises:
            RunFailed: this save or the one before could not be written, and no agent keeps copies in memory.
        """
        progress = self.step.progress
        progress.enter(Section.CHECKPOINT)
        self._collect(wait=False)
        self._copies.after(done, lambda: self._facts_of_copy(position))
        self._interval.stepped(time.monotonic())
        due = self._interval.due(done)
        if due:
            self.save(done, position=position)
        if 0 < progress.stop_at <= done:
            self._stop(done, position)
        progress.enter(Section.DATA)
        return due

    def _stop(self, done: int, position: Any) -> None:
        """Ends this process at a step, as its agent asked: nothing is lost, and all ranks end at the same one.

        The step is kept in memory; where the controller knows of a rank without copies there, all save it on the disk.
        """
        self._long_s, self._ending = LAST_S, True
        self._copies.copy(done, self._facts_of_copy(position))
        self._finish(done, lambda: self._collect(wait=True))
        if self.step.progress.stop_on_disk:
            self._finish(done, lambda: self._save_whole(done, position))
        self._tell(f"stopped on request after step {done}")
        sys.stdout.flush()
        os._exit(STOPPED)

    def _save_whole(self, done: int, position: Any) -> None:
        """Saves and waits until the checkpoint is there."""
        self.save(done, position=position)
        self._collect(wait=True)

    def _finish(self, done: int, work: Callable[[], None]) -> None:
        """Does what a process that ends has left to do; the job's events say what cannot be written."""
        try:
            work()
        except RunFailed as error:
            print(error, flush=True)
            if self.step.place.rank == 0:
                self.step.progress.remark("unsaved", f"stopped after step {done}, and {error}")

    def save(self, done: int, *, position: Any = None) -> None:
        """Saves now; nothing when this step is saved already.

        Raises:
            RunFailed: this save or the one before could not be written.
            BadInput: the folder has a checkpoint of that step from a run that was not taken up.
        """
        if done == self._saved:
            return
        began_s = time.monotonic()
        self._collect(wait=True)
        if self.step.place.rank == 0:
            self._refuse_another(done)
        facts = self._facts(plain(position, "the position"))
        now, later = self._wanted()
        save = Save(
            saving_folder(self.folder, done, self.run),
            done,
            [*self._copied(now), random_state.part(self.step.place.rank)],
            functools.partial(self._copied_beside, later),
            facts,
            self.step.place.rank,
            self.policy.keep,
        )
        save.began_s = began_s
        save.thread.start()
        self._save, self._saved = save, done
        self._look_ahead(done)
        if not self.policy.asynchronous:
            save.wait(self.step.progress.touch, self._long_s)
        save.stall_s += time.monotonic() - began_s
        self._collect(wait=not self.policy.asynchronous)

    def _look_ahead(self, done: int) -> None:
        """All ranks learn when rank 0, which knows what saves took, wants the next."""
        if self._interval.follows:
            told = self._interval.agree(
                done, from_all(self._interval.wanted(self.records), self.step.plan.world_size)[0]
            )
            if told:
                self._tell(told)

    @property
    def saves(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._save is not None and self._save.thread.is_alive()

    def close(self) -> None:
        """Waits for the last save.

        Raises:
            RunFailed: it could not be written.
        """
        self._ending = True
        self._collect(wait=True)

    def _refuse_another(self, done: int) -> None:
        path = self.folder / folders.folder_name(done)
        if path.exists():
            raise BadInput(f"{path} is of an earlier run: take it up with resume(), or name another folder")

    def _collect(self, *, wait: bool) -> None:
        """Takes over a save that is complete; raises its error."""
        save = self._save
        if save is None or (save.thread.is_alive() and not wait):
            return
        save.wait(self.step.progress.touch, self._long_s)
        self._save = None
        if save.error is not None:
            self._failed(save)
        if save.bytes:
            self.step.progress.wrote("disk", save.bytes)
            record = save.record(asynchronous=self.policy.asynchronous)
            self.records.append(record)
            if self.journal is not None:
                with self.journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(record)) + "\n")
            self._tell(record.line)

    def _failed(self, save: Save) -> None:
        """An elastic job with copies in memory, or replicas, goes on without one checkpoint; its events say so."""
        assert save.error is not None
        held = self.others_hold or not isinstance(self._copies, NoMemoryCopies)
        spare = self._watched and held and not self._ending
        if not spare or not isinstance(save.error, RunFailed):
            raise save.error
        check_fence(self.folder)
        told = f"no checkpoint of step {save.done}: {save.error}; training goes on, the next save tries again"
        print(told, flush=True)
        if self.step.place.rank == 0:
            self.step.progress.remark("unsaved", told)

    def _before_update(self, kind: str, _: int, moment: str) -> None:
        """Sees to it that an update changes nothing that is still to be copied."""
        if kind == "update" and moment == "begin" and self._save is not None:
            self._save.wait_for_copies(self.step.progress.touch)

    def _wanted(self) -> tuple[list[Held], list[Held]]:
        """What this rank writes: what has to be copied now, and what may be until the next update."""
        mine = held(self.step)
        layout = [
            Copy(one.key, box, math.prod(one.shape), one.tensor.element_size()) for one in mine for box in one.boxes
        ]
        ranks = self.step.plan.world_size
        digests = from_all(zlib.crc32(repr(layout).encode()), ranks)
        if digests != self._digests:
            told = from_all([copy.plain for copy in layout], ranks)
            chosen = writers([[Copy.told(copy) for copy in copies] for copies in told])
            self._mine = {piece for piece, writer in chosen.items() if writer == self.step.place.rank}
            self._digests = digests
        wanted = [one for one in mine if any((one.key, box) in self._mine for box in one.boxes)]
        if not self._beside_passes:
            return wanted, []
        return [one for one in wanted if not one.rests], [one for one in wanted if one.rests]

    def _copied(self, wanted: Sequence[Held]) -> Iterator[Part]:
        """Copies in host memory of what this rank writes of some tensors."""
        for one in wanted:
            self.step.progress.touch()
            yield from (part for part in one.parts() if (part.key, part.box) in self._mine)

    def _copied_beside(self, wanted: Sequence[Held]) -> Iterator[Part]:
        """The same of tensors that lie there, without keeping Python's other threads from running."""
        parts = (part for one in wanted for part in parts_in_place(one) if (part.key, part.box) in self._mine)
        return (replace(part, array=part.array.copy()) for part in parts)

    def _facts_of_copy(self, position: Any) -> dict[str, Any]:
        """A copy says in addition where it may become a checkpoint (nebula.checkpoint.from_copies)."""
        where = {"folder": str(self.folder.resolve()), "keep": self.policy.keep}
        return {**self._facts(plain(position, "the position")), WHERE: where}

    def _facts(self, position: Any) -> dict[str, Any]:
        plan, optimizer = self.step.plan, innermost(self.step.optimizer)
        rate, scaler = optimizer._learning_rate, self.step.precision.scaler
        scheduled = isinstance(rate, paddle.optimizer.lr.LRScheduler)
        return {
            "model": plan.made_from.model,
            "model_hash": plan.made_from.model_hash,
            "ranks": plan.world_size,
            "split": split_of(plan),
            "words": plan.split,
            "global_batch": plan.job.global_batch,
            "optimizer": type(optimizer).__name__,
            "rate": plain(rate.state_dict(), "the learning rate") if scheduled else None,
            "scaler": _arrays_as_lists(scaler.state_dict()) if scaler is not None else None,
            "about": self.about,
            "position": position,
        }


class NoCheckpoints:
    """Stands for the checkpoints of a training that saves nothing."""

    def __enter__(self) -> NoCheckpoints:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to do."""

    def resume(self) -> int:
        """Begins at the first step."""
        return 0

    def after(self, done: int) -> bool:
        """Saves nothing."""
        del done
        return False

    def save(self, done: int) -> None:
        """Saves nothing."""


def split_of(plan: Plan) -> str:
    """Who computes what in which order: equal for plans under which random states belong to the same ranks."""
    text = json.dumps([encode(plan.stages), plan.micro_batches, plan.schedule, plan.engine, plan.sequence_parallel])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def plain(value: Any, what: str) -> Any:
    """A value as JSON brings it back.

    Raises:
        BadInput: it is no plain data.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=lambda number: number.item()))
    except (AttributeError, TypeError, ValueError) as error:
        raise BadInput(f"{what} of a checkpoint must be plain data (numbers, text, lists, mappings): {error}") from None


def _arrays_as_lists(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in state.items()}


def _silent(_: str) -> None:
    """What ranks other than 0 say."""
