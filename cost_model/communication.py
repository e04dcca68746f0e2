"""How long communication takes: alpha-beta formulas for collectives over the levels at which a group meets.

A group is described by its levels from the node outward (nebula.cluster.topology); the rate of a level is what one
device gets while all devices of its node talk. Overlap with compute is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.topology import HostShare, Level, host_share, levels_met, ports, tiers
from nebula.cluster.values import Cluster, DeviceType, Link
from nebula.cost_model.lattice import Lattice, Regular, meetings


class Levels(tuple[Level, ...]):
    """Where the ranks of a group meet, from the node outward; empty for one rank.

    Keeps its hash and what collectives cost over it (`collective`), for many look-ups.
    """

    def __hash__(self) -> int:
        known: int | None = self.__dict__.get("hash")
        if known is None:
            known = self.__dict__["hash"] = super().__hash__()
        return known


Amount = TypeVar("Amount", float, NDArray[np.float64])


class AlphaBeta(NamedTuple):
    """Time of a message as a fixed part and a part per byte (Hockney, Parallel Computing 20(3), 1994)."""

    fixed_s: float
    per_byte_s: float

    def seconds(self, size_bytes: Amount, messages: Amount | float = 1.0) -> Amount:
        """Seconds of `messages` messages of together `size_bytes`; numbers, or arrays of them."""
        return messages * self.fixed_s + size_bytes * self.per_byte_s


NOTHING = AlphaBeta(0.0, 0.0)


def collective(kind: str, levels: Levels) -> AlphaBeta:
    """The cost of a collective over a group, by the bytes of the larger buffer on one rank.

    Args:
        kind: all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, reduce or send.
        levels: where the ranks of the group meet; empty for a group of one, which costs nothing.
    """
    if not levels:
        return NOTHING
    known: AlphaBeta | None = levels.__dict__.get(kind)
    if known is None:
        fixed_s, per_byte_s = FORMULAS[kind](levels)
        known = levels.__dict__[kind] = AlphaBeta(fixed_s + levels[0].start_s, per_byte_s)
    return known


def ranks_of(levels: Levels) -> int:
    """How many ranks a group with these levels has when it is spread evenly, and the most that it may have else.

    Example: two nodes of 8 devices are (node, 8), (leaf, 2): 16 ranks.
    """
    ranks = 1
    for level in levels:
        ranks *= level.members
    return ranks


def one_ring(levels: Levels, ranks: int) -> Levels:
    """A group of so many ranks as one flat ring, which goes at the pace of its slowest link."""
    if len(levels) < 2:
        return levels
    slowest = min((level.link for level in levels), key=lambda link: link.bytes_per_s)
    latency_s = max(level.link.latency_s for level in levels)
    link = Link(kind=slowest.kind, bytes_per_s=slowest.bytes_per_s, latency_s=latency_s)
    return Levels((Level(name=levels[-1].name, members=ranks, link=link),))


def reduce_scatter(levels: Levels) -> AlphaBeta:
    """Rings through all ranks, one for each network card of a node, each with its part of the buffer.

    A ring of p ranks takes p - 1 rounds of n/p bytes (Patarasuk and Yuan, JPDC 69(2), 2009). Rings side by side pass
    the links of a node and its cards at once, so that the narrowest level is what is waited for: what a level lets
    through is the share of one device times the devices below it. Rounds are pipelined over the levels, whose
    latencies add up as in the hierarchical algorithm of BlueConnect (Cho et al., SysML 2019).
    """
    fixed_s, per_byte_s, below = 0.0, 0.0, 1
    ranks = ranks_of(levels)
    for level in levels:
        fixed_s += (level.members - 1) * level.link.latency_s
        per_byte_s = max(per_byte_s, (ranks - 1) / ranks / (level.link.bytes_per_s * below))
        below *= level.members
    return AlphaBeta(fixed_s, per_byte_s)


def all_reduce(levels: Levels) -> AlphaBeta:
    """A reduce_scatter and an all_gather, which is its mirror image: 2 (p - 1)/p n bytes per rank on one level."""
    half = reduce_scatter(levels)
    return AlphaBeta(2 * half.fixed_s, 2 * half.per_byte_s)


def all_to_all(levels: Levels) -> AlphaBeta:
    """Each rank sends n/p bytes to each other one, through all levels at once; the narrowest is waited for."""
    total, below = ranks_of(levels), 1
    fixed_s, per_byte_s = 0.0, 0.0
    for level in levels:
        peers = below * (level.members - 1)
        fixed_s += peers * level.link.latency_s
        per_byte_s = max(per_byte_s, peers / total / level.link.bytes_per_s)
        below *= level.members
    return AlphaBeta(fixed_s, per_byte_s)


def broadcast(levels: Levels) -> AlphaBeta:
    """A pipelined chain: the buffer passes the narrowest level once, and each hop's latency counts.

    A reduce is its mirror image.
    """
    hops_s = sum((level.members - 1) * level.link.latency_s for level in levels)
    return AlphaBeta(hops_s, 1.0 / min(level.link.bytes_per_s for level in levels))


def send(levels: Levels) -> AlphaBeta:
    """One message between two ranks, over the outermost level that joins them."""
    return AlphaBeta(levels[-1].link.latency_s, 1.0 / levels[-1].link.bytes_per_s)


def ring_exchange(levels: Levels) -> AlphaBeta:
    """Each rank hands a buffer on until all have seen it: p - 1 messages at the pace of the slowest link."""
    passes = ranks_of(levels) - 1
    latency_s = max(level.link.latency_s for level in levels)
    return AlphaBeta(passes * latency_s, passes / min(level.link.bytes_per_s for level in levels))


def ring_return(levels: Levels) -> AlphaBeta:
    """The same until every buffer is where it came from: p messages."""
    once, passes = ring_exchange(levels), ranks_of(levels) - 1
    again = (passes + 1) / passes if passes else 0.0
    return AlphaBeta(again * once.fixed_s, again * once.per_byte_s)


FORMULAS: dict[str, Callable[[Levels], AlphaBeta]] = {
    "all_reduce": all_reduce,
    "all_gather": reduce_scatter,
    "reduce_scatter": reduce_scatter,
    "all_to_all": all_to_all,
    "broadcast": broadcast,
    "reduce": broadcast,
    "send": send,
    "ring_exchange": ring_exchange,
    "ring_return": ring_return,
}


Pattern = tuple[bytes, NDArray[np.int64]]
"""How a group lies, and the devices of one group that lies so."""


FEW = 4
"""Groups that are told apart one by one."""


@lru_cache(maxsize=256)
def _weights(columns: int) -> NDArray[np.int64]:
    """Of each column of a pattern, by which patterns are told apart."""
    return np.random.default_rng(0).integers(1 << 62, size=columns)


class Fabric:
    """The levels of many groups of one cluster, each shape worked out once.

    Two groups that lie alike (same node groups, same pattern of nodes and switches) have equal levels, so a search
    over thousands of splits asks the topology a few dozen times. Emulated devices know one flat ring per group.

    Args:
        cluster: with the rates that collectives attain.
        start_s: of every level, see there.
    """

    def __init__(self, cluster: Cluster, start_s: float = 0.0) -> None:
        self.cluster, self.start_s = cluster, start_s
        counts = [g.device_count for g in cluster.groups]
        group = np.repeat(np.arange(len(counts)), counts)
        first_device_of = np.cumsum([0, *counts[:-1]])
        first_device = np.repeat(first_device_of, counts)
        first_node = np.cumsum([0, *(g.count for g in cluster.groups[:-1])])
        per_node = np.array([g.devices_per_node for g in cluster.groups])
        local = np.arange(len(group)) - first_device
        self._group = group
        self._node = first_node[group] + local // per_node[group]
        self._tiers = [tier.nodes for tier in tiers(cluster)]
        self._widths = [width for width in self._tiers if width]
        every = [np.array(own) for own in ports(cluster)]
        self._position = np.concatenate(every)[self._node]
        self._ahead = np.array([own[0] for own in every]) * per_node - first_device_of
        self._units = [self._units_of(g.devices_per_node, own) for g, own in zip(cluster.groups, every, strict=True)]
        # after so many devices nodes and switches repeat; 0: not where nodes hang at ports in another order
        repeats = math.lcm(*self._widths)
        self._periods = [
            int(n) * repeats * bool((np.diff(own) == 1).all()) for n, own in zip(per_node, every, strict=True)
        ]
        sites = [next((i for i, s in enumerate(cluster.sites) if g.name in s.groups), -1) for g in cluster.groups]
        self._site = np.array(sites)
        self._most_ports = int(self._position.max()) + 1
        self._flat = any(g.device.emulated for g in cluster.groups)
        self._ill = any(g.slow for g in cluster.groups)
        self._slowness = np.ones(len(group))
        for index, nodes in enumerate(cluster.groups):
            for node, factor in nodes.slow:
                first = first_device_of[index] + node * nodes.devices_per_node
                self._slowness[first : first + nodes.devices_per_node] = factor
        self._hosts = [host_share(group) for group in cluster.groups]
        self._known: dict[bytes, Levels] = {}
        self._by_meetings: dict[tuple[object, ...], Levels] = {}

    def _units_of(self, per_node: int, own: NDArray[np.int64]) -> tuple[int, ...]:
        """Devices of a node of a group, and of each switch below the widest tier.

        Empty where they are no multiples of each other, or nodes do not hang at consecutive ports.
        """
        inner, last = self._tiers[:-1], self._tiers[-1]
        units = (per_node, *(per_node * width for width in inner))
        nested = not last and all(inner) and all(wide % unit == 0 for unit, wide in pairwise(units))
        return units if nested and (np.diff(own) == 1).all() else ()

    def levels(self, devices: Sequence[int]) -> Levels:
        """The levels of the group of those global device indices; empty for one device."""
        return self.distinct(np.array([devices]))[0][0]

    def distinct(self, groups: NDArray[np.int64]) -> tuple[list[Levels], NDArray[np.int64]]:
        """The different levels among many groups of one size, and which of them each group has.

        Args:
            groups: [number of groups, ranks of a group], global device indices.
        """
        if groups.shape[1] == 1:
            return [Levels()], np.zeros(len(groups), dtype=np.int64)
        patterns, which = self._patterns(groups)
        return [self._lookup(*pattern) for pattern in patterns], which

    @property
    def flat(self) -> bool:
        """Whether devices are emulated: each pair has a link of its own, and a collective is one ring over all."""
        return self._flat

    @property
    def healthy(self) -> bool:
        """Whether no node is slow."""
        return not self._ill

    def regular(self, lattice: Lattice | None) -> Regular | None:
        """How the devices of a lattice lie; None where they lie not regularly, as those of no lattice do."""
        if lattice is None:
            return None
        group = int(self._group[lattice.first])
        if group != self._group[lattice.last] or not self._units[group]:
            return None
        return Regular(lattice._replace(first=lattice.first + int(self._ahead[group])), group, self._units[group])

    def distinct_rows(self, regular: Regular, axis: int) -> tuple[list[Levels], NDArray[np.int64]]:
        """The different levels among the groups along an axis, and which of them each has, [stages, groups].

        They are the groups that Lattice.rows tells: of those that lie alike the first.
        """
        rows = regular.lattice.rows(axis, regular.units)
        if rows.ranks == 1:
            return [Levels()], np.zeros(rows.start.shape, dtype=np.int64)
        met = meetings(rows, regular.units)
        key = np.zeros(len(met), dtype=np.int64)
        for column in met.T:
            key = key * (int(column.max()) + 1) + column
        _, first, which = np.unique(key, return_index=True, return_inverse=True)
        group = (regular.group,)
        levels = [self._of_meetings(rows.ranks, (*met[i].tolist(), 1), group, group, rows.ranks) for i in first]
        return levels, which.reshape(rows.start.shape)

    def _patterns(self, groups: NDArray[np.int64]) -> tuple[list[Pattern], NDArray[np.int64]]:
        """How groups lie: each way once, and which of them each group has; rates of links have no part in it."""
        chosen, same = self._shifted(groups)
        groups = groups[chosen]
        node, position = self._node[groups], self._position[groups]
        switches = [position // width - position[:, :1] // width for width in self._widths]
        patterns = np.hstack([self._group[groups], node - node[:, :1], *switches])
        # equal patterns have equal sums; unequal ones collide with a chance of about 2**-60
        sums = patterns @ _weights(patterns.shape[1])
        _, first, which = np.unique(sums, return_index=True, return_inverse=True)
        return [(patterns[i].tobytes(), groups[i]) for i in first], which.ravel()[same]

    def _shifted(self, groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of groups that are one shape at several places of a node group, those that may lie unlike; and whose each is.

        Nodes and switches repeat after a period, so that a shape lies alike wherever it begins at the same place in it.
        """
        every = np.arange(len(groups))
        index = int(self._group[groups[0, 0]])
        within = self._group[groups.max()] == self._group[groups.min()] == index
        if len(groups) < FEW or not within or not self._periods[index]:
            return every, every
        shapes = groups - groups[:, :1]
        if (shapes != shapes[0]).any():
            return every, every
        _, first, which = np.unique(groups[:, 0] % self._periods[index], return_index=True, return_inverse=True)
        return first, which.ravel()

    def _lookup(self, pattern: bytes, devices: NDArray[np.int64]) -> Levels:
        if pattern not in self._known:
            self._known[pattern] = self._met(devices)
        return self._known[pattern]

    def _met(self, devices: NDArray[np.int64]) -> Levels:
        """The levels of a group, by how many parts meet at each of them."""
        _, first, held = np.unique(self._node[devices], return_index=True, return_counts=True)
        group, position = self._group[devices][first], self._position[devices][first]
        site, found = self._site[group], [int(held.max())]
        for width in self._tiers:
            # a part is where its first node is
            position = position // width * width if width else 0 * position
            _, kept, meet = np.unique(site * self._most_ports + position, return_index=True, return_counts=True)
            site, position = site[kept], position[kept]
            found.append(int(meet.max()))
        senders = int(np.bincount(self._site[self._group[devices]] + 1).max())
        groups, crowded = (tuple(np.unique(which).tolist()) for which in (group, group[held > 1]))
        return self._of_meetings(len(devices), (*found, len(site)), groups, crowded, senders)

    def _of_meetings(
        self, ranks: int, met: tuple[int, ...], groups: tuple[int, ...], crowded: tuple[int, ...], senders: int
    ) -> Levels:
        """The levels of a group of so many ranks; other arguments are those of levels_met."""
        key = (ranks, met, groups, crowded, senders)
        if key not in self._by_meetings:
            levels = Levels(levels_met(self.cluster, met, groups=groups, crowded=crowded, senders=senders))
            if self.start_s:
                levels = Levels(replace(level, start_s=self.start_s) for level in levels)
            self._by_meetings[key] = one_ring(levels, ranks) if self._flat else levels
        return self._by_meetings[key]

    def node_of(self, devices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The node of each device."""
        nodes: NDArray[np.int64] = self._node[devices]
        return nodes

    def same_node(self, groups: NDArray[np.int64]) -> bool:
        """Whether the devices along the last axis are on one node each time."""
        node = self._node[groups]
        return bool((node == node[..., :1]).all())

    def device_types(self, devices: NDArray[np.int64]) -> list[DeviceType]:
        """The device types among those devices, each once."""
        if len(self.cluster.groups) == 1:
            return [self.cluster.groups[0].device] if devices.size else []
        found = [self.cluster.groups[int(g)].device for g in np.unique(self._group[devices])]
        return list({device.name: device for device in found}.values())

    def host(self, devices: NDArray[np.int64]) -> HostShare:
        """What each of the devices has of its host at least."""
        if len(self._hosts) == 1:
            return self._hosts[0]
        return HostShare(*map(min, zip(*self.hosts(devices), strict=True)))

    def hosts(self, devices: NDArray[np.int64]) -> list[HostShare]:
        """What devices of each node group among them have of their hosts."""
        return [self._hosts[int(group)] for group in np.unique(self._group[devices])]

    def slowest(self, devices: NDArray[np.int64]) -> float:
        """By what factor the slowest of the devices is slower than its type says."""
        return self.slowness(devices[None])[0]

    def slowness(self, stages: NDArray[np.int64]) -> list[float]:
        """The same for each row of [stages, devices]."""
        if not self._ill:
            return [1.0] * len(stages)
        factors: list[float] = self._slowness[stages].max(axis=1).tolist()
        return factors

    def total(self, devices: NDArray[np.int64], value: Callable[[DeviceType], float]) -> float:
        """The sum of a figure of the device types over the devices."""
        counts = np.bincount(self._group[devices], minlength=len(self.cluster.groups))
        return sum(float(n) * value(g.device) for n, g in zip(counts, self.cluster.groups, strict=True) if n)
