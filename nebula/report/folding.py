"""Folds a cluster's nodes for drawing: which stages run on each node, equal neighbours as one, repeats once.

A node group of 240 nodes whose stages repeat every 60 nodes becomes 60 tiles that stand for 4 nodes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from nebula.cluster.values import NodeGroup
from nebula.plan.values import Plan

UNUSED = -1
Signature = tuple[int, ...]


class Tile(NamedTuple):
    """Nodes drawn as one.

    Attributes:
        stages: for each device of the node the stage on it, UNUSED where none runs.
        nodes: indices of the nodes within their group.
    """

    stages: Signature
    nodes: tuple[int, ...]


def device_stages(plan: Plan) -> dict[tuple[str, int], int]:
    """The stage on each device in use, by node name and place within the node."""
    return {
        (plan.ranks[rank].node, plan.ranks[rank].device): index
        for index, stage in enumerate(plan.stages)
        for rank in stage.ranks
    }


def signatures(group: NodeGroup, stages: dict[tuple[str, int], int]) -> tuple[Signature, ...]:
    """For each node of the group the stages on its devices."""
    return tuple(
        tuple(stages.get((f"{group.name}/{node}", device), UNUSED) for device in range(group.devices_per_node))
        for node in range(group.count)
    )


def neighbours(nodes: Sequence[Signature]) -> tuple[Tile, ...]:
    """Runs of equal nodes as one tile each.

    Example:
        >>> neighbours([(0, 0), (0, 0), (1, 1)])
        (Tile(stages=(0, 0), nodes=(0, 1)), Tile(stages=(1, 1), nodes=(2,)))
    """
    runs = groupby(enumerate(nodes), key=lambda pair: pair[1])
    return tuple(Tile(signature, tuple(index for index, _ in run)) for signature, run in runs)


def repeats(tiles: Sequence[Tile]) -> tuple[Tile, ...]:
    """A row of tiles that repeats a shorter row, drawn once; else the tiles as they are.

    Example:
        >>> [t.nodes for t in repeats(neighbours([(0,), (1,), (0,), (1,)]))]
        [(0, 2), (1, 3)]
    """
    count = len(tiles)
    shape = [(t.stages, len(t.nodes)) for t in tiles]
    for period in range(1, count // 2 + 1):
        if count % period == 0 and all(shape[i] == shape[i - period] for i in range(period, count)):
            return tuple(
                Tile(tiles[i].stages, tuple(n for tile in tiles[i::period] for n in tile.nodes)) for i in range(period)
            )
    return tuple(tiles)


def tiles(group: NodeGroup, stages: dict[tuple[str, int], int], *, fold_from: int = 9) -> tuple[Tile, ...]:
    """The tiles of a group: each node its own below `fold_from` nodes, folded from there on."""
    nodes = signatures(group, stages)
    if len(nodes) < fold_from:
        return tuple(Tile(signature, (index,)) for index, signature in enumerate(nodes))
    return repeats(neighbours(nodes))
