"""What each node is told when workers are to begin: their ranks, the plan, and from which copies they go on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nebula.elastic.controller.crowd import Line
from nebula.elastic.controller.restore import Restorable
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.shared import packed

Lines = Mapping[str, Line]
Fields = Mapping[str, Any]
"""What the messages to all nodes have in common: epoch, generation, plan, words, environment, log folder."""


def of_generation(
    common: Fields,
    members: Sequence[str],
    placed: Sequence[wire.Rank],
    lines: Lines,
    found: Restorable | None,
    *,
    same: bool,
) -> Iterator[tuple[str, wire.Start]]:
    """For each member: all ranks of the generation, the copies that they take up, and who keeps the node's own.

    Args:
        found: None: the newest checkpoint on the disk, if there is one.
        same: whether the plan is that of the generation before, so that a rank may find its own part on its node.
    """
    first = lines[placed[0].node].hello
    own: dict[str, set[int]] = {}
    for rank in placed:
        own.setdefault(rank.node, set()).add(rank.rank)
    others = [node for node in members if node in own]
    after = dict(zip(others, [*others[1:], *others[:1]], strict=True))
    shared = wire.Start(
        **common,
        ranks=placed,
        master=f"{first.address}:{first.ports[0]}",
        resume_step=found.step if found else 0,
        sources=sources_of(found, lines) if found else [],
    )
    alike, held = packed(shared), found.ranks_by_node() if found else {}
    for node in members:
        neighbour = after.get(node, node)
        start = wire.Start(
            epoch=shared.epoch,
            generation=shared.generation,
            shared=alike,
            neighbour="" if neighbour == node else lines[neighbour].peer,
            everything=found is not None and not (same and own.get(node, set()) <= held.get(node, frozenset())),
        )
        yield node, start


def sources_of(found: Restorable, lines: Lines) -> list[wire.Source]:
    """Where the copies of a step are, as far as their nodes are connected."""
    return [
        wire.Source(name=copy.name, node=copy.node, address=lines[copy.node].peer, rank=copy.rank, alone=copy.alone)
        for copy in found.copies
        if copy.node in lines
    ]


def of_replicas(
    common: Fields,
    nodes: Sequence[str],
    numbers: Mapping[str, int],
    lines: Lines,
    select: Callable[[int, int], Mapping[str, str]],
) -> Iterator[tuple[str, wire.Start]]:
    """For each of these nodes that is connected: its workers, each of which finds the others by itself."""
    for node in nodes:
        if node not in lines:
            continue
        slots = lines[node].hello.slots
        first = numbers[node] * slots
        placed = [
            wire.Rank(rank=first + slot, node=node, local=slot, device=slot, environment=select(first + slot, slot))
            for slot in range(slots)
        ]
        yield node, wire.Start(**common, ranks=placed, apart=True)
