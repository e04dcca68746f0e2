"""How near two devices are: the levels of a cluster from the node outward, and what one device moves over each.

State is moved by all devices at once, each with its own share of its node's cards; what crosses a WAN shares it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.topology import nic_share, ports, tiers
from nebula.cluster.values import Cluster

Ints = NDArray[np.int64]


class Ring(NamedTuple):
    """One level.

    Attributes:
        name: `node`, the name of a tier, or `wan`.
        unit: for each device of the cluster in which part of the level it is; devices of one part reach each other.
        bytes_per_s: and direction that one device has there; of a WAN, what all have together.
        shared: whether all devices share it.
    """

    name: str
    unit: Ints
    bytes_per_s: float
    shared: bool = False


def rings(cluster: Cluster) -> tuple[Ring, ...]:
    """The levels of a cluster, the nearest first; all devices are in one part of the last.

    Rates are those of the slowest node group.
    """
    per_node = np.repeat([g.devices_per_node for g in cluster.groups], [g.device_count for g in cluster.groups])
    group = np.repeat(np.arange(len(cluster.groups)), [g.device_count for g in cluster.groups])
    first = np.concatenate([[0], np.cumsum([g.device_count for g in cluster.groups])])[group]
    node = np.concatenate([[0], np.cumsum([g.count for g in cluster.groups])])[group]
    node = node + (np.arange(len(group)) - first) // per_node
    site, port = _sites(cluster, group), np.concatenate([np.array(own) for own in ports(cluster)])[node]
    found = [Ring("node", node, _least(g.intra.bytes_per_s for g in cluster.groups))]
    rate = _least(nic_share(g) for g in cluster.groups)
    outermost = tiers(cluster)[-1]
    for tier in tiers(cluster):
        rate /= tier.oversubscription
        # the outermost spans a site, whatever it says
        switch = port // tier.nodes if tier.nodes and tier is not outermost else 0 * port
        found.append(Ring(tier.name, site * (int(port.max()) + 1) + switch, rate))
    if cluster.wan is not None:
        found.append(Ring("wan", 0 * site, cluster.wan.bytes_per_s, shared=True))
    return tuple(found)


def _least(rates: Iterable[float]) -> float:
    """The slowest link that there is; a lone device has none."""
    return min((rate for rate in rates if rate > 0), default=math.inf)


def _sites(cluster: Cluster, group: Ints) -> Ints:
    """For each device its site."""
    names = [next((i for i, s in enumerate(cluster.sites) if g.name in s.groups), -1) for g in cluster.groups]
    place: Ints = np.array(names)[group] + 1
    return place
