"""Which stage holds which layers: uneven boundaries whose worst stage costs least.

Exact for the chain by dynamic programming over suffixes: the last stages first, because how many micro-batches a stage
keeps depends on how many stages stand behind it. A run of layers is looked at with so many stages behind it only where
those can hold the layers behind it and there are stages enough for the layers in front.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WIDEST_SLACK = 0.005
"""Deals may be asked for that cost by this share more than the least worst one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The runs of layers that stages are dealt from, ordered by their first layer.

    Attributes:
        first: first layer of each run.
        end: the layer behind its last.
        starts: [layers + 1] for each layer where the runs that begin with it start, then how many runs there are;
            every layer begins at least one.
        furthest: for each layer the furthest end of a run that begins there or before.
    """

    first: Ints
    end: Ints
    starts: Ints
    furthest: tuple[int, ...]

    @staticmethod
    def of(first: Ints, end: Ints, layers: int) -> Runs:
        """Those runs of a chain of so many layers."""
        starts = np.searchsorted(first, np.arange(layers + 1))
        furthest = np.maximum.accumulate(np.maximum.reduceat(end, starts[:-1]))
        return Runs(first=first, end=end, starts=starts, furthest=tuple(furthest.tolist()))

    @property
    def layers(self) -> int:
        """Layers of the chain."""
        return len(self.furthest)

    def where(self, kept: NDArray[np.bool_]) -> tuple[Runs, Ints]:
        """The runs that are kept and all runs of one layer, and which of these runs they are."""
        which = np.flatnonzero(kept | (self.end == self.first + 1))
        return Runs.of(self.first[which], self.end[which], self.layers), which

    def beginning(self, first: int, last: int) -> slice:
        """The runs that begin with one of the layers [first, last]."""
        return slice(int(self.starts[first]), int(self.starts[last + 1]))

    def reached(self, stages: int) -> list[int]:
        """The furthest layer behind 0, 1, ... stages that hold the first layers."""
        reached = [0]
        for _ in range(stages):
            reached.append(self.furthest[min(reached[-1], self.layers - 1)])
        return reached


def every_run(layers: int) -> Runs:
    """All runs of a chain."""
    first, end = np.triu_indices(layers + 1, 1)
    return Runs.of(first, end, layers)


class Cost(NamedTuple):
    """What runs cost as a stage: the bound of the step, infinite where a run does not fit, and time at its borders."""

    bound_s: Floats
    borders_s: Floats


class Step(NamedTuple):
    """One number of stages behind.

    Attributes:
        first: least layer that a run begins with.
        last: and the greatest.
        which: the runs that were looked at.
        cost: of each of them as that stage.
        value: the least worst cost of dealing all layers to that stage and those behind it.
    """

    first: int
    last: int
    which: slice
    cost: Floats
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Deals:
    """The dynamic programme's table.

    Attributes:
        runs: what was dealt.
        steps: for each number of stages behind; fewer where so many stages hold nothing that is of use.
    """

    runs: Runs
    steps: Sequence[Step]

    def value(self, stages: int) -> float:
        """The least worst cost of dealing all layers to that many stages; infinite when none is of use."""
        return self.steps[stages - 1].value if stages <= len(self.steps) else np.inf

    def boundaries(self, stages: int, slack: float) -> tuple[int, ...]:
        """First layer of each stage and the number of layers, for a deal within `slack` of the least worst cost.

        Of all such deals, the one with the fewest stages near the worst: the least sum of the costs' eighth powers.
        """
        assert slack < WIDEST_SLACK, "such deals were left out"
        limit, runs = self.value(stages) * (1.0 + slack), self.runs
        steps, table, after = self.steps[:stages], [], _nothing_left(runs.layers, 1)[0]
        for step in steps:
            power = np.where(step.cost <= limit, (np.minimum(step.cost, limit) / limit) ** 8, np.inf)
            power += after[runs.end[step.which]]
            table.append(power)
            after = np.full(runs.layers + 1, np.inf)
            after[step.first : step.last + 1] = np.minimum.reduceat(power, _starts(runs, step.first, step.last))
        bounds = [0]
        for step, power in zip(reversed(steps), reversed(table), strict=True):
            own = runs.beginning(bounds[-1], bounds[-1])
            best = own.start + int(power[own.start - step.which.start : own.stop - step.which.start].argmin())
            bounds.append(int(runs.end[best]))
        return tuple(bounds)

    def below(self, stages: int, limit: float, most: int) -> list[tuple[int, ...]] | None:
        """All deals of which every stage costs less than a limit; None when they are more than `most`.

        Args:
            stages: of the deals.
            limit: at most what the table was made to beat.
            most: how many are too many to list.
        """
        counts, after = [], np.zeros(self.runs.layers + 1)
        after[-1] = 1.0
        for step in self.steps[:stages]:
            counts.append((step.cost < limit) * after[self.runs.end[step.which]])
            after = np.zeros(self.runs.layers + 1)
            starts = _starts(self.runs, step.first, step.last)
            after[step.first : step.last + 1] = np.add.reduceat(counts[-1], starts)
        if len(counts) < stages or after[0] > most:
            return None if after[0] > most else []
        found: list[tuple[int, ...]] = [(0,)]
        for step, count in zip(reversed(self.steps[:stages]), reversed(counts), strict=True):
            found = [(*bounds, end) for bounds in found for end in self._ends(step, count, bounds[-1])]
        return found

    def _ends(self, step: Step, counts: Floats, first: int) -> list[int]:
        """Where the runs that begin with a layer and of which there are deals end."""
        own = self.runs.beginning(first, first)
        kept = counts[own.start - step.which.start : own.stop - step.which.start] > 0.0
        ends: list[int] = self.runs.end[own][kept].tolist()
        return ends


def deal(
    runs: Runs,
    cost: Callable[[int, slice, Floats], Cost],
    stages: int,
    to_beat: float = np.inf,
    fewest: int = 1,
) -> Deals:
    """Deals layers to `fewest` to `stages` stages so that the worst stage costs least.

    Args:
        runs: what may be a stage.
        cost: for a number of stages behind, some of the runs, and for each of those the least time that one
            micro-batch spends at the borders of the stages behind: the cost of the runs as that stage.
        stages: most stages.
        to_beat: a deal with a worse stage is of no use; its value may come out too high, or infinite.
        fewest: fewest stages; values of deals to fewer are of no meaning.
    """
    reached, useful = runs.reached(stages), to_beat * (1.0 + WIDEST_SLACK)
    after, low, high = _nothing_left(runs.layers, 2), runs.layers, runs.layers
    steps: list[Step] = []
    for behind in range(stages):
        # the stages behind hold the layers from one of [low, high] on
        first = max(bisect_left(runs.furthest, low), fewest - 1 - behind)
        last = min(high - 1, reached[stages - 1 - behind])
        if first > last:
            break
        which = runs.beginning(first, last)
        worst, borders_s = after.take(runs.end[which], axis=1)
        each = cost(behind, which, borders_s)
        dealt = np.empty((2, len(worst)))
        np.maximum(each.bound_s, worst, out=dealt[0])
        np.add(each.borders_s, borders_s, out=dealt[1])
        np.copyto(dealt[1], np.inf, where=each.bound_s >= to_beat)
        best = np.minimum.reduceat(dealt, _starts(runs, first, last), axis=1)
        steps.append(Step(first, last, which, each.bound_s, float(best[0, 0]) if first == 0 else np.inf))
        of_use = np.flatnonzero(best[0] < useful)
        if not of_use.size:
            break
        low, high = first + int(of_use[0]), first + int(of_use[-1])
        after = np.full((2, runs.layers + 1), np.inf)
        after[:, first : last + 1] = best
    return Deals(runs=runs, steps=steps)


def _starts(runs: Runs, first: int, last: int) -> Ints:
    """Where the runs of each layer of [first, last] start among the runs that begin with one of these."""
    starts: Ints = runs.starts[first : last + 1] - runs.starts[first]
    return starts


def _nothing_left(layers: int, rows: int) -> Floats:
    """[rows, layers + 1]: no stages behind hold the layers from the end on, which are none."""
    after = np.full((rows, layers + 1), np.inf)
    after[:, layers] = 0.0
    return after


def every_deal(layers: int, stages: int) -> Iterator[tuple[int, ...]]:
    """All ways to deal layers to stages, each stage at least one."""
    for inner in combinations(range(1, layers), stages - 1):
        yield (0, *inner, layers)


def carried(boundaries: tuple[int, ...]) -> Ints:
    """The deals that differ by one layer, which one stage gives to another: the borders between them move together.

    Returns:
        [deals, stages + 1].
    """
    bounds, stages = np.array(boundaries), len(boundaries) - 1
    first, last = (np.repeat(side + 1, 2) for side in np.triu_indices(stages - 1))
    step = np.tile([-1, 1], len(first) // 2)
    there = (bounds[first - 1] < bounds[first] + step) & (bounds[last] + step < bounds[last + 1])
    first, last, step = (each[there, None] for each in (first, last, step))
    border = np.arange(stages + 1)
    deals: Ints = bounds + step * ((first <= border) & (border <= last))
    return deals


def moved(boundaries: tuple[int, ...]) -> Ints:
    """Of these the deals that differ by one layer across one border."""
    deals = carried(boundaries)
    few: Ints = deals[(deals != np.array(boundaries)).sum(axis=1) == 1]
    return few
