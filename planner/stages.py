"""Which stage holds which layers: uneven boundaries that minimise a lower bound of the 1F1B step time under memory.

Exact for the chain by dynamic programming over suffixes: the last stages first, because how many micro-batches a stage
keeps depends on how many stages stand behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def stage_bound(forward_s: Floats, backward_s: Floats, total_s: float, micro_batches: int, behind: int) -> Floats:
    """A step time that no 1F1B step can beat, given one stage.

    Every micro-batch takes `total_s` through all stages and back, and the stage is busy with it for w = f + b. Until
    its first backward it can have run at most min(behind, m - 1) further forwards, and after its last forward at most
    as many backwards, so that the rest of its (m - 1) w cannot hide behind the other stages' share of total_s:

        T >= total + (m - 1) w - min(behind, m - 1) min(f, b)

    For equal stages and behind = 0 this is the (m + p - 1) w of 1F1B (Narayanan et al., SC 2021, section 2.2).

    Args:
        forward_s: of one micro-batch on the stage; arrays cover many runs of layers.
        backward_s: likewise.
        total_s: forward and backward of all layers.
        micro_batches: of one step.
        behind: stages behind this one.

    Example: two stages of 1 + 2 s, 4 micro-batches, last stage:
        >>> float(stage_bound(np.array(1.0), np.array(2.0), 6.0, 4, 0))
        15.0
    """
    hidden = min(behind, micro_batches - 1)
    bound: Floats = (
        total_s + (micro_batches - 1) * (forward_s + backward_s) - hidden * np.minimum(forward_s, backward_s)
    )
    return bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Suffixes:
    """The dynamic programme's table.

    Attributes:
        costs: for each number of stages behind, the cost of every run of layers as that stage.
        best: [stages, layers + 1]: the least worst cost with that many stages (plus one) from a layer to the end.
    """

    costs: Sequence[Floats]
    best: Floats

    def value(self, stages: int) -> float:
        """The least worst cost of dealing all layers to that many stages; infinite when none fits."""
        return float(self.best[stages - 1, 0])

    def boundaries(self, stages: int) -> tuple[int, ...]:
        """First layer of each stage and the number of layers, for a deal of that worst cost.

        Of all deals that are as good, the one whose stages come nearest to an equal number of layers.
        """
        limit = self.value(stages)
        layers = self.best.shape[1] - 1
        bounds = [0]
        for behind in range(stages - 1, 0, -1):
            first = bounds[-1]
            allowed = (self.costs[behind][first] <= limit) & (self.best[behind - 1] <= limit)
            wanted = first + (layers - first) / (behind + 1)
            ends = np.flatnonzero(allowed)
            bounds.append(int(ends[np.abs(ends - wanted).argmin()]))
        return (*bounds, layers)


def deal(cost: Callable[[int], Floats], layers: int, stages: int) -> Suffixes:
    """Deals layers to up to `stages` stages so that the worst stage costs least.

    Args:
        cost: for a number of stages behind, [layers + 1, layers + 1] the cost of each run [first, end) as that stage;
            infinite where it has no layers or does not fit.
        layers: of the chain.
        stages: most stages.
    """
    costs = [cost(behind) for behind in range(stages)]
    after = np.full(layers + 1, np.inf)
    after[layers] = 0.0
    best = np.empty((stages, layers + 1))
    for behind, matrix in enumerate(costs):
        after = np.maximum(matrix, after[None, :]).min(axis=1)
        best[behind] = after
    return Suffixes(costs=costs, best=best)


def every_deal(layers: int, stages: int) -> Iterator[tuple[int, ...]]:
    """All ways to deal layers to stages, each stage at least one."""
    if stages == 1:
        yield (0, layers)
        return
    for bounds in every_deal_of_last(layers, stages, 0):
        yield (0, *bounds)


def every_deal_of_last(layers: int, stages: int, first: int) -> Iterator[tuple[int, ...]]:
    """The boundaries behind `first` of all ways to deal layers [first, layers) to stages."""
    if stages == 1:
        yield (layers,)
        return
    for end in range(first + 1, layers - stages + 2):
        for rest in every_deal_of_last(layers, stages - 1, end):
            yield (end, *rest)


def moved(boundaries: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The deals that differ by one layer across one border."""
    for border in range(1, len(boundaries) - 1):
        for step in (-1, 1):
            place = boundaries[border] + step
            if boundaries[border - 1] < place < boundaries[border + 1]:
                yield (*boundaries[:border], place, *boundaries[border + 1 :])
