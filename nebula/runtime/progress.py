"""How far a rank is, in shared memory that its agent reads: steps done, what it does now, and since when.

A rank writes a few numbers per step and talks to nobody; who reads needs no answer from it, so that a process that
hangs, or holds the interpreter's lock, is seen as well. Times are of the machine's monotonic clock. What a rank that
goes on has to say in words it writes into a file beside the numbers. Knows no paddle.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from itertools import pairwise
from pathlib import Path

VARIABLE = "NEBULA_PROGRESS"
"""Names the file in a rank's environment."""
MTBF = "NEBULA_MTBF_S"
"""Mean seconds between failures of the job, as its controller has seen them: what a checkpoint's interval follows."""
STOPPED = 75
"""Exit code of a rank that ended at a step because it was asked to."""
LATE: list[Callable[[], None]] = []
"""What a test has a rank do before its next data are there; taken once."""

_MAGIC = 0x4E45_4250
_STEP, _SECTION, _CHANGED, _STOP_AT, _ENDED = 8, 16, 24, 32, 40
_RING, _KEPT = 64, 256
_TOTALS = _RING + 8 * _KEPT


LONGEST = 2000
"""Characters of a rank's sentence."""


def remarks_of(path: Path) -> Path:
    """Where a rank with this file of numbers writes in words."""
    return path.with_name(f"{path.name}.remarks")


class Section(IntEnum):
    """What a rank does. In those from FORWARD on it may have to wait for other ranks."""

    BEGIN = 0
    LOAD = 1
    DATA = 2
    FORWARD = 3
    BACKWARD = 4
    UPDATE = 5
    COLLECTIVE = 6
    CHECKPOINT = 7
    END = 8
    PAUSE = 9


_WRITTEN = _TOTALS + 8 * len(Section)
TIERS = ("memory", "disk")
"""Where copies of a training go."""
_UNKEPT = _WRITTEN + 8 * len(TIERS)
_ON_DISK = _UNKEPT + 8
SIZE = _ON_DISK + 8


class Progress:
    """What a rank writes.

    Attributes:
        clock: seconds of the rank's device, by which the time in each section is counted; the host's by default.
    """

    def __init__(self, path: Path) -> None:
        """Opens a file that `make` has made."""
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SIZE)
        self._remarks = remarks_of(path)
        self.step, self._paused_ns = 0, 0
        self.clock: Callable[[], float] = time.monotonic
        self._entered_s = self.clock()

    def enter(self, section: Section) -> None:
        """Says what comes now."""
        if LATE and section is Section.FORWARD and self._section is Section.DATA:
            LATE.pop()()
        self._count()
        struct.pack_into("<QQ", self._memory, _SECTION, section, time.monotonic_ns())

    def touch(self) -> None:
        """Says that what this rank does goes on: it copies, or waits for a save that may take long."""
        struct.pack_into("<Q", self._memory, _CHANGED, time.monotonic_ns())

    def paused(self, seconds: float) -> None:
        """Says that so much of the time since the last step belongs to none; data come next."""
        self._paused_ns += round(seconds * 1e9)
        self.enter(Section.DATA)

    def keep(self, clock: Callable[[], float]) -> None:
        """Counts the time in each section by another clock from now on."""
        self.clock, self._entered_s = clock, clock()

    def wrote(self, tier: str, nbytes: int) -> None:
        """Counts bytes of copies."""
        at = _WRITTEN + 8 * TIERS.index(tier)
        (so_far,) = struct.unpack_from("<Q", self._memory, at)
        struct.pack_into("<Q", self._memory, at, so_far + nbytes)

    def kept(self, *, in_memory: bool) -> None:
        """Says whether there was room for the newest copy in memory."""
        struct.pack_into("<Q", self._memory, _UNKEPT, not in_memory)

    def remark(self, kind: str, sentence: str) -> None:
        """Has the job's events say something in words."""
        with self._remarks.open("a") as file:
            file.write(json.dumps([kind, sentence[:LONGEST]]) + "\n")

    def _count(self) -> None:
        """Adds the time since the last section began to its total."""
        before_s, self._entered_s = self._entered_s, self.clock()
        at = _TOTALS + 8 * self._section
        (total_ns,) = struct.unpack_from("<Q", self._memory, at)
        more_ns = max(0, round((self._entered_s - before_s) * 1e9))
        struct.pack_into("<Q", self._memory, at, total_ns + more_ns)

    @property
    def _section(self) -> Section:
        """What was said last."""
        return Section(struct.unpack_from("<Q", self._memory, _SECTION)[0])

    def begin_at(self, step: int) -> None:
        """Says how many steps are done when training begins."""
        self.step = step
        struct.pack_into("<Q", self._memory, _STEP, step)

    def step_done(self) -> None:
        """Counts a step; what follows is the next one's data."""
        self._count()
        self.step += 1
        now_ns = time.monotonic_ns()
        (ended,) = struct.unpack_from("<Q", self._memory, _ENDED)
        struct.pack_into("<Q", self._memory, _RING + 8 * (ended % _KEPT), now_ns - self._paused_ns)
        struct.pack_into("<Q", self._memory, _ENDED, ended + 1)
        struct.pack_into("<QQQ", self._memory, _STEP, self.step, Section.DATA, now_ns)

    def observe(self, kind: str, _index: int, moment: str) -> None:
        """An observer of a driver: forward and backward passes, and the update."""
        if moment == "begin":
            self.enter(_OF_KIND.get(kind, Section.BACKWARD))  # the executor also tells parts of a backward pass
        elif kind == "update":
            self.enter(Section.COLLECTIVE)

    @property
    def stop_at(self) -> int:
        """The step after which the rank is to end; 0: none."""
        return int(struct.unpack_from("<Q", self._memory, _STOP_AT)[0])

    @property
    def stop_on_disk(self) -> bool:
        """Whether all ranks are to save that step on the disk."""
        return bool(struct.unpack_from("<Q", self._memory, _ON_DISK)[0])


