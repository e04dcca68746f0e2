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


class Look(NamedTuple):
    """What makes nodes look alike.

    Attributes:
        stages: for each device of the node the stage on it, UNUSED where none runs.
        state: `excluded`, `2× slower`, or empty.
    """

    stages: tuple[int, ...]
    state: str = ""


class Tile(NamedTuple):
    """Nodes drawn as one: how they look, and their indices within their group."""

    look: Look
    nodes: tuple[int, ...]


def device_stages(plan: Plan) -> dict[tuple[str, int], int]:
    """The first stage on each device in use, by node name and place within the node."""
    found: dict[tuple[str, int], int] = {}
    for index, stage in enumerate(plan.stages):
        for rank in stage.ranks:
            found.setdefault((plan.ranks[rank].node, plan.ranks[rank].device), index)
    return found


def looks(group: NodeGroup, stages: dict[tuple[str, int], int]) -> tuple[Look, ...]:
    """How each node of the group looks."""
    slow = dict(group.slow)

    def look(node: int) -> Look:
        places = ((f"{group.name}/{node}", device) for device in range(group.devices_per_node))
        state = "excluded" if node in group.excluded else f"{slow[node]:g}× slower" if node in slow else ""
        return Look(tuple(stages.get(place, UNUSED) for place in places), state)

    return tuple(look(node) for node in range(group.count))


def neighbours(nodes: Sequence[Look]) -> tuple[Tile, ...]:
    """Runs of equal nodes as one tile each.

    Example:
        >>> [tile.nodes for tile in neighbours([Look((0, 0)), Look((0, 0)), Look((1, 1))])]
        [(0, 1), (2,)]
    """
    runs = groupby(enumerate(nodes), key=lambda pair: pair[1])
    return tuple(Tile(look, tuple(index for index, _ in run)) for look, run in runs)


def repeats(tiles: Sequence[Tile]) -> tuple[Tile, ...]:
    """A row of tiles that repeats a shorter row, drawn once; else the tiles as they are.

    Example:
        >>> [t.nodes for t in repeats(neighbours([Look((0,)), Look((1,)), Look((0,)), Look((1,))]))]
        [(0, 2), (1, 3)]
    """
    count = len(tiles)
    shape = [(t.look, len(t.nodes)) for t in tiles]
    for period in range(1, count // 2 + 1):
        if count % period == 0 and all(shape[i] == shape[i - period] for i in range(period, count)):
            return tuple(
                Tile(tiles[i].look, tuple(n for tile in tiles[i::period] for n in tile.nodes)) for i in range(period)
            )
    return tuple(tiles)


def tiles(group: NodeGroup, stages: dict[tuple[str, int], int], *, fold_from: int = 9) -> tuple[Tile, ...]:
    """The tiles of a group: each node its own below `fold_from` nodes, folded from there on."""
    nodes = looks(group, stages)
    if len(nodes) < fold_from:
        return tuple(Tile(look, (index,)) for index, look in enumerate(nodes))
    return repeats(neighbours(nodes))
