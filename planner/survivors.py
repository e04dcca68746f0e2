"""Which shards of a plan are left on which devices, stage by stage, after nodes were lost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nebula.plan.values import Plan
from nebula.planner.holdings import NOWHERE, Grid, Holders, Ints, Rectangles


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivors:
    """What is left of a stage.

    Attributes:
        layers: [first, last) of the stage.
        ranks: of the plan that ran, those that survive.
        weights_copies: devices that hold the weights that fewest hold; 0: some are lost.
        states_copies: likewise for optimizer states.
        lost_shards: pairs of tensor rank and shard (of the sharding group) whose states no device holds.
    """

    layers: tuple[int, int]
    ranks: tuple[int, ...]
    weights_copies: int
    states_copies: int
    lost_shards: tuple[tuple[int, int], ...]


def survivors(plan: Plan, found: Ints) -> tuple[Survivors, ...]:
    """What is left of every stage.

    Args:
        plan: that ran.
        found: the device of each rank, NOWHERE where it is lost.
    """
    holders = Holders.of(plan)
    copies = [_least_copies(holders, found, least, len(plan.stages)) for least in (3, 1)]
    alive = found != NOWHERE
    return tuple(
        Survivors(
            layers=stage.layers,
            ranks=tuple(rank for rank in stage.ranks if alive[rank]),
            weights_copies=int(copies[0][index]),
            states_copies=int(copies[1][index]),
            lost_shards=_lost_shards(plan, index, alive.tolist()),
        )
        for index, stage in enumerate(plan.stages)
    )


def _least_copies(holders: Holders, found: Ints, least_sharding: int, stages: int) -> Ints:
    """[stages] how many devices hold what fewest hold."""
    all_there = np.arange(len(found))
    every, left = (holders.rectangles(on, least_sharding=least_sharding, cut=True) for on in (all_there, found))
    least = _fewest(every, left, stages)
    if (holders.experts[1] == 1).all():
        return least
    every, left = (holders.expert_rectangles(on, least_sharding=least_sharding) for on in (all_there, found))
    return np.minimum(least, _fewest(every, left, stages))


def _fewest(every: Rectangles, left: Rectangles, stages: int) -> Ints:
    grid = Grid((every,), stages)
    cells, _ = grid.cells(left, np.arange(stages))
    counts = np.bincount(cells, minlength=stages * len(grid.areas)).reshape(stages, -1)
    least: Ints = counts.min(axis=1)
    return least


def _lost_shards(plan: Plan, index: int, alive: list[bool]) -> tuple[tuple[int, int], ...]:
    """Pairs of tensor rank and shard of a stage that no surviving rank has."""
    stage = plan.stages[index]
    degree = stage.sharding.degree if stage.sharding.stage else 1
    held: dict[tuple[int, int], bool] = {}
    for number, replica in enumerate(stage.replicas):
        for tensor, rank in enumerate(replica.ranks):
            key = (tensor, number % degree)
            held[key] = held.get(key, False) or alive[rank]
    return tuple(sorted(key for key, there in held.items() if not there))
