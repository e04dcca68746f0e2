"""What fleet holds at the moments of a step where tensors alone count: layer by layer of a backward, and at the update.

In the first backward of a step a gradient comes as what the layers behind its own kept has gone; in later ones all are
there, and that of one weight is on its way beside them. Read from what Paddle 3.3.1 allocates on emulated devices.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.groups import Groups
from nebula.cost_model.memory import smaller
from nebula.cost_model.sharding import BUCKET_BYTES, by_reducer
from nebula.plan.values import Sharding

if TYPE_CHECKING:
    from nebula.cost_model.chain import ChainCost

Floats = NDArray[np.float64]


class OnWay(NamedTuple):
    """Of the largest weight of a layer, how often its bytes lie there on the way to its gradient.

    Attributes:
        later: beside what the backward needs, where gradients are added to those before.
        later_after: when all else of the layer is gone.
        first: as later, in the first backward of a step.
        first_after: as later_after, likewise.
    """

    later: float = 1.0
    later_after: float = 0.0
    first: float = 0.0
    first_after: float = 0.0


def on_way(sharding: Sharding) -> OnWay:
    """Of a weight under a sharding.

    Under stage 3 the gathered weight, in place of the rank's part, a gradient filled with zeros and the one that is
    added to it; then, when these are summed over the ranks, the parts of the weight and of the gradient as well.
    """
    if sharding.stage < 3:
        return OnWay()
    part = 1.0 / sharding.degree
    return OnWay(later=3.0 - part, later_after=3.0 + part, first=3.0 - part, first_after=3.0)


class Walk(NamedTuple):
    """The fullest moment of a backward with one micro-batch in flight, weights and states apart; one entry per run.

    Attributes:
        later: where the gradients of all layers are there, these apart.
        first: where they come one by one, these included.
    """

    later: Floats
    first: Floats


class Walks:
    """Of every run of a chain of layers.

    Args:
        chain: cost by layer.
    """

    def __init__(self, chain: ChainCost) -> None:
        self.chain, self._layers = chain, len(chain.kept_bytes)
        # what lies there behind each layer, each memory once
        self._kept = np.concatenate([[0.0], np.cumsum(chain.kept_bytes - chain.shared_bytes)])
        self._gradients = np.concatenate([[0.0], np.cumsum(chain.parameters_bytes)])
        self._shared = np.concatenate([chain.shared_bytes, [0.0]])
        self._tables: dict[tuple[OnWay, float], tuple[Floats, Floats]] = {}

    def of(self, first: NDArray[np.int64], end: NDArray[np.int64], way: OnWay, share: float) -> Walk:
        """Of the runs [first, end), where of gradients a rank holds such a share."""
        later, early = (table.take(first * (self._layers + 1) + end) for table in self._table(way, share))
        before = self._kept[first] - self._shared[first]
        return Walk(later - before, early - before - share * (self._gradients[-1] - self._gradients[end]))

    def gradients(self, first: int, end: int, way: OnWay, share: float) -> float:
        """Bytes of those that are there at the fullest moment of the first backward."""
        _, early = self._by_layer(way, share)
        at = first + int(early[first:end].argmax())
        return float(share * (self._gradients[end] - self._gradients[at]))

    def _table(self, way: OnWay, share: float) -> tuple[Floats, Floats]:
        key = (way, share)
        if key not in self._tables:
            later, early = maxima(np.stack(self._by_layer(way, share)))
            self._tables[key] = later.reshape(-1), early.reshape(-1)
        return self._tables[key]

    def _by_layer(self, way: OnWay, share: float) -> tuple[Floats, Floats]:
        """[layers] each: what a run from the first layer on holds at the backward of each, gradients to the end."""
        chain, kept = self.chain, self._kept[1:]
        weight, passing = chain.gradient_bytes, chain.working_bytes
        own = share * chain.parameters_bytes
        later = np.maximum(passing + way.later * weight, way.later_after * weight)
        first = np.maximum(passing + way.first * weight, way.first_after * weight)
        behind = share * (self._gradients[-1] - self._gradients[:-1])
        # at a loss no gradient of its own layer is there
        return kept + np.maximum(later, chain.loss_bytes), kept + behind + np.maximum(first, chain.loss_bytes - own)


def maxima(by_layer: Floats) -> Floats:
    """[figures, layers + 1, layers + 1]: of [figures, layers] the maximum over each run, 0 where it is empty."""
    figures, layers = by_layer.shape
    ahead = np.concatenate([np.zeros((figures, 1)), by_layer], axis=1)
    behind = np.tri(layers + 1, k=-1, dtype=bool).T
    found: Floats = np.maximum.accumulate(np.where(behind, ahead[:, None], 0.0), axis=2)
    return found


class Moment(NamedTuple):
    """A moment that may be the fullest, weights and states apart, in bytes.

    Attributes:
        name: FIRST, LAST or STEP.
        gradients: of all layers, where they are told apart.
        work: of one micro-batch, its activations included.
        kept: of each other micro-batch in flight.
        most: micro-batches in flight that there are at most.
    """

    name: str
    gradients: Floats
    work: Floats
    kept: Floats
    most: float = math.inf


FIRST, LAST, STEP = "first backward", "last backward", "optimizer step"


def moments(
    gradients: Floats,
    walk: Walk,
    kept: Floats,
    borders: Floats,
    *,
    sharding: Sharding,
    groups: Groups,
    recomputes: bool,
    micro_batches: int,
) -> list[Moment]:
    """The moments of a step of runs of layers.

    Args:
        gradients: of the runs, as of memory.fixed.
        walk: of the runs.
        kept: activations of one micro-batch.
        borders: what comes in from neighbours.
        sharding: of the runs.
        groups: where their ranks meet.
        recomputes: whether a backward runs anything again.
        micro_batches: of one step.
    """
    nothing = 0.0 * gradients
    if by_reducer(groups, recomputes=recomputes):
        # buckets of all gradients last from step to step, and the fullest is filled anew beside the old ones
        again = smaller(gradients, BUCKET_BYTES)
        return [
            Moment(LAST, 2.0 * gradients, walk.later + borders, kept),
            Moment(STEP, 2.0 * gradients, again, nothing, 0.0),
        ]
    joined = gradients / (sharding.degree if sharding.stage == 1 else 1) if groups.outer else nothing
    step = Moment(STEP, gradients, joined, nothing, 0.0)
    if sharding.stage == 2:
        # buffers of all gradients last from step to step
        return [Moment(LAST, gradients, walk.later + borders, kept), step]
    first = Moment(FIRST, nothing, walk.first + borders, kept)
    if micro_batches == 1:
        return [first, step]
    # a micro-batch is done before all gradients are there
    return [Moment(LAST, gradients, walk.later + borders, kept, micro_batches - 1.0), first, step]
