"""What lies between devices: the link of a pair, and for a set the levels that a hierarchical collective climbs.

A rate is what one device gets while every device of its node talks at once: the node's network cards are shared,
and a tier's oversubscription narrows what passes through it. How long a message takes is the cost model's question.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nebula.cluster.values import Cluster, Link, NodeGroup, Tier

FLAT = Tier(name="network")
"""The tier of a cluster that names none: every node at one non-blocking switch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of a hierarchical collective over a set of devices.

    Attributes:
        name: `node`, the name of a tier, or `wan`.
        members: how many parts of the level below (devices, nodes, switches, sites) meet here; where they differ,
            the most.
        link: what one device of the set has at this level while all of them (and the rest of their nodes) talk; the
            slowest where they differ. The latency is of one message between two members.
        start_s: what a collective takes beside that before its first byte, where it is told.
    """

    name: str
    members: int
    link: Link
    start_s: float = 0.0


class Spot(NamedTuple):
    """Where a device is on the way up: its group, its node in the cluster, the node's port in its site."""

    group: int
    node: int
    position: int
    site: int


def link(cluster: Cluster, a: int, b: int) -> Link:
    """The link between two devices of those global indices, per direction.

    Within a node it is the node's own; between nodes of one site the share of the network cards, narrowed by each
    tier on the way; between sites the WAN, if it is not wider than those shares. A device reaches itself through its
    own memory.
    """
    if a == b:
        memory = cluster.device_type(a)
        return Link(kind="memory", bytes_per_s=memory.memory_bytes_per_s, latency_s=0.0)
    levels = group_links(cluster, (a, b))
    return levels[-1].link


def group_links(cluster: Cluster, devices: Sequence[int]) -> tuple[Level, ...]:
    """The levels at which the devices of a set meet, from the node outward, without those where only one part is.

    The product of `members` is the number of devices when the set is spread evenly.

    Example: 16 devices on two nodes of 8 behind one leaf switch give (node, 8), (leaf, 2).
    """
    every = ports(cluster)
    spots = [spot(cluster, d, every) for d in devices]
    nodes = Counter(s.node for s in spots)
    return levels_met(
        cluster,
        list(_meetings(cluster, spots)),
        groups={s.group for s in spots},
        crowded={s.group for s in spots if nodes[s.node] > 1},
        senders=max(Counter(s.site for s in spots).values(), default=0),
    )


def levels_met(
    cluster: Cluster, meetings: Sequence[int], *, groups: Iterable[int], crowded: Iterable[int], senders: int
) -> tuple[Level, ...]:
    """The levels of a set of devices, of all that they depend on.

    Args:
        cluster: that has them.
        meetings: the most parts that meet in one place, in a node, at each tier and at the WAN.
        groups: indices of the node groups that the devices are of.
        crowded: of those, the groups of nodes that hold several of the devices.
        senders: most devices at one site.
    """
    outside = [cluster.groups[i] for i in sorted(groups)]
    inside = [cluster.groups[i].intra for i in sorted(crowded)]
    names = ("node", *(tier.name for tier in tiers(cluster)), "wan")
    return tuple(
        Level(
            name=name,
            members=members,
            link=_narrowest(inside) if name == "node" else _link_outside(cluster, outside, senders, name),
        )
        for name, members in zip(names, meetings, strict=True)
        if members > 1
    )


def nic_share(group: NodeGroup) -> float:
    """Bytes per second and direction that one device sends to other nodes while all of its node do."""
    return group.nic_count * group.nic.bytes_per_s / group.devices_per_node


HOST_MEMORY_SHARE = 0.8
"""Of the peak of a host's memory channels, what streaming through them attains. Assumed."""


class HostShare(NamedTuple):
    """What one device has of its host while all devices of its node use theirs.

    Attributes:
        bytes_per_s: of copies to or from it, per direction.
        memory_bytes_per_s: of kernels of the host over its memory.
        memory_bytes: infinite where it is not known.
    """

    bytes_per_s: float
    memory_bytes_per_s: float
    memory_bytes: float


NO_HOST = HostShare(math.inf, math.inf, math.inf)
"""Of a device that never waits for its host."""


