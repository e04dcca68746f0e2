"""Who holds which part of a model's state: weights by all replicas of a stage, optimizer states as sharding cuts them.

A layer's parameters are a unit square: tensor parallelism cuts along one side, sharding along the other, so that the
shards of two plans are rectangles that overlap by a product. What experts have is a square of its own, cut by the
expert degree in place of the tensor degree; ranks that share a sequence are replicas of all of it. Sharding is taken to
cut every layer evenly; engines deal whole tensors of a stage to owners, which comes to the same bytes where a stage
stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.plan.values import Plan

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
        left, right, low, high = (side[kept] for side in (self.left, self.right, self.low, self.high))
        return Rectangles(self.stage[kept], self.device[kept], left, right, low, high)


class Holders(NamedTuple):
    """The ranks of a plan by what they hold, an entry for each.

    Attributes:
        rank: the rank.
        stage: its stage.
        left: and right: the part of what tensor parallelism cuts.
        replica: of the stage; ranks of a context group are replicas too.
        sharding: [2, ranks] stage of ZeRO, and how many replicas share states.
        experts: [3, ranks] which part of the experts, of how many, and the how-manieth to hold that part.
        holders: [ranks] how many hold the same experts.
    """

    rank: Ints
    stage: Ints
    left: Floats
    right: Floats
    replica: Ints
    sharding: Ints
    experts: Ints
    holders: Ints

    @staticmethod
    def of(plan: Plan) -> Holders:
        """Those of a plan."""
        replicas = [replica for stage in plan.stages for replica in stage.replicas]
        contexts = [stage.context for stage in plan.stages for _ in stage.replicas]
        shares = [replica.tensor_shares for replica in replicas]
        widths = np.array([len(own) for own in shares])
        ranks = np.fromiter(chain.from_iterable(replica.ranks for replica in replicas), np.int64, widths.sum())
        sides = {own: _repeated(*own) for own in dict.fromkeys(zip(shares, contexts, strict=True))}
        if len(sides) == 1:
            left, right = np.tile(sides[shares[0], contexts[0]], len(shares))
        else:
            left, right = np.hstack([sides[own] for own in zip(shares, contexts, strict=True)])
        stage = np.repeat(np.arange(len(plan.stages)), [len(each.ranks) for each in plan.stages])
        owner, within = _spread(widths)
        context = np.array([each.context for each in plan.stages])[stage]
        # [ranks] of each replica the place within its stage, and of each rank its place within its context group
        number = _spread(np.array([each.data for each in plan.stages]))[1][owner]
        replica = number * context + within // (widths[owner] // context)
        sharding = np.array([(each.sharding.stage, each.sharding.degree) for each in plan.stages]).T[:, stage]
        sharding = np.array([sharding[0], np.where(sharding[0] > 0, sharding[1] * context, sharding[1])])
        place = _spread(np.array([len(each.ranks) for each in plan.stages]))[1]
        expert = np.array([each.expert for each in plan.stages])[stage]
        count = np.array([len(each.ranks) for each in plan.stages])[stage]
        experts = np.array([place % expert, expert, place // expert])
        return Holders(ranks, stage, left, right, replica, sharding, experts, count // expert)

    def expert_rectangles(self, devices: Ints, *, least_sharding: int) -> Rectangles:
        """The same of experts; where states are sharded all that hold the same experts share theirs."""
        part, parts, number = self.experts
        degree = np.where(self.sharding[0] >= least_sharding, self.holders, 1)
        shard, device = number % degree, devices[self.rank]
        sides = part / parts, (part + 1) / parts, shard / degree, (shard + 1) / degree
        return Rectangles(self.stage, device, *sides).where(device != NOWHERE)

    def rectangles(self, devices: Ints, *, least_sharding: int, cut: bool) -> Rectangles:
        """What surviving ranks hold of something.

        Args:
            devices: of every rank; NOWHERE where it does not survive.
            least_sharding: the stage of ZeRO from which on it is cut: 1 for optimizer states, 3 for weights.
            cut: whether tensor parallelism cuts it; norms and biases are held whole by every rank of a tensor group.
        """
        stage, degree = self.sharding
        degree = np.where(stage >= least_sharding, degree, 1)
        shard, device = self.replica % degree, devices[self.rank]
        left, right = (self.left, self.right) if cut else (np.zeros_like(self.left), np.ones_like(self.right))
        every = Rectangles(self.stage, device, left, right, shard / degree, (shard + 1) / degree)
        return every.where(device != NOWHERE)


def _sides(shares: Sequence[int]) -> Floats:
    """[2, ranks] where the parts of a tensor group begin and end."""
    edges = np.concatenate([[0], np.cumsum(shares)])
    sides: Floats = np.array([edges[:-1], edges[1:]]) / edges[-1]
    return sides


def _repeated(shares: Sequence[int], context: int) -> Floats:
    """[2, ranks] the same of a replica of several tensor groups."""
    return np.tile(_sides(shares[: len(shares) // context]), context)


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
        # entries of a stage follow each other
        begin, end = np.searchsorted(held.stage, stages), np.searchsorted(held.stage, stages, "right")
        segment, within = _spread(end - begin)
        entry = begin[segment] + within
        left, right = (np.searchsorted(self._columns, side)[entry] for side in (held.left, held.right))
        low, high = (np.searchsorted(self._rows, side)[entry] for side in (held.low, held.high))
        which, within = _spread((right - left) * (high - low))
        column, row = np.divmod(within, (high - low)[which])
        place = (left[which] + column) * (len(self._rows) - 1) + low[which] + row
        return segment[which] * len(self.areas) + place, held.device[entry[which]]


def _spread(counts: Ints) -> tuple[Ints, Ints]:
    """For each of sum(counts) entries to whom it belongs, and the how-manieth it is there."""
    owner = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) - starts[owner]
