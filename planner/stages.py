"""Which stage holds which layers: uneven boundaries that minimise a lower bound of the 1F1B step time under memory.

Exact for the chain by dynamic programming over suffixes: the last stages first, because how many micro-batches a stage
keeps depends on how many stages stand behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def stage_bound(
    forward_s: Floats, backward_s: Floats, before_s: Floats, behind_s: Floats, micro_batches: int, behind: int
) -> Floats:
    """A step time that no 1F1B step can beat, given one stage.

    The stage waits `before_s` for its first input and for the gradient to get back to the first stage, and is busy for
    m (f + b). From the end of its first forward to its first backward `behind_s` pass, in which it can run at most e
    further forwards, for e stages behind it; from the end of its last forward to its last backward again `behind_s`,
    in which it can run at most e backwards. Both times count where they do not overlap, for m >= e + 2:

        T >= before + m (f + b) + max(0, behind - e f) + max(0, behind - e b)

    and else one of them, with m - 1 in place of e. For equal stages this is the (m + p - 1)(f + b) of 1F1B (Narayanan
    et al., SC 2021, section 2.2), whichever stage is looked at.

    Args:
        forward_s: of one micro-batch on the stage; arrays cover many runs of layers.
        backward_s: likewise.
        before_s: one forward and one backward of all stages before.
        behind_s: one forward and one backward of all stages behind.
        micro_batches: of one step.
        behind: stages behind.

    Example: the first of two stages of 1 + 2 s, 4 micro-batches:
        >>> float(stage_bound(np.array(1.0), np.array(2.0), np.array(0.0), np.array(3.0), 4, 1))
        15.0
    """
    busy_s = before_s + micro_batches * (forward_s + backward_s)
    hidden = min(behind, micro_batches - 1)
    first_s = behind_s - hidden * np.minimum(forward_s, backward_s)
    bound: Floats = busy_s + np.maximum(0.0, first_s)
    if micro_batches >= behind + 2:
        bound += np.maximum(0.0, behind_s - behind * np.maximum(forward_s, backward_s))
    return bound


def geometric_bound(work_s: float, micro_batches: int, stages: int) -> float:
    """A step time that no deal of layers to stages can beat, whatever the schedule.

    Stage s does m w_s of work and waits for the earlier stages' share of the first micro-batch and, at the end, of the
    last: T >= sum of w_j over j < s + m w_s. The least T for which p such w_s can add up to W is W / (1 - (1 - 1/m)^p).

    Args:
        work_s: W, one forward and one backward of all layers.
        micro_batches: m.
        stages: p.

    Example:
        >>> geometric_bound(6.0, 4, 1)
        24.0
    """
    return work_s / (1.0 - (1.0 - 1.0 / micro_batches) ** stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The runs of layers that stages are dealt from, ordered by their first layer.

    Attributes:
        first: first layer of each run.
        end: the layer behind its last.
        starts: for each layer where the runs that begin with it start; every layer begins at least one.
    """

    first: Ints
    end: Ints
    starts: Ints

    @property
    def layers(self) -> int:
        """Layers of the chain."""
        return len(self.starts)

    def where(self, kept: NDArray[np.bool_]) -> Runs:
        """The runs that are kept, and all runs of one layer."""
        kept = kept | (self.end == self.first + 1)
        first, end = self.first[kept], self.end[kept]
        return Runs(first=first, end=end, starts=np.searchsorted(first, np.arange(self.layers)))


def every_run(layers: int) -> Runs:
    """All runs of a chain."""
    first, end = np.triu_indices(layers + 1, 1)
    return Runs(first=first, end=end, starts=np.searchsorted(first, np.arange(layers)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deals:
    """The dynamic programme's table.

    Attributes:
        runs: what was dealt.
        costs: for each number of stages behind, the cost of every run as that stage.
        best: [stages, layers + 1]: the least worst cost with so many stages behind, from a layer to the end.
    """

    runs: Runs
    costs: Sequence[Floats]
    best: Floats

    def value(self, stages: int) -> float:
        """The least worst cost of dealing all layers to that many stages; infinite when none fits."""
        return float(self.best[stages - 1, 0])

    def boundaries(self, stages: int, slack: float) -> tuple[int, ...]:
        """First layer of each stage and the number of layers, for a deal within `slack` of the least worst cost.

        Of all such deals, the one with the fewest stages near the worst: the least sum of the costs' eighth powers.
        """
        limit, layers, runs = self.value(stages) * (1.0 + slack), self.runs.layers, self.runs
        table, after = [], _nothing_left(layers)
        for behind in range(stages):
            cost = self.costs[behind]
            power = np.where(cost <= limit, (np.minimum(cost, limit) / limit) ** 8, np.inf) + after[runs.end]
            table.append(power)
            after = np.full(layers + 1, np.inf)
            after[:-1] = np.minimum.reduceat(power, runs.starts)
        bounds = [0]
        for power in reversed(table):
            begin = runs.starts[bounds[-1]]
            end = runs.starts[bounds[-1] + 1] if bounds[-1] + 1 < layers else None
            bounds.append(int(runs.end[begin:end][power[begin:end].argmin()]))
        return tuple(bounds)


class Cost(NamedTuple):
    """What runs cost as a stage: the bound of the step, infinite where a run does not fit, and time at its borders."""

    bound_s: Floats
    borders_s: Floats


def deal(runs: Runs, cost: Callable[[int, Floats], Cost], stages: int, to_beat: float = np.inf) -> Deals:
    """Deals layers to up to `stages` stages so that the worst stage costs least.

    Args:
        runs: what may be a stage.
        cost: for a number of stages behind, and for each run the least time that one micro-batch spends at the borders
            of those, the cost of the run as that stage.
        stages: most stages.
        to_beat: a deal with a worse stage is of no use; bounds of such deals may come out too high.
    """
    best = np.full((stages, runs.layers + 1), np.inf)
    costs, after, borders_s = [], _nothing_left(runs.layers), _nothing_left(runs.layers)
    for behind in range(stages):
        each = cost(behind, borders_s[runs.end])
        costs.append(each.bound_s)
        best[behind, :-1] = np.minimum.reduceat(np.maximum(each.bound_s, after[runs.end]), runs.starts)
        useful = np.where(each.bound_s < to_beat, each.borders_s + borders_s[runs.end], np.inf)
        after, borders_s = best[behind], np.full(runs.layers + 1, np.inf)
        borders_s[:-1] = np.minimum.reduceat(useful, runs.starts)
    return Deals(runs=runs, costs=costs, best=best)


def _nothing_left(layers: int) -> Floats:
    after = np.full(layers + 1, np.inf)
    after[layers] = 0.0
    return after


def every_deal(layers: int, stages: int) -> Iterator[tuple[int, ...]]:
    """All ways to deal layers to stages, each stage at least one."""
    for inner in combinations(range(1, layers), stages - 1):
        yield (0, *inner, layers)


def moved(boundaries: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The deals that differ by one layer across one border."""
    for border in range(1, len(boundaries) - 1):
        for step in (-1, 1):
            place = boundaries[border] + step
            if boundaries[border - 1] < place < boundaries[border + 1]:
                yield (*boundaries[:border], place, *boundaries[border + 1 :])
