"""Whether stages can hold all layers within a step time and within memory, told by how far each of them can reach.

What this refuses has no deal; what it lets pass may still have none. It costs a small part of dealing the layers, and
nothing of a stage but sums over its layers counts: neither borders, nor what a stage takes whatever it holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDING = 1e-9
"""A stage that exceeds what is allowed by less than this share is let pass."""


class Ahead(NamedTuple):
    """What the layers before each border add to a stage that holds them; lists of [layers + 1], ascending from 0.

    Differences of two borders are no more than what the layers between them cost as a stage.

    Attributes:
        forward_s: one forward.
        backward_s: one backward.
        tail_s: synchronization and update.
        held_bytes: what does not depend on the micro-batches in flight.
        kept_bytes: of each micro-batch in flight.
    """

    forward_s: list[float]
    backward_s: list[float]
    tail_s: list[float]
    held_bytes: list[float]
    kept_bytes: list[float]

    @staticmethod
    def of(costs: Floats) -> Ahead:
        """Of what the first 0, 1, ... layers cost as a stage: [5, layers + 1], a row for each attribute."""
        return Ahead(*(costs - costs[:, :1]).tolist())


def least(every: Sequence[Ahead]) -> Ahead:
    """What each layer adds to the stage of several to which it adds least."""
    if len(every) == 1:
        return every[0]
    added = np.min([np.diff(each) for each in every], axis=0)
    return Ahead(*np.concatenate([np.zeros((len(added), 1)), np.cumsum(added, axis=1)], axis=1).tolist())


class Ceiling(NamedTuple):
    """What no stage may exceed.

    Attributes:
        micro_batches: of one step.
        step_s: a longer step is of no use.
        held_bytes: on a device.
        flying: micro-batches in flight that are counted at most.
    """

    micro_batches: int
    step_s: float
    held_bytes: float
    flying: float = math.inf


def fewest_stages(kinds: Sequence[Ahead], others: Ahead, ceiling: Ceiling) -> int:
    """How many stages it takes at least to hold all layers; one more than there are when they cannot.

    The last stage takes as many of the last layers as it can, and so does each before it of what is left, be it none.
    That leaves least, because a run of layers that may be a stage with so many behind it may be one without its first
    or its last layer as well: `stage_bound` does not grow, and the stage holds less.

    Args:
        kinds: of the last stage, of the one before it and so on.
        others: least of all kinds: what stages before and behind take.
        ceiling: what is allowed.
    """
    end, size = len(others.forward_s) - 1, 1
    for behind, kind in enumerate(kinds):
        first = _first(kind, others, ceiling, behind, end, size)
        if first == 0:
            return behind + 1
        end, size = first, max(1, end - first)
    return len(kinds) + 1


def _first(kind: Ahead, others: Ahead, ceiling: Ceiling, behind: int, end: int, size: int) -> int:
    """The first layer of the longest run up to `end` that may be a stage; `end` when none may.

    Args:
        size: of a run that is likely to be about as long.
    """
    forward_s, backward_s, tail_s, held_bytes, kept_bytes = kind
    m, step_s, most_bytes = ceiling.micro_batches, ceiling.step_s * (1.0 + ROUNDING), ceiling.held_bytes
    most_bytes *= 1.0 + ROUNDING
    flying, hidden, both = min(behind + 1, m, ceiling.flying), min(behind, m - 1), m >= behind + 2
    front_f_s, front_b_s = others.forward_s, others.backward_s
    behind_s = front_f_s[-1] + front_b_s[-1] - front_f_s[end] - front_b_s[end]
    forward_end_s, backward_end_s, tail_end_s = forward_s[end], backward_s[end], tail_s[end]
    held_end, kept_end = held_bytes[end], kept_bytes[end]
    first, found = max(0, end - size), end
    longer = shorter = False
    # one loop, for it is run a hundred thousand times: runs get longer as long as they may be, or shorter until one may
    while True:
        may = held_end - held_bytes[first] + flying * (kept_end - kept_bytes[first]) <= most_bytes
        if may:
            f, b = forward_end_s - forward_s[first], backward_end_s - backward_s[first]
            shorter_s, longer_s = (f, b) if f < b else (b, f)
            bound_s = front_f_s[first] + front_b_s[first] + m * (f + b)
            if behind_s > hidden * shorter_s:
                bound_s += behind_s - hidden * shorter_s
            if both and behind_s > behind * longer_s:
                bound_s += behind_s - behind * longer_s
            unhidden_s = tail_end_s - tail_s[first] - front_b_s[first]
            may = bound_s <= step_s and bound_s + unhidden_s <= step_s
        if may:
            found = first
            if shorter or not first:
                return found
            longer, first = True, first - 1
        else:
            shorter, first = True, first + 1
            if longer or first >= end:
                return found
