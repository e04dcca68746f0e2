"""Who holds which part of a model's state: weights by all replicas of a stage, optimizer states as sharding cuts them.

A layer's parameters are a unit square: tensor parallelism cuts along one side, sharding along the other, so that the
shards of two plans are rectangles that overlap by a product. Sharding is taken to cut every layer evenly; fleet deals
whole tensors of a stage to owners, which comes to the same bytes where a stage stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.plan.values import Plan, Stage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NOWHERE = -1
"""The device of a rank whose node is not there any more."""


class Rectangles(NamedTuple):
    """Parts of a stage that devices hold, an entry for each rank.

    Attributes:
        stage: index of the stage.
        device: global index, or NOWHERE.
        left: and right: the part along the side that tensor parallelism cuts, from 0 to 1.
        low: and high: the part along the side that sharding cuts.
    """

    stage: Ints
    device: Ints
    left: Floats
    right: Floats
    low: Floats
    high: Floats

    def where(self, kept: NDArray[np.bool_]) -> Rectangles:
        """Those of them."""
        return Rectangles(*(column[kept] for column in self))


def rectangles(plan: Plan, devices: Ints, *, least_sharding: int, cut: bool) -> Rectangles:
    """What the ranks of a plan hold of something.

    Args:
        plan: whose ranks.
        devices: of every rank.
        least_sharding: the stage of ZeRO from which on it is cut: 1 for optimizer states, 3 for weights.
        cut: whether tensor parallelism cuts it; norms and biases are held whole by every rank of a tensor group.
    """
    stages = [_stage(stage, least_sharding, cut) for stage in plan.stages]
    index = np.repeat(np.arange(len(stages)), [len(ranks) for ranks, _ in stages])
    ranks = np.concatenate([ranks for ranks, _ in stages])
    left, right, low, high = np.concatenate([sides for _, sides in stages], axis=1)
    return Rectangles(stage=index, device=devices[ranks], left=left, right=right, low=low, high=high)


def _stage(stage: Stage, least_sharding: int, cut: bool) -> tuple[Ints, Floats]:
    """The ranks of a stage, and [4, ranks] their left, right, low and high."""
    shares = [replica.tensor_shares for replica in stage.replicas]
    ranks = np.fromiter((rank for replica in stage.replicas for rank in replica.ranks), np.int64)
    degree = stage.sharding.degree if stage.sharding.stage >= least_sharding else 1
    if len(set(shares)) == 1:
        across = np.tile(_sides(shares[0], cut), len(shares))
    else:
        across = np.concatenate([_sides(own, cut) for own in shares], axis=1)
    shard = np.repeat(np.arange(len(shares)) % degree, [len(own) for own in shares])
    return ranks, np.vstack([across, shard / degree, (shard + 1) / degree])


def _sides(shares: Sequence[int], cut: bool) -> Floats:
    """[2, ranks] where the parts of a tensor group begin and end."""
    if not cut:
        return np.repeat([[0.0], [1.0]], len(shares), axis=1)
    edges = np.concatenate([[0], np.cumsum(shares)])
    return np.array([edges[:-1], edges[1:]]) / edges[-1]


class Segments(NamedTuple):
    """Runs of layers that lie on one stage before and on one after.

    Attributes:
        before: stage of each run in the plan before.
        after: and in the plan after.
        first: first layer.
        end: the layer behind its last.
    """

    before: Ints
    after: Ints
    first: Ints
    end: Ints

    @staticmethod
    def of(before: Plan, after: Plan) -> Segments:
        """The runs of two plans of one model."""
        olds, news = _begins(before), _begins(after)
        edges = np.union1d(olds, news)
        first, end = edges[:-1], edges[1:]
        return Segments(
            before=np.searchsorted(olds, first, side="right") - 1,
            after=np.searchsorted(news, first, side="right") - 1,
            first=first,
            end=end,
        )


def _begins(plan: Plan) -> Ints:
    assert all(one.layers[1] == other.layers[0] for one, other in pairwise(plan.stages)), "stages follow each other"
    return np.array([stage.layers[0] for stage in plan.stages] + [plan.stages[-1].layers[1]])


class Grid:
    """The cells into which the edges of all rectangles cut the squares: each is held whole or not at all.

    Args:
        held: rectangles of all plans that are compared.
        segments: how many squares there are.
    """

    def __init__(self, held: Sequence[Rectangles], segments: int) -> None:
        self.segments = segments
        self._columns = np.unique(np.concatenate([side for each in held for side in (each.left, each.right)]))
        self._rows = np.unique(np.concatenate([side for each in held for side in (each.low, each.high)]))
        self.areas = np.outer(np.diff(self._columns), np.diff(self._rows)).ravel()

    def cells(self, held: Rectangles, stages: Ints) -> tuple[Ints, Ints]:
        """The cells of all segments that are held, with their devices; cell = segment * len(areas) + place.

        Args:
            held: parts of stages.
            stages: the stage that holds each segment.
        """
        order = np.argsort(held.stage, kind="stable")
        begin, end = np.searchsorted(held.stage[order], stages), np.searchsorted(held.stage[order], stages, "right")
        segment, within = _spread(end - begin)
        entry = order[begin[segment] + within]
        left, right = (np.searchsorted(self._columns, side[entry]) for side in (held.left, held.right))
        low, high = (np.searchsorted(self._rows, side[entry]) for side in (held.low, held.high))
        which, within = _spread((right - left) * (high - low))
        column, row = np.divmod(within, (high - low)[which])
        place = (left[which] + column) * (len(self._rows) - 1) + low[which] + row
        return segment[which] * len(self.areas) + place, held.device[entry[which]]


def _spread(counts: Ints) -> tuple[Ints, Ints]:
    """For each of sum(counts) entries to whom it belongs, and the how-manieth it is there."""
    owner = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) - starts[owner]
