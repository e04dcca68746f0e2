"""Copies of a rank's part of the training in its node's memory, which outlive the rank.

After every step, or every few, a rank copies what it holds into one of two files in shared memory, in turn. Of what the
ranks of a node hold alike one copies it. What no other node holds goes into files of its own (`alone`); the rest
(`common`) survives a lost node anyway. Copies of some steps, the same ones on all ranks, go into two other files: what
is alone in these the node's agent passes on to a neighbour, and they stay until the next but one of them. The more
there is to pass on, the further these steps lie apart. An agent names the folder in the environment; without one there
are no copies.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from nebula.checkpoint.boxes import Box
from nebula.checkpoint.copies import TENSORS, CopyReader
from nebula.checkpoint.copy_file import CopyFile
from nebula.checkpoint.dtypes import carrier
from nebula.checkpoint.shard_file import Part
from nebula.checkpoint.share import Copy, writers
from nebula.runtime import random_state
from nebula.runtime.circles import from_all
from nebula.runtime.held import Held, held
from nebula.runtime.parallelize import Step

FOLDER, EVERY, RESUME = "NEBULA_MEMORY", "NEBULA_MEMORY_EVERY", "NEBULA_RESUME"
"""Variables: where a rank's copies go, after how many steps, and the folder of copies that a rank takes up."""
NODE, GENERATION = "NEBULA_NODE", "NEBULA_GENERATION"
COMMON, ALONE = "common", "alone"
TURNS = 4
"""Files that a rank writes in turn: two for most copies, two for those that are passed on."""
BYTES_A_STEP = 4 << 20
"""So much a copy a rank passes on to its neighbour, on average."""

