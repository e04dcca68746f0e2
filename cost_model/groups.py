"""Who communicates with whom in a plan: for each stage the groups of its ranks, as the levels at which they meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import Link
from nebula.cost_model.communication import Fabric, Levels, collective, ranks_of
from nebula.cost_model.lattice import OUTER, PIPELINE, SHARD, TENSOR, Lattice, Regular
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
    borders = [_slowest_of(border_pairs(a, b)[None], fabric)[0] for a, b in pairwise(held)]
    ends = [ALONE, *borders, ALONE]
    return tuple(replace(g, before=ends[i], behind=ends[i + 1]) for i, g in enumerate(alone))


def uniform_groups(grid: NDArray[np.int64], degree: int, fabric: Fabric) -> tuple[Groups, ...]:
    """The groups of stages with equal degrees.

    Args:
        grid: [stages, replicas, tensor] global device indices; consecutive replicas share a sharding group.
        degree: replicas of a sharding group.
        fabric: of the cluster.
    """
    stages, _, tensor = grid.shape
    ranks = grid.reshape(stages, -1, degree, tensor)
    if regular := fabric.regular(Lattice.of(ranks)):
        return regular_groups(regular, fabric)
    return _of_axes(stages, tensor, lambda axis: _along(ranks, axis, fabric))


def regular_groups(regular: Regular, fabric: Fabric) -> tuple[Groups, ...]:
    """The groups of stages whose devices lie regularly."""
    stages, *_, tensor = regular.lattice.shape
    return _of_axes(stages, tensor, lambda axis: _slowest(*fabric.distinct_rows(regular, axis)))


def _of_axes(stages: int, tensor: int, along: Callable[[int], list[Levels]]) -> tuple[Groups, ...]:
    """The groups of stages, of the levels of the slowest group of each along an axis."""
    within, shard, outer = (along(axis) for axis in (TENSOR, SHARD, OUTER))
    ends = [ALONE, *(along(PIPELINE) if stages > 1 else ()), ALONE]
    return tuple(
        Groups(tensor=levels, tensor_ranks=tensor, shard=inner, outer=across, before=ends[i], behind=ends[i + 1])
        for i, (levels, inner, across) in enumerate(zip(within, shard, outer, strict=True))
    )


def _along(ranks: NDArray[np.int64], axis: int, fabric: Fabric) -> list[Levels]:
    """For each stage the levels of the slowest group along an axis; along the first these are pairs, with the next.

    Args:
        ranks: [stages, sharding groups, replicas, ranks] devices.
    """
    if axis == PIPELINE:
        flat = ranks.reshape(len(ranks), -1)
        return _slowest_of(np.stack([flat[:-1], flat[1:]], axis=2), fabric)
    like = 1
    if axis != TENSOR and fabric.same_node(ranks):
        # the peers of a rank lie like those of its whole tensor group
        like, ranks = ranks.shape[TENSOR], ranks[..., :1]
    return _slowest_of(np.moveaxis(ranks, axis, -1).reshape(len(ranks), -1, ranks.shape[axis]), fabric, like)


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


def _slowest_of(groups: NDArray[np.int64], fabric: Fabric, like: int = 1) -> list[Levels]:
    """For each stage the levels of its slowest group; those that cross a WAN share it.

    Args:
        groups: [stages, groups, ranks].
        fabric: of the cluster.
        like: how many groups each of them stands for.
    """
    levels, which = fabric.distinct(groups.reshape(-1, groups.shape[2]))
    found = _slowest(levels, which.reshape(groups.shape[:2]))
    wan = fabric.cluster.wan
    return found if wan is None else [shared_wan(each, like * crossing(levels, which), wan) for each in found]


def crossing(levels: Sequence[Levels], which: NDArray[np.int64]) -> int:
    """How many groups have ranks at several sites; `which` of the levels each of them has."""
    across = [i for i, each in enumerate(levels) if each and each[-1].name == "wan"]
    return int(np.isin(which, across).sum()) if across else 0


def shared_wan(levels: Levels, groups: int, wan: Link) -> Levels:
    """The levels of one of so many groups that cross a WAN at the same time, each with its part of it."""
    if groups < 2 or not levels or levels[-1].name != "wan":
        return levels
    outermost = levels[-1]
    bytes_per_s = wan.bytes_per_s / (groups * ranks_of(Levels(levels[:-1])))
    link = replace(outermost.link, bytes_per_s=min(outermost.link.bytes_per_s, bytes_per_s))
    return Levels((*levels[:-1], replace(outermost, link=link)))


def _slowest(levels: list[Levels], which: NDArray[np.int64]) -> list[Levels]:
    """For each stage the levels of its slowest group; `which` of them each has is [stages, groups]."""
    if len(levels) == 1:
        return levels * len(which)
    seconds = np.array([collective("all_reduce", group).seconds(PROBE_BYTES) for group in levels])
    return [levels[i] for i in which[np.arange(len(which)), seconds[which].argmax(axis=1)]]
