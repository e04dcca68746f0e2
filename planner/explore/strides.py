"""Whom the ranks of a stage meet where its pool's nodes and switches repeat: each way in which groups lie, once.

Along an axis the ranks of a stage fall into groups of one stride, side by side from its first device to its last. Such
groups lie alike wherever they begin at the same place of the period, so that ways of many degrees share them.
"""

from __future__ import annotations

import math

import numpy as np

from nebula.cost_model.communication import Fabric, Levels
from nebula.cost_model.traffic import slowest_of
from nebula.planner.explore.deal import Ints
from nebula.planner.explore.pools import Pools


def strides_of(
    *, data: int, context: int, tensor: int, shard: int, expert: int, same_tokens: bool = False
) -> dict[str, tuple[int, int]]:
    """By axis of Axes, `pair` apart, the stride of its groups and their ranks; where experts are whole on each rank.

    Args:
        data, context, tensor: of the grid of a stage, whose devices follow one another.
        shard: replicas over which optimizer states are cut; the ranks of a context group share in it.
        expert: ranks over which experts are dealt.
        same_tokens: as of traffic.axis_groups.
    """
    width, ranks = context * tensor, data * context * tensor
    dealt = ranks if ranks % expert else expert
    return {
        "tensor": (1, tensor),
        "context": (tensor, context),
        "expert": (1, dealt),
        "shard": (tensor, shard * context),
        "outer": (shard * width, data // shard),
        "expert_shard": (tensor, data * context) if same_tokens else (dealt, ranks // dealt),
    }


class Strides:
    """The levels of groups on the pools of a cluster that repeat, worked out once for each place of the period."""

    def __init__(self, fabric: Fabric, pools: Pools) -> None:
        self.fabric, self.pools = fabric, pools
        self._groups: dict[tuple[int, ...], Levels] = {}
        self._pairs: dict[tuple[int, ...], Levels] = {}

    def axes(self, pool: int, first: int, ranks: int, strides: dict[str, tuple[int, int]]) -> dict[str, Levels]:
        """By axis where the slowest of its groups meets.

        Args:
            pool: that repeats.
            first: device of the stage.
            ranks: of the stage.
            strides: as of strides_of.
        """
        return {axis: self._levels(pool, first, ranks, *own) for axis, own in strides.items()}

    def _levels(self, pool: int, first: int, ranks: int, stride: int, members: int) -> Levels:
        if members == 1:
            return Levels()
        period, block = self.pools.periods[pool], stride * members
        blocks = min(ranks // block, math.lcm(block, period) // block)
        key = (pool, (first - int(self.pools.devices[pool][0])) % period, stride, members, blocks)
        if key not in self._groups:
            starts = first + block * np.arange(blocks)[:, None] + np.arange(min(stride, period))
            groups: Ints = starts.reshape(-1, 1) + stride * np.arange(members)
            self._groups[key] = slowest_of(groups, self.fabric)
        return self._groups[key]

    def pair(self, pool: int, first: int, other: int, after: int, ranks: int) -> Levels:
        """Where the ranks of a stage meet those of another one at their places, slowest first.

        Args:
            pool: of the stage, that repeats.
            first: device of the stage.
            other: pool of the other stage, that repeats.
            after: how much later its devices come.
            ranks: of the smaller of both.
        """
        period = math.lcm(self.pools.periods[pool], self.pools.periods[other])
        where = (first - int(self.pools.devices[pool][0])) % period if pool == other else first
        count = min(ranks, period)
        key = (pool, other, where, after, count)
        if key not in self._pairs:
            own = first + np.arange(count)
            self._pairs[key] = slowest_of(np.stack([own, own + after], axis=1), self.fabric)
        return self._pairs[key]
