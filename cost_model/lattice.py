"""How groups of regularly spaced devices lie over nodes and switches, in closed form.

The ranks of a uniform split on devices in a row are a lattice: a stage's groups are rows of it, devices at one distance
from each other. How many of them meet in a node or behind a switch follows from first device, distance and number.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

PIPELINE, OUTER, SHARD, TENSOR = range(4)
"""Axes of a lattice: stages, sharding groups of a stage, replicas of a sharding group, ranks of a replica."""


class Rows(NamedTuple):
    """Groups of equally many devices at equal distances.

    Attributes:
        start: [stages, groups] first device of each.
        stride: from one device of a group to the next.
        ranks: devices of a group.
    """

    start: Ints
    stride: int
    ranks: int


class Lattice(NamedTuple):
    """Devices [stages, sharding groups, replicas, ranks] of which each step along an axis goes as far.

    Attributes:
        first: device of all indices 0.
        steps: along each axis.
        shape: devices along each axis.
    """

    first: int
    steps: tuple[int, ...]
    shape: tuple[int, ...]

    @staticmethod
    def of(devices: Ints) -> Lattice | None:
        """The lattice of [stages, sharding groups, replicas, ranks]; None where they are none that ascends."""
        first, shape = int(devices.flat[0]), devices.shape
        steps = tuple(int(devices[_neighbour(axis)]) - first if shape[axis] > 1 else 1 for axis in range(4))
        if min(steps) < 1:
            return None
        regular = first + sum(
            step * index for step, index in zip(steps, np.ogrid[tuple(map(slice, shape))], strict=True)
        )
        return Lattice(first, steps, shape) if np.array_equal(regular, devices) else None

    @staticmethod
    def straight(devices: Ints, steps: tuple[int, ...], shape: tuple[int, ...]) -> Lattice | None:
        """The lattice of devices in a row, the steps being those of their ranks; None where they are no row."""
        return Lattice(int(devices[0]), steps, shape) if (np.diff(devices) == 1).all() else None

    @property
    def last(self) -> int:
        """The furthest device."""
        return self.first + sum(step * (length - 1) for step, length in zip(self.steps, self.shape, strict=True))

    def rows(self, axis: int, units: Sequence[int]) -> Rows:
        """The groups of each stage along an axis; of groups that lie alike the first alone.

        Args:
            axis: of the groups; along the first they are pairs, of each stage but the last with the next.
            units: devices of a node, of a switch and so on, each a multiple of the one before.
        """
        ranks, stages = self.shape[axis], self.shape[PIPELINE]
        if axis == PIPELINE:
            ranks, stages = 2, stages - 1
        start = self.first + self.steps[PIPELINE] * np.arange(stages)[:, None]
        for other in (OUTER, SHARD, TENSOR):
            if other != axis:
                # places within the widest unit repeat
                most = units[-1] // gcd(self.steps[other], units[-1])
                if other == TENSOR and self._ranks_alike(units):
                    most = 1
                index = np.arange(min(self.shape[other], most))
                start = (start[:, :, None] + self.steps[other] * index).reshape(stages, -1)
        return Rows(start, self.steps[axis], ranks)

    def _ranks_alike(self, units: Sequence[int]) -> bool:
        """Whether the ranks of every replica are side by side in one node, so that their peers lie alike."""
        held = self.steps[TENSOR] * self.shape[TENSOR]
        others = [step for step, length in zip(self.steps[:TENSOR], self.shape, strict=False) if length > 1]
        return all(place % held == 0 for place in (self.first, *others, *units))


def _neighbour(axis: int) -> tuple[int, ...]:
    return tuple(int(axis == other) for other in range(4))


class Regular(NamedTuple):
    """A lattice on the nodes of one group.

    Attributes:
        lattice: devices counted from where the positions of nodes in their site are.
        group: index of the node group.
        units: devices of a node, and of each switch below the widest tier.
    """

    lattice: Lattice
    group: int
    units: tuple[int, ...]


def meetings(rows: Rows, units: Sequence[int]) -> Ints:
    """For each group [stages * groups] how many parts meet at most within one unit, for each unit and for all.

    Parts are devices, then nodes, then switches: what the unit before was.

    Args:
        rows: the groups.
        units: devices of a node, of a switch and so on, each a multiple of the one before.

    Returns:
        [stages * groups, units + 1].
    """
    start = rows.start.ravel()
    last = start + (rows.ranks - 1) * rows.stride
    found, below = [], 1
    for unit in units:
        if rows.stride >= unit:
            most = np.ones_like(start)
        elif rows.stride <= below:
            most = _most_of_all(start // below, last // below, unit // below)
        else:
            most = _most_apart(rows, start, unit)
        found.append(most)
        below = unit
    apart = rows.stride >= below
    found.append(np.full_like(start, rows.ranks) if apart else last // below - start // below + 1)
    return np.stack(found, axis=1)


def _most_of_all(first: Ints, last: Ints, width: int) -> Ints:
    """The most of the parts [first, last] that lie in one unit of so many parts."""
    units = last // width - first // width + 1
    ends = np.maximum(width - first % width, last % width + 1)
    most: Ints = np.where(units == 1, last - first + 1, np.where(units == 2, ends, width))
    return most


def _most_apart(rows: Rows, start: Ints, unit: int) -> Ints:
    """The most devices of each group in one unit, where each is a part of its own.

    Where a group comes into a unit repeats after stride / gcd(stride, unit) units, so that as many whole ones tell.
    """
    crossed = (rows.ranks - 1) * rows.stride // unit + 2
    looked = min(crossed, rows.stride // gcd(rows.stride, unit) + 2)
    edges = (start[:, None] // unit + np.arange(looked + 1)) * unit
    before = np.clip(-((start[:, None] - edges) // rows.stride), 0, rows.ranks)
    most: Ints = np.diff(before, axis=1).max(axis=1)
    return most
