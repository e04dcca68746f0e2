"""In which order nodes are taken so that blocks of ranks lie under few switches, on any tree of switches and sites.

A block is a number of consecutive ranks that talk among themselves: a tensor group, a sharding group, a stage or a
replica. Nodes may differ in size, switches in how many nodes they hold. Nothing is priced here (placement.py).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.places import node_runs, slowness
from nebula.cluster.topology import ports, tiers
from nebula.cluster.values import Cluster

Ints = NDArray[np.int64]


class Slot(NamedTuple):
    """The devices of one node that ranks may take.

    Attributes:
        node: index of the node in the cluster.
        devices: global indices.
        path: the site and the switches that the node hangs under, from the outermost to the lowest.
        slow: by what factor the node is slower than its type says.
    """

    node: int
    devices: tuple[int, ...]
    path: tuple[int, ...]
    slow: float = 1.0

    @property
    def size(self) -> int:
        """How many ranks it takes."""
        return len(self.devices)


Slots = Sequence[Slot]


def slots_of(cluster: Cluster, devices: Iterable[int]) -> tuple[Slot, ...]:
    """Those devices by node, in the order in which they are given."""
    every, site = ports(cluster), _sites(cluster)
    widths = [tier.nodes for tier in reversed(tiers(cluster)[:-1])]
    before = [sum(g.count for g in cluster.groups[:i]) for i in range(len(cluster.groups))]

    def slot(node: int, group: int, index: int, held: tuple[int, ...]) -> Slot:
        port = every[group][index]
        path = (site[group], *(port // width for width in widths))
        return Slot(node, held, path, slowness(cluster, held[0]))

    runs = node_runs(cluster, devices)
    return tuple(slot(before[group] + index, group, index, tuple(held)) for (group, index, _), held in runs)


def _sites(cluster: Cluster) -> list[int]:
    """The site of each node group."""
    return [next((i for i, s in enumerate(cluster.sites) if g.name in s.groups), 0) for g in cluster.groups]


def sequences(slots: Slots, blocks: Sequence[int], ranks: int) -> Iterator[Ints]:
    """Devices in the order of the ranks, each way once: as they are given first, then packed for some of the blocks.

    Where the given order already nests (`nested`) there is no other.

    Args:
        blocks: sizes of the blocks, ascending, each a multiple of the one before.
        ranks: how many devices are taken.
    """
    given = devices_of(slots, ranks)
    seen = {given.tobytes()}
    yield given
    if nested(slots, blocks):
        return
    chains = [tuple(reversed(blocks[: end + 1])) for end in range(len(blocks))]
    several = len({slot.path[0] for slot in slots}) > 1
    for offered in _offers(slots, blocks[0]):
        for sizes in chains:
            for apart in (False, True) if several else (False,):
                found = devices_of(_healthy_first(offered, sizes, apart=apart), ranks)
                if len(found) == ranks and found.tobytes() not in seen:
                    seen.add(found.tobytes())
                    yield found


def _offers(slots: Slots, block: int) -> Iterator[Slots]:
    """All devices, and where the smallest block does not divide nodes those of which it leaves none over."""
    yield slots
    if any(slot.size % block for slot in slots) and any(slot.size >= block for slot in slots):
        kept = (slot._replace(devices=slot.devices[: slot.size // block * block]) for slot in slots)
        yield [slot for slot in kept if slot.size]


def _healthy_first(slots: Slots, blocks: Sequence[int], *, apart: bool) -> list[Slot]:
    healthy = [slot for slot in slots if slot.slow == 1.0]
    slow = sorted((slot for slot in slots if slot.slow > 1.0), key=lambda slot: slot.slow)
    return packed(healthy, blocks, apart=apart) + packed(slow, blocks, apart=apart)


def devices_of(slots: Iterable[Slot], ranks: int) -> Ints:
    """The first so many devices of slots, in order."""
    return np.fromiter(chain.from_iterable(slot.devices for slot in slots), np.int64)[:ranks]


def unit_sizes(slots: Slots) -> tuple[int, ...]:
    """Devices of a node and of a switch of each depth, where the given order fills switch after switch, all alike.

    Empty where nodes or switches differ, or the order jumps between switches; the last switch may hold less.
    """
    if len({(slot.size, slot.slow) for slot in slots}) > 1:
        return ()
    sizes = {slots[0].size}
    for depth in range(len(slots[0].path)):
        runs = [(path, sum(s.size for s in run)) for path, run in groupby(slots, key=lambda s: s.path[: depth + 1])]
        full = {size for _, size in runs[:-1]} or {runs[0][1]}
        if len({path for path, _ in runs}) < len(runs) or len(full) > 1 or runs[-1][1] > max(full):
            return ()
        sizes |= full
    return tuple(sorted(sizes))


def nested(slots: Slots, blocks: Sequence[int]) -> bool:
    """Whether in the given order each block divides nodes and switches or is made of whole ones."""
    sizes = unit_sizes(slots)
    return bool(sizes) and all(block % size == 0 or size % block == 0 for block in blocks for size in sizes)


def packed(slots: Slots, blocks: Sequence[int], *, apart: bool = False) -> list[Slot]:
    """The slots in an order in which as many of the blocks as possible lie under one switch, the low ones first.

    Args:
        blocks: sizes, descending; blocks of the later sizes are packed inside of those of the earlier ones.
        apart: leave out what does not make whole blocks of the first size within a site.
    """
    if not slots:
        return []
    if not blocks:
        return _by_tree(slots)
    whole, rest = _gather(slots, 0, blocks[0], apart)
    runs = [*whole, rest]
    return [slot for run in runs for slot in packed(run, blocks[1:])]


def _gather(slots: Slots, depth: int, block: int, apart: bool) -> tuple[list[list[Slot]], list[Slot]]:
    """Runs of slots that are whole blocks, each as low in the tree as there was room, and what is left over."""
    if depth == len(slots[0].path):
        return _cut(slots, block)
    whole, rests = [], []
    for below in _branches(slots, depth):
        found, rest = _gather(below, depth + 1, block, apart)
        whole += found
        rests.append(rest)
    if apart and depth == 0:
        return whole, []
    more, rest = _cut([slot for each in sorted(rests, key=_room, reverse=True) for slot in each], block)
    return whole + more, rest


def _branches(slots: Slots, depth: int) -> list[list[Slot]]:
    """The slots under each switch of a depth, the roomiest first."""
    below: dict[int, list[Slot]] = defaultdict(list)
    for slot in slots:
        below[slot.path[depth]].append(slot)
    return sorted(below.values(), key=_room, reverse=True)


def _room(slots: Slots) -> int:
    return sum(slot.size for slot in slots)


def _by_tree(slots: Slots, depth: int = 0) -> list[Slot]:
    """The slots under one switch together."""
    if depth == len(slots[0].path):
        return list(slots)
    return [slot for below in _branches(slots, depth) for slot in _by_tree(below, depth + 1)]


def _cut(slots: Slots, block: int) -> tuple[list[list[Slot]], list[Slot]]:
    """Runs of slots whose devices are a multiple of a block: each is filled with the largest slots that fit."""
    left: dict[int, deque[Slot]] = defaultdict(deque)
    for slot in slots:
        left[slot.size].append(slot)
    whole: list[list[Slot]] = []
    run: list[Slot] = []
    held = 0
    while left:
        room = block - held % block
        size = max((s for s in left if s <= room), default=0) or max(left)
        run.append(left[size].popleft())
        if not left[size]:
            del left[size]
        held += size
        if held % block == 0:
            whole.append(run)
            run, held = [], 0
    return whole, run
