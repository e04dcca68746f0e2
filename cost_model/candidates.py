"""Many uniform plans as arrays: what a search wants priced at once, checked, and sorted by what they share.

Ranks lie in the order of nebula.plan.layout on the devices that the caller gives; what a candidate costs is many.py's
question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.errors import BadInput
from nebula.plan.job import RECOMPUTE
from nebula.plan.schedule import SCHEDULES
from nebula.plan.values import Job, Sharding

Ints = NDArray[np.int64]

SINGLE = tuple(name for name, known in SCHEDULES.items() if known.chunks == (1, 1))
"""Schedules with one virtual stage on each device."""

COLUMNS = ("data", "tensor", "rows", "sharding", "degree", "recompute", "schedule")
"""Fields of Candidates with one number each."""


class Way(NamedTuple):
    """What candidates share that differ in their boundaries alone.

    Attributes:
        rows: of a micro-batch.
    """

    pipeline: int
    schedule: str
    tensor: int
    rows: int
    recompute: str
    data: int
    sharding: Sharding

    @property
    def ranks(self) -> int:
        """Ranks in all."""
        return self.data * self.tensor * self.pipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Uniform plans of one model; all arrays have an entry for each.

    Attributes:
        data: replicas, those of a sharding group included.
        tensor: ranks of one replica of one stage.
        rows: of a micro-batch of one replica.
        sharding: stage of ZeRO, 0 to 3.
        degree: replicas of a sharding group; 1 where nothing is sharded.
        recompute: index into nebula.plan.job.RECOMPUTE, of every stage.
        schedule: index into SINGLE.
        boundaries: [candidates, widest + 1] first layer of each stage, then the number of layers until the end; so
            that [0, 3, 8, 8] is layers 0 to 2 and 3 to 7 among pipelines of up to three stages.
    """

    data: Ints
    tensor: Ints
    rows: Ints
    sharding: Ints
    degree: Ints
    recompute: Ints
    schedule: Ints
    boundaries: Ints

    @staticmethod
    def of(parts: Sequence[tuple[Way, Sequence[Sequence[int]]]]) -> Candidates:
        """The candidates that run in those ways, each with [number, pipeline + 1] boundaries."""
        counts = [len(bounds) for _, bounds in parts]
        widest = max(way.pipeline for way, _ in parts)
        values = [(w.data, w.tensor, w.rows, w.sharding.stage, w.sharding.degree) for w, _ in parts]
        names = [(RECOMPUTE.index(w.recompute), SINGLE.index(w.schedule)) for w, _ in parts]
        columns = np.repeat(np.hstack([values, names]), counts, axis=0).T.copy()
        boundaries = [np.pad(bounds, ((0, 0), (0, widest - w.pipeline)), mode="edge") for w, bounds in parts]
        return Candidates(**dict(zip(COLUMNS, columns, strict=True)), boundaries=np.concatenate(boundaries))

    def __getitem__(self, which: Ints) -> Candidates:
        """The candidates of those indices."""
        return Candidates(**{name: getattr(self, name)[which] for name in (*COLUMNS, "boundaries")})

    def __len__(self) -> int:
        return len(self.boundaries)

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return int(self.boundaries[0, -1])

    @property
    def pipeline(self) -> Ints:
        """[candidates] stages."""
        stages: Ints = (self.boundaries < self.layers).sum(axis=1)
        return stages

    def check(self, layers: int, devices: int, job: Job) -> None:
        """Refuses what is no plan of so many layers on so many devices for a job.

        Raises:
            BadInput: with the number of the first such candidate and its numbers.
        """
        inner, pipeline = np.diff(self.boundaries, axis=1), self.pipeline
        held = (self.boundaries[:, 0] == 0) & (self.boundaries[:, -1] == layers)
        held &= (inner >= (np.arange(inner.shape[1]) < pipeline[:, None])).all(axis=1)
        self._refuse(held, f"boundaries {{boundaries}} do not rise from 0 to the {layers} layers of the model")
        for name in ("data", "tensor", "rows", "degree"):
            self._refuse(getattr(self, name) >= 1, f"{name} {{{name}}} is less than 1")
        ranks = self.data * self.tensor * pipeline
        wanted = f"data {{data}} · tensor {{tensor}} · stages of {{boundaries}} are more than {devices} ranks"
        self._refuse(ranks <= devices, wanted)
        uneven = f"data {{data}} × rows {{rows}} do not divide the global batch of {job.global_batch}"
        self._refuse(job.global_batch % (self.data * self.rows) == 0, uneven)
        self._refuse(self.data % self.degree == 0, "sharding degree {degree} does not divide data {data}")
        for name, most in (("sharding", 3), ("recompute", len(RECOMPUTE) - 1), ("schedule", len(SINGLE) - 1)):
            values = getattr(self, name)
            self._refuse((values >= 0) & (values <= most), f"{name} {{{name}}} is none of 0 to {most}")

    def _refuse(self, fine: NDArray[np.bool_], sentence: str) -> None:
        if not fine.all():
            index = int(fine.argmin())
            shown = {name: getattr(self, name)[index].tolist() for name in (*COLUMNS, "boundaries")}
            raise BadInput(f"candidate {index}: {sentence.format(**shown)}")

    def by_way(self) -> Iterator[tuple[Way, Ints]]:
        """Each way and the indices of its candidates; pipelines of equal length and schedule follow each other."""
        columns = (
            self.pipeline,
            self.schedule,
            self.tensor,
            self.rows,
            self.recompute,
            self.data,
            self.sharding,
            self.degree,
        )
        key = _packed(columns)
        order = key.argsort(kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        firsts = np.stack([column[order[starts]] for column in columns], axis=1).tolist()
        for values, members in zip(firsts, np.split(order, starts[1:]), strict=True):
            pipeline, schedule, tensor, rows, recompute, data, stage, degree = values
            sharding = Sharding(stage=stage, degree=degree)
            yield Way(pipeline, SINGLE[schedule], tensor, rows, RECOMPUTE[recompute], data, sharding), members


def _packed(columns: tuple[Ints, ...]) -> Ints:
    """[n] one number for each different row of the columns, in their order."""
    key = np.zeros(len(columns[0]), dtype=np.int64)
    size = 1
    for column in columns:
        width = int(column.max()) + 1
        if size * width >= 1 << 62:
            key = np.unique(key, return_inverse=True)[1].ravel()
            size = int(key.max()) + 1
        key, size = key * width + column, size * width
    return key
