"""Who fetches what from whom: the nearest device that holds a cell of state, and what every link carries by that.

A cell is a part of a layer's weights or states that each device holds whole or not at all (nebula.planner.holdings).
Holders that are equally near send equal shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nebula.planner.holdings import Floats, Grid, Ints, Rectangles, Segments
from nebula.planner.reach import Ring


class Held(NamedTuple):
    """Cells and the devices that hold them, an entry for each pair."""

    cell: Ints
    device: Ints


class Part(NamedTuple):
    """One sort of state.

    Attributes:
        kind: `weights` or `states`.
        have: what surviving devices hold.
        need: what the new plan's devices must hold.
        size: bytes of every cell.
    """

    kind: str
    have: Held
    need: Held
    size: Floats

    @staticmethod
    def of(kind: str, have: Rectangles, need: Rectangles, segments: Segments, segment_bytes: Floats) -> Part:
        """The part in cells; segment_bytes is what each segment of layers has of it."""
        grid = Grid((have, need), len(segments.first))
        return Part(
            kind=kind,
            have=Held(*grid.cells(have, segments.before)),
            need=Held(*grid.cells(need, segments.after)),
            size=np.outer(segment_bytes, grid.areas).ravel(),
        )

    @property
    def lost_bytes(self) -> float:
        """Bytes of which no device holds a copy any more."""
        gone = np.ones(len(self.size), dtype=bool)
        gone[self.have.cell] = False
        return float(self.size[gone].sum())


class Transfers:
    """Adds up what devices send, receive and read, part by part.

    Args:
        levels: of the cluster, the nearest first.
        devices: how many the cluster has.

    Attributes:
        received: [levels, devices] bytes.
        sent: likewise.
        read: [devices] bytes from storage.
        by_kind: bytes that travel, of weights and of states.
    """

    def __init__(self, levels: Sequence[Ring], devices: int) -> None:
        self.levels, self.devices = levels, devices
        self.received = np.zeros((len(levels), devices))
        self.sent = np.zeros((len(levels), devices))
        self.read = np.zeros(devices)
        self.by_kind = {"weights": 0.0, "states": 0.0}

    def add(self, part: Part, *, from_storage: bool) -> None:
        """Adds a part; from storage each cell goes to its first holder, and from there to the others."""
        have, need, size = part.have, part.need, part.size
        if from_storage:
            _, first = np.unique(need.cell, return_index=True)
            have = Held(need.cell[first], need.device[first])
            self.read += np.bincount(have.device, size[have.cell], self.devices)
            self.by_kind[part.kind] += float(size[have.cell].sum())
        own = np.isin(need.cell * self.devices + need.device, have.cell * self.devices + have.device)
        lacks = Held(need.cell[~own], need.device[~own])
        self.by_kind[part.kind] += float(size[lacks.cell].sum())
        for index, level in enumerate(self.levels):
            if len(lacks.cell):
                lacks = self._fetch(index, level.unit, lacks, have, size)
        assert not len(lacks.cell), "a shard is out of reach"

    def _fetch(self, index: int, unit: Ints, lacks: Held, have: Held, size: Floats) -> Held:
        """Takes from holders in the same unit what they have; returns what is still lacking."""
        width = int(unit.max()) + 1
        asked, offered = lacks.cell * width + unit[lacks.device], have.cell * width + unit[have.device]
        places, which, holders = np.unique(offered, return_inverse=True, return_counts=True)
        at = np.searchsorted(places, asked).clip(max=len(places) - 1)
        hit = places[at] == asked
        wanted = size[lacks.cell[hit]]
        demand = np.bincount(at[hit], wanted, len(places))
        self.received[index] += np.bincount(lacks.device[hit], wanted, self.devices)
        self.sent[index] += np.bincount(have.device, (demand / holders)[which.ravel()], self.devices)
        return Held(lacks.cell[~hit], lacks.device[~hit])

    def seconds(self) -> list[Floats]:
        """For each level how long every device sends or receives there."""
        busy = np.maximum(self.received, self.sent)
        return [_seconds(level, own) for level, own in zip(self.levels, busy, strict=True)]

    def network_s(self) -> float:
        """Until all is moved: a node's own links work beside its cards, through which all further levels go."""
        inside, *outside = self.seconds()
        return float(np.maximum(inside, sum(outside, np.zeros(self.devices))).max())


def _seconds(level: Ring, busy: Floats) -> Floats:
    moved = np.full_like(busy, busy.sum()) if level.shared else busy
    return np.where(moved > 0, moved / level.bytes_per_s, 0.0)