class NoProgress:
    """Stands for the progress of a rank that no agent watches."""

    step = stop_at = 0
    stop_on_disk = False

    def enter(self, section: Section) -> None:
        """Nobody reads it."""

    def touch(self) -> None:
        """Nobody reads it."""

    def paused(self, seconds: float) -> None:
        """Nobody reads it."""

    def begin_at(self, step: int) -> None:
        """Nobody reads it."""

    def step_done(self) -> None:
        """Nobody reads it."""

    def keep(self, clock: Callable[[], float]) -> None:
        """Nobody reads it."""

    def wrote(self, tier: str, nbytes: int) -> None:
        """Nobody reads it."""

    def kept(self, *, in_memory: bool) -> None:
        """Nobody reads it."""

    def remark(self, kind: str, sentence: str) -> None:
        """Nobody reads it."""

    def observe(self, kind: str, _index: int, moment: str) -> None:
        """Nobody reads it."""


_OF_KIND = {"F": Section.FORWARD, "B": Section.BACKWARD, "update": Section.UPDATE}


def progress_of(env: Mapping[str, str]) -> Progress | NoProgress:
    """Where a rank writes, as its environment says."""
    path = env.get(VARIABLE, "")
    return Progress(Path(path)) if path else NoProgress()


class Watched:
    """What an agent reads of a rank."""

    MOST = 100

    def __init__(self, path: Path) -> None:
        self._memory = make(path)
        self._remarks, self._read = remarks_of(path), 0
        self._remarks.unlink(missing_ok=True)

    @property
    def step(self) -> int:
        """Optimizer steps that are done."""
        return int(struct.unpack_from("<Q", self._memory, _STEP)[0])

    @property
    def section(self) -> Section:
        """What the rank does."""
        return Section(struct.unpack_from("<Q", self._memory, _SECTION)[0])

    @property
    def changed_s(self) -> float:
        """When it last said anything; 0 before it did."""
        return float(struct.unpack_from("<Q", self._memory, _CHANGED)[0]) / 1e9

    def step_times(self) -> Sequence[float]:
        """Seconds of the latest steps, the newest last; the first step of a process is not among them."""
        (ended,) = struct.unpack_from("<Q", self._memory, _ENDED)
        at_ns = struct.unpack_from(f"<{_KEPT}Q", self._memory, _RING)
        ends = [at_ns[i % _KEPT] for i in range(max(0, ended - _KEPT), ended)]
        return [(after - before) / 1e9 for before, after in pairwise(ends)]

    def spent_s(self, section: Section) -> float:
        """Seconds in a section so far, by the clock of the rank's device."""
        return float(struct.unpack_from("<Q", self._memory, _TOTALS + 8 * section)[0]) / 1e9

    def written_bytes(self, tier: str) -> int:
        """Bytes of copies so far; those on the disk count on rank 0, which makes them visible, for all ranks."""
        return int(struct.unpack_from("<Q", self._memory, _WRITTEN + 8 * TIERS.index(tier))[0])

    def remarks(self) -> list[tuple[str, str]]:
        """What the rank has said in words since this was asked last: kind and sentence; the first MOST of a process."""
        try:
            lines = self._remarks.read_text().splitlines(keepends=True)[: self.MOST]
        except OSError:
            return []
        whole = [line for line in lines[self._read :] if line.endswith("\n")]
        self._read += len(whole)
        return [tuple(json.loads(line)) for line in whole]

    def forget(self) -> None:
        """Removes the words; the process has ended."""
        self._remarks.unlink(missing_ok=True)

    @property
    def unkept(self) -> bool:
        """Whether there was no room for the newest copy in memory."""
        return bool(struct.unpack_from("<Q", self._memory, _UNKEPT)[0])

    def ask_to_stop(self, step: int, *, on_disk: bool = False) -> None:
        """Has the rank end after a step, once that is on the disk, if need be."""
        struct.pack_into("<Q", self._memory, _ON_DISK, on_disk)
        struct.pack_into("<Q", self._memory, _STOP_AT, step)


def make(path: Path) -> mmap.mmap:
    """Makes the file anew, all zeros but for its mark."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(descriptor, SIZE)
        memory = mmap.mmap(descriptor, SIZE)
    finally:
        os.close(descriptor)
    struct.pack_into("<Q", memory, 0, _MAGIC)
    return memory
