"""Changes of the order in which nodes are taken: which to try first, so that blocks of ranks come under one switch.

What a change gains is placement.py's question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, groupby, permutations

import numpy as np

from nebula.planner.packing import Ints, Slot, Slots, devices_of


def exchanges(slots: Slots, devices: Ints, blocks: Sequence[int]) -> Iterator[Ints]:
    """The same ranks after one change of the order of nodes, those first that bring a block under one switch.

    Two nodes of one size are exchanged, or, where all are of one size, one of them or all neighbours under one switch
    are put between two others.

    Args:
        slots: all nodes that may be used.
        devices: of the ranks, in order.
        blocks: sizes of groups of consecutive ranks, ascending.
    """
    used = _runs(slots, devices)
    taken = {slot.node for slot in used}
    row = used + [slot for slot in slots if slot.node not in taken]
    seen = set()
    for i, j in _pairs(row, len(used), blocks):
        if (i, j) in seen:
            continue
        seen.add((i, j))
        swapped = list(row)
        swapped[i], swapped[j] = row[j], row[i]
        yield devices_of(swapped[: len(used)], len(devices))
    if len({slot.size for slot in used}) == 1:
        neighbours = [list(run) for _, run in groupby(used, key=lambda slot: slot.path)]
        for units in (neighbours, [[slot] for slot in used]):
            for i, j in permutations(range(len(units)), 2):
                others = [*units[:i], *units[i + 1 :]]
                yield devices_of(chain.from_iterable([*others[:j], units[i], *others[j:]]), len(devices))


def _runs(slots: Slots, devices: Ints) -> list[Slot]:
    """The nodes whose devices are taken, each with those that are, in the order of the ranks."""
    owner = {device: slot for slot in slots for device in slot.devices}
    runs = groupby(devices.tolist(), key=lambda device: owner[device].node)
    held = [tuple(run) for _, run in runs]
    return [owner[run[0]]._replace(devices=run) for run in held]


def _pairs(row: Sequence[Slot], used: int, blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of positions to exchange; the first is used, the second may be spare."""
    starts = np.cumsum([0, *(slot.size for slot in row)])
    for block in blocks:
        at = starts[:used] // block
        home = {b: _majority([row[i].path for i in np.flatnonzero(at == b)]) for b in dict.fromkeys(at.tolist())}
        for i in range(used):
            wanted = home[int(at[i])]
            if row[i].path == wanted:
                continue
            for j, other in enumerate(row):
                stays = j < used and home[int(at[j])] == other.path
                if other.path == wanted and other.size == row[i].size and not stays and (j >= used or at[j] != at[i]):
                    yield i, j
    for i in range(used):
        for j in range(i + 1, len(row)):
            unlike = row[i].path != row[j].path or row[i].slow != row[j].slow
            if unlike and row[i].size == row[j].size:
                yield i, j


def _majority(paths: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The path that most have; of equals the first."""
    return max(dict.fromkeys(paths), key=paths.count)