def host_share(group: NodeGroup) -> HostShare:
    """The share of each device of a node.

    Example: four links of 27.5 GB/s below eight devices are 13.75 GB/s for each.
    """
    host, devices = group.host, group.devices_per_node
    memory_bytes_per_s = HOST_MEMORY_SHARE * host.memory_bytes_per_s / devices
    link_bytes_per_s = group.device.host_bytes_per_s * (host.links or devices) / devices
    return HostShare(
        bytes_per_s=min(link_bytes_per_s, memory_bytes_per_s),
        memory_bytes_per_s=memory_bytes_per_s,
        memory_bytes=host.memory_bytes / devices or math.inf,
    )


def ports(cluster: Cluster) -> tuple[tuple[int, ...], ...]:
    """For each node group the ports of its nodes, counted within its site; a switch joins consecutive ones."""
    site = {name: index for index, s in enumerate(cluster.sites) for name in s.groups}
    before: dict[int, int] = defaultdict(int)
    found = []
    for group in cluster.groups:
        here = site.get(group.name, -1)
        found.append(group.ports or tuple(range(before[here], before[here] + group.count)))
        before[here] += group.count
    return tuple(found)


def tiers(cluster: Cluster) -> tuple[Tier, ...]:
    """The tiers of the cluster, never empty."""
    return cluster.tiers or (FLAT,)


def spot(cluster: Cluster, device: int, every: Sequence[Sequence[int]]) -> Spot:
    """Where a device of that global index is; `every` is what `ports` returns."""
    place = cluster.address(device)
    name = cluster.groups[place.group].name
    site = next((i for i, s in enumerate(cluster.sites) if name in s.groups), -1)
    before = cluster.groups[: place.group]
    return Spot(place.group, place.node + sum(g.count for g in before), every[place.group][place.node], site)


def _meetings(cluster: Cluster, spots: Iterable[Spot]) -> Iterator[int]:
    """The most parts that meet in one place: devices in a node, nodes and switches at each tier, sites at the WAN."""
    below: set[tuple[int, ...]] = {(s.site, s.position, s.node, i) for i, s in enumerate(spots)}

    def climb(above: dict[tuple[int, ...], tuple[int, ...]]) -> int:
        nonlocal below
        most = max(Counter(above.values()).values(), default=0)
        below = set(above.values())
        return most

    yield climb({p: p[:3] for p in below})
    for tier in tiers(cluster):
        # the first two coordinates of a part stay its site and the first port that it has
        width = tier.nodes
        yield climb({p: (p[0], p[1] // width * width if width else 0) for p in below})
    yield climb(dict.fromkeys(below, ()))


def _narrowest(links: Iterable[Link]) -> Link:
    return min(links, key=lambda link: (link.bytes_per_s, -link.latency_s))


def _link_outside(cluster: Cluster, groups: Sequence[NodeGroup], senders: int, name: str) -> Link:
    """What one device has at a tier, or at the WAN, of which each site's devices have a share."""
    rate = min(nic_share(g) for g in groups)
    latency = max(g.nic.latency_s for g in groups)
    if name == "wan":
        assert cluster.wan is not None, "several sites and no WAN"
        rate = through_hosts(min(rate, cluster.wan.bytes_per_s / senders), groups)
        return Link(kind="wan", bytes_per_s=rate, latency_s=cluster.wan.latency_s)
    for tier in tiers(cluster):
        rate /= tier.oversubscription
        latency += tier.latency_s
        if tier.name == name:
            break
    return Link(kind=groups[0].nic.kind, bytes_per_s=through_hosts(rate, groups), latency_s=latency)


def through_hosts(bytes_per_s: float, groups: Sequence[NodeGroup]) -> float:
    """The rate of a message between devices of those groups where the network lets through so much.

    Devices of unlike kinds share no communicator: what one sends is copied to its host, sent from host to host, and
    copied to the other, one after the other. Of each kind the slowest copy counts.

    Example: 25 GB/s of network between copies of 16 GB/s each are 6.1 GB/s.
    """
    copies: dict[str, float] = {}
    for group in groups:
        kind, rate = group.device.kind, group.device.host_bytes_per_s
        copies[kind] = min(rate, copies.get(kind, rate))
    if len(copies) == 1:
        return bytes_per_s
    out, into = sorted(copies.values())[:2]
    return 1.0 / (1.0 / bytes_per_s + 1.0 / out + 1.0 / into)
