"""Who communicates with whom in a plan: for each stage the groups of its ranks, as the levels at which they meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.communication import Fabric, Levels, collective
from nebula.plan.values import Stage

PROBE_BYTES = 64e6
"""Size of the message by which the slowest of several unlike groups is told."""


ALONE = Levels()
"""The group of one rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Where the ranks of a stage meet; where groups of a stage lie unlike, the slowest.

    Attributes:
        tensor: ranks of one replica.
        tensor_ranks: how many they are; they may lie unevenly over nodes.
        shard: replicas that share one set of optimizer states (or more, by the sharding stage).
        outer: replicas that hold the same shard.
        behind: this stage and the next; empty for the last.
        before: the stage before and this one; empty for the first.
    """

    tensor: Levels = ALONE
    tensor_ranks: int = 1
    shard: Levels = ALONE
    outer: Levels = ALONE
    behind: Levels = ALONE
    before: Levels = ALONE


def stage_groups(held: Sequence[NDArray[np.int64]], degrees: Sequence[int], fabric: Fabric) -> tuple[Groups, ...]:
    """The groups of every stage of a plan.

    Args:
        held: [replicas, tensor] devices of each stage, as of replica_devices.
        degrees: replicas of a sharding group of each stage.
        fabric: of the cluster.
    """
    if len({(grid.shape, degree) for grid, degree in zip(held, degrees, strict=True)}) == 1:
        return uniform_groups(np.stack(held), degrees[0], fabric)
    alone = [uniform_groups(grid[None], degree, fabric)[0] for grid, degree in zip(held, degrees, strict=True)]
    borders = [_slowest(border_pairs(a, b)[None], fabric)[0] for a, b in pairwise(held)]
    ends = [ALONE, *borders, ALONE]
    return tuple(replace(g, before=ends[i], behind=ends[i + 1]) for i, g in enumerate(alone))


def uniform_groups(grid: NDArray[np.int64], degree: int, fabric: Fabric) -> tuple[Groups, ...]:
    """The groups of stages with equal degrees.

    Args:
        grid: [stages, replicas, tensor] global device indices; consecutive replicas share a sharding group.
        degree: replicas of a sharding group.
        fabric: of the cluster.
    """
    stages, replicas, tensor = grid.shape
    flat = grid.reshape(stages, replicas * tensor)
    borders = _slowest(np.stack([flat[:-1], flat[1:]], axis=2), fabric) if stages > 1 else []
    ends = [ALONE, *borders, ALONE]
    within, across = _slowest(grid, fabric), data_groups(grid, degree, fabric)
    return tuple(
        Groups(tensor=levels, tensor_ranks=tensor, shard=shard, outer=outer, before=ends[i], behind=ends[i + 1])
        for i, (levels, (shard, outer)) in enumerate(zip(within, across, strict=True))
    )


def data_groups(grid: NDArray[np.int64], degree: int, fabric: Fabric) -> list[tuple[Levels, Levels]]:
    """For each stage where a sharding group meets, and where the replicas with the same shard do."""
    stages, replicas, tensor = grid.shape
    if fabric.same_node(grid):
        # the peers of a rank lie like those of its whole tensor group
        grid, tensor = grid[:, :, :1], 1
    shards = grid.reshape(stages, replicas // degree, degree, tensor)
    inner = shards.transpose(0, 1, 3, 2).reshape(stages, -1, degree)
    outer = shards.transpose(0, 2, 3, 1).reshape(stages, -1, replicas // degree)
    return list(zip(_slowest(inner, fabric), _slowest(outer, fabric), strict=True))


def replica_devices(stage: Stage, devices: NDArray[np.int64]) -> NDArray[np.int64]:
    """[replicas, tensor] devices of a stage; a replica with fewer ranks than the widest repeats its first."""
    widths = {len(r.ranks) for r in stage.replicas}
    width = max(widths)
    if len(widths) > 1:
        every = [r.ranks + r.ranks[:1] * (width - len(r.ranks)) for r in stage.replicas]
    else:
        every = [r.ranks for r in stage.replicas]
    ranks = np.fromiter(chain.from_iterable(every), np.int64, width * len(every))
    grid: NDArray[np.int64] = devices[ranks.reshape(-1, width)]
    return grid


def border_pairs(sender: NDArray[np.int64], receiver: NDArray[np.int64]) -> NDArray[np.int64]:
    """[pairs, 2] devices that exchange across the border between two stages; each rank of a replica has its peer."""
    rows = min(len(sender), len(receiver))
    width = min(sender.shape[1], receiver.shape[1])
    return np.stack([sender[:rows, :width].ravel(), receiver[:rows, :width].ravel()], axis=1)


def _slowest(groups: NDArray[np.int64], fabric: Fabric) -> list[Levels]:
    """For each stage the levels of its slowest group; groups is [stages, groups, ranks]."""
    levels, which = fabric.distinct(groups.reshape(-1, groups.shape[2]))
    seconds = np.array([collective("all_reduce", group).seconds(PROBE_BYTES) for group in levels])
    each = which.reshape(groups.shape[:2])
    return [levels[i] for i in each[np.arange(len(each)), seconds[each].argmax(axis=1)]]
