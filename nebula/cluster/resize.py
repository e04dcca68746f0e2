"""The same cluster with another number of devices, for curves over sizes.

Groups keep their mix and their links; the last tier joins all nodes, however many there are. Further nodes hang at the
next ports. What a larger cluster would really be wired like is not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import gcd

from nebula.cluster.values import Cluster, NodeGroup
from nebula.errors import BadInput


def with_devices(cluster: Cluster, devices: int) -> Cluster:
    """The cluster with so many devices in all, by more or fewer nodes of each group.

    Of a single group a part of one node is possible too. Excluded and slow nodes stay so while they exist.

    Raises:
        BadInput: whole nodes in the mix of the cluster do not make up that number, or its nodes have no network.
    """
    if devices == cluster.device_count:
        return cluster
    if len(cluster.groups) == 1 and 1 <= devices < cluster.groups[0].devices_per_node:
        return _resized(cluster, {cluster.groups[0].name: 1}, devices_per_node=devices)
    step = smallest_step(cluster)
    if devices < step or devices % step:
        raise BadInput(_no_whole_nodes(cluster, devices, step))
    parts = gcd(*(group.count for group in cluster.groups))
    counts = {group.name: group.count // parts * (devices // step) for group in cluster.groups}
    return _resized(cluster, counts)


def smallest_step(cluster: Cluster) -> int:
    """The fewest devices by which the cluster can grow without another mix of its groups.

    Example: 8 nodes of one group and 16 of another, with 8 devices each, grow by 1 + 2 nodes: 24 devices.
    """
    return cluster.device_count // gcd(*(group.count for group in cluster.groups))


def _resized(cluster: Cluster, counts: Mapping[str, int], devices_per_node: int = 0) -> Cluster:
    nodes = sum(counts.values())
    for group in cluster.groups:
        if nodes > 1 and not group.nic.bytes_per_s:
            raise BadInput(
                f"node group {group.name!r} of cluster {cluster.name} has no nic to join {nodes} nodes; add one"
            )
    groups = tuple(_with_nodes(group, counts[group.name], devices_per_node) for group in cluster.groups)
    tiers = cluster.tiers
    if tiers:
        tiers = (*tiers[:-1], replace(tiers[-1], nodes=0))
    return replace(cluster, groups=groups, tiers=tiers)


def _with_nodes(group: NodeGroup, count: int, devices_per_node: int) -> NodeGroup:
    free = 1 + max(group.ports, default=0)
    return replace(
        group,
        count=count,
        devices_per_node=devices_per_node or group.devices_per_node,
        excluded=frozenset(node for node in group.excluded if node < count),
        slow=tuple((node, factor) for node, factor in group.slow if node < count),
        ports=(*group.ports[:count], *range(free, free + count - group.count)) if group.ports else (),
    )


def _no_whole_nodes(cluster: Cluster, devices: int, step: int) -> str:
    below = devices // step * step
    near = f"{below} or {below + step}" if below > 0 else f"{step}"
    mix = " and ".join(f"{group.count} × {group.name}" for group in cluster.groups)
    return f"{devices} devices are no whole nodes; {near} would be, in the mix of cluster {cluster.name} ({mix})"
