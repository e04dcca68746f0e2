"""What a message between two devices passes that messages of others pass too: ports of devices, cards, uplinks, WAN.

topology.py gives each device a fixed share of these; here each is itself, with all that it lets through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nebula.cluster.topology import Spot, ports, spot, through_hosts, tiers
from nebula.cluster.values import Cluster


class Passage(NamedTuple):
    """One direction of something that is shared.

    Attributes:
        name: `out` or `into`, what it is, and its number: the same for all that pass it.
        bytes_per_s: through it, of all together.
    """

    name: tuple[str, str, int, int]
    bytes_per_s: float


class Way(NamedTuple):
    """From one device to another.

    Attributes:
        alone_bytes_per_s: of one message while nothing else is sent.
        passages: that it goes through.
    """

    alone_bytes_per_s: float
    passages: tuple[Passage, ...]


def ways(cluster: Cluster, devices: Sequence[int]) -> dict[tuple[int, int], Way]:
    """The way from each device of those global indices to each other one, by their places in the sequence.

    Within a node each device has a port of the node's own rate. Between nodes there are the cards of a node, all
    together, and above them for each tier what joins a switch of the tier below to it, as narrow as the tier is
    oversubscribed. Between sites there is the WAN's link of each.
    """
    every = ports(cluster)
    spots = [spot(cluster, device, every) for device in devices]
    return {
        (i, j): _inside(cluster, devices[i], devices[j], a) if a.node == b.node else _outside(cluster, a, b)
        for i, a in enumerate(spots)
        for j, b in enumerate(spots)
        if i != j
    }


def _inside(cluster: Cluster, a: int, b: int, here: Spot) -> Way:
    rate = cluster.groups[here.group].intra.bytes_per_s
    ends = zip(("out", "into"), (a, b), strict=True)
    return Way(rate, tuple(Passage((way, "device", device, 0), rate) for way, device in ends))


def _outside(cluster: Cluster, a: Spot, b: Spot) -> Way:
    groups = [cluster.groups[end.group] for end in (a, b)]
    through = (*_up(cluster, "out", a, (a, b)), *_up(cluster, "into", b, (a, b)))
    cards = [group.nic.bytes_per_s * max(1.0, group.nic_count / group.devices_per_node) for group in groups]
    return Way(through_hosts(min(*cards, *(p.bytes_per_s for p in through)), groups), through)


def _up(cluster: Cluster, way: str, end: Spot, both: tuple[Spot, Spot]) -> Iterator[Passage]:
    """From a device's node to where the two meet."""
    group, far = cluster.groups[end.group], both[0].site != both[1].site
    rate, below, part = group.nic_count * group.nic.bytes_per_s, 1, end.node
    for tier in tiers(cluster):
        rate /= tier.oversubscription
        yield Passage((way, tier.name, end.site, part), rate * below)
        if not far and _switch(both[0], tier.nodes) == _switch(both[1], tier.nodes):
            return
        below, part = tier.nodes, _switch(end, tier.nodes)
    if far:
        assert cluster.wan is not None, "several sites and no WAN"
        yield Passage((way, "wan", end.site, 0), cluster.wan.bytes_per_s)


def _switch(end: Spot, nodes: int) -> int:
    """Under which switch that joins so many nodes it is; 0 where one joins all."""
    return end.position // nodes if nodes else 0
