"""Who communicates with whom in a plan: for each stage the groups of its ranks, as the levels at which they meet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.communication import Fabric, Levels, collective
from nebula.plan.values import Plan, Stage

PROBE_BYTES = 64e6
"""Size of the message by which the slowest of several unlike groups is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Where the ranks of a stage meet; where groups of a stage lie unlike, the slowest.

    Attributes:
        tensor: ranks of one replica.
        shard: replicas that share one set of optimizer states (or more, by the sharding stage).
        outer: replicas that hold the same shard.
        behind: this stage and the next; empty for the last.
        before: the stage before and this one; empty for the first.
    """

    tensor: Levels = ()
    shard: Levels = ()
    outer: Levels = ()
    behind: Levels = ()
    before: Levels = ()


def stage_groups(plan: Plan, devices: NDArray[np.int64], fabric: Fabric) -> tuple[Groups, ...]:
    """The groups of every stage of a plan.

    Args:
        plan: stages with ranks.
        devices: global device index of every rank.
        fabric: of the cluster.
    """
    held = [replica_devices(stage, devices) for stage in plan.stages]
    ends = range(len(held) - 1)
    borders = [worst(fabric.levels_of(border_pairs(held[i], held[i + 1]))) for i in ends]
    out = []
    for index, stage in enumerate(plan.stages):
        grid = held[index]
        degree = stage.sharding.degree
        shards = grid.reshape(-1, degree, grid.shape[1])
        out.append(
            Groups(
                tensor=worst(fabric.levels_of(grid)),
                shard=worst(fabric.levels_of(shards.transpose(0, 2, 1).reshape(-1, degree))),
                outer=worst(fabric.levels_of(shards.transpose(1, 2, 0).reshape(-1, len(shards)))),
                behind=borders[index] if index < len(borders) else (),
                before=borders[index - 1] if index else (),
            )
        )
    return tuple(out)


def replica_devices(stage: Stage, devices: NDArray[np.int64]) -> NDArray[np.int64]:
    """[replicas, tensor] devices of a stage; a replica with fewer ranks than the widest repeats its first."""
    width = max(len(r.ranks) for r in stage.replicas)
    ranks = [r.ranks + r.ranks[:1] * (width - len(r.ranks)) for r in stage.replicas]
    grid: NDArray[np.int64] = devices[np.array(ranks)]
    return grid


def border_pairs(sender: NDArray[np.int64], receiver: NDArray[np.int64]) -> NDArray[np.int64]:
    """[pairs, 2] devices that exchange across the border between two stages; each rank of a replica has its peer."""
    rows = min(len(sender), len(receiver))
    width = min(sender.shape[1], receiver.shape[1])
    return np.stack([sender[:rows, :width].ravel(), receiver[:rows, :width].ravel()], axis=1)


def worst(levels: Iterable[Levels]) -> Levels:
    """The slowest among the groups."""
    return max(set(levels), key=lambda group: collective("all_reduce", group).seconds(PROBE_BYTES))