_Pieces = set[tuple[str, Box]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which pieces a rank copies, and into which file.

    Attributes:
        others: pieces that it leaves to another rank of its node.
        common: pieces that other nodes hold as well; whatever is neither goes into the file `alone`.
        passed_every: of so many copies one is passed on.
        tensors: that all ranks hold together, so that a copy that lacks some is known.
    """

    others: _Pieces
    common: _Pieces
    tensors: int
    passed_every: int


class MemoryCopies:
    """What a rank copies after its steps."""

    def __init__(self, step: Step, env: Mapping[str, str]) -> None:
        self.step, self.every = step, int(env.get(EVERY, "1"))
        self.node, self.generation = env.get(NODE, ""), int(env.get(GENERATION, "0"))
        self._folder, rank = Path(env[FOLDER]), step.place.rank
        self._files = {
            kind: [CopyFile(self._folder / file_name(rank, kind, turn)) for turn in range(TURNS)]
            for kind in (COMMON, ALONE)
        }
        self._share: Share | None = None
        self._without_room = False

    def after(self, done: int, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Copies, if it is time to."""
        if done % self.every == 0:
            self.copy(done, facts())

    def copy(self, done: int, facts: Mapping[str, Any]) -> None:
        """Copies what this rank holds after step `done`; the first time all ranks agree on who copies what."""
        mine = held(self.step)
        if self._share is None:
            self._share = _agree(mine, self.node, self.step.plan.world_size, self.step.place.rank)
        parts: dict[str, list[Part]] = {COMMON: [], ALONE: [random_state.part(self.step.place.rank)]}
        for one in mine:
            wanted = [box for box in one.boxes if (one.key, box) not in self._share.others]
            for part in parts_in_place(one) if wanted else ():
                if (part.key, part.box) not in self._share.others:
                    parts[COMMON if (part.key, part.box) in self._share.common else ALONE].append(part)
        facts = {**facts, TENSORS: self._share.tensors}
        try:
            self._write(parts, facts, done, turn_of(done // self.every, self._share.passed_every))
        except OSError as error:
            self._tell_once(done, error)
        else:
            self._without_room = False
        self.step.progress.kept(in_memory=not self._without_room)

    def _write(self, parts: Mapping[str, Sequence[Part]], facts: Mapping[str, Any], done: int, turn: int) -> None:
        for kind, files in self._files.items():
            files[turn].write(
                parts[kind],
                facts,
                generation=self.generation,
                ranks=self.step.plan.world_size,
                step=done,
                beat=self.step.progress.touch,
            )
        self.step.progress.wrote("memory", sum(part.array.nbytes for kind in parts.values() for part in kind))

    def _tell_once(self, done: int, error: OSError) -> None:
        """Training goes on without copies, which the job's events say of the first that is not made."""
        if not self._without_room:
            told = (
                f"rank {self.step.place.rank} keeps no copy of step {done} in memory: {self._folder}: "
                f"{error.strerror}; training goes on, the next step tries again, until then a failure goes back to "
                "an older copy or the disk"
            )
            print(told, flush=True)
            self.step.progress.remark("unsaved", told)
        self._without_room = True


class NoMemoryCopies:
    """Stands for the copies of a rank that no agent watches."""

    def after(self, done: int, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Copies nothing."""

    def copy(self, done: int, facts: Mapping[str, Any]) -> None:
        """Copies nothing."""


def memory_copies(step: Step, env: Mapping[str, str] = os.environ) -> MemoryCopies | NoMemoryCopies:
    """Where a rank copies, as its environment says."""
    return MemoryCopies(step, env) if env.get(FOLDER) else NoMemoryCopies()


def offered(env: Mapping[str, str] = os.environ) -> CopyReader | None:
    """The copies that a rank is to take up.

    Raises:
        BadInput: they do not make up a training.
    """
    folder = env.get(RESUME, "")
    return CopyReader(Path(folder)) if folder else None


def turn_of(number: int, passed_every: int) -> int:
    """The file of a copy: the same on all ranks, so that what one has not written yet another still has.

    >>> [turn_of(number, 3) for number in range(1, 10)], [turn_of(number, 1) for number in range(4)]
    ([1, 0, 3, 0, 1, 2, 1, 0, 3], [2, 3, 2, 3])
    """
    passed, rest = divmod(number, passed_every)
    return 2 + passed % 2 if not rest else number % 2


def file_name(rank: int, kind: str, turn: int) -> str:
    """The name of a rank's file: `rank-00003.alone.1`."""
    return f"rank-{rank:05}.{kind}.{turn}"


def parts_in_place(one: Held) -> Sequence[Part]:
    """What a tensor holds, without a copy where it lies in host memory in one run."""
    tensor = one.tensor
    if one.flat is not None or one.seam is not None or not (tensor.place.is_cpu_place() and tensor.is_contiguous()):
        return list(one.parts())
    return [Part(key=one.key, dtype=one.dtype, shape=one.shape, box=one.boxes[0], array=_seen(tensor, one.dtype))]


def _seen(tensor: paddle.Tensor, dtype: str) -> npt.NDArray[Any]:
    """The memory of a tensor of the host as an array; valid for as long as the tensor is."""
    from ctypes import POINTER, c_uint8, cast

    size = math.prod(tensor.shape) * tensor.element_size()
    if not size:
        return np.empty(tensor.shape, carrier(dtype))
    memory = np.ctypeslib.as_array(cast(tensor.data_ptr(), POINTER(c_uint8)), (size,))
    return memory.view(carrier(dtype)).reshape(tensor.shape)


def _agree(mine: Sequence[Held], node: str, ranks: int, rank: int) -> Share:
    """Who copies what, from what all ranks hold."""
    layout = [Copy(one.key, box, math.prod(one.shape), one.tensor.element_size()) for one in mine for box in one.boxes]
    plain = from_all((node, [copy.plain for copy in layout]), ranks)
    told = [(place, [Copy.told(copy) for copy in copies]) for place, copies in plain]
    here = [copies if place == node else [] for place, copies in told]
    chosen = writers_of_each(here)
    elsewhere = {(copy.key, copy.box) for place, copies in told if place != node for copy in copies}
    pieces = {(copy.key, copy.box) for copy in layout}
    others = {piece for piece in pieces if chosen[piece] != rank}
    alone = sum(copy.bytes for copy in layout if (copy.key, copy.box) not in others | elsewhere)
    return Share(
        others=others,
        passed_every=max(1, max(from_all(alone, ranks)) // BYTES_A_STEP),
        common=pieces & elsewhere,
        tensors=len({copy.key for _, copies in told for copy in copies}),
    )


def writers_of_each(held_by: Sequence[Sequence[Copy]]) -> dict[tuple[str, Box], int]:
    """The rank of a node that copies each piece; unlike in a checkpoint no piece is left out."""
    chosen = writers(held_by)
    for rank, copies in enumerate(held_by):
        for copy in copies:
            chosen.setdefault((copy.key, copy.box), rank)
    return chosen
