"""Clusters that differ from a given one in one respect: a level of links, a rate or the memory of devices, a node.

Only what is named changes; a wider card has wider switches above it, as their oversubscription is a ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from nebula.cluster.values import Cluster, DeviceType, Link, NodeGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A rate of a cluster that can be more or less.

    Attributes:
        name: for people: `links inside nodes (hccs)`, `tier spine`, `memory bandwidth`.
        times: the cluster with that rate times a factor.
    """

    name: str
    times: Callable[[float], Cluster]


def rates(cluster: Cluster, groups: frozenset[str], *, several_nodes: bool) -> Iterator[Rate]:
    """Every rate that a plan may wait for.

    Args:
        groups: names of the node groups that the plan uses.
        several_nodes: whether it uses more than one node.
    """
    used = [group for group in cluster.groups if group.name in groups]
    if any(group.devices_per_node > 1 for group in used):
        kinds = ", ".join(dict.fromkeys(g.intra.kind for g in used if g.devices_per_node > 1))
        yield Rate(name=f"links inside nodes ({kinds})", times=lambda f: _groups(cluster, lambda g: _intra(g, f)))
    if several_nodes:
        kinds = ", ".join(dict.fromkeys(group.nic.kind for group in used))
        yield Rate(name=f"network cards ({kinds})", times=lambda f: _groups(cluster, lambda g: _nic(g, f)))
        for index, tier in enumerate(cluster.tiers):
            yield Rate(name=f"tier {tier.name}", times=partial(_tier, cluster, index))
        if cluster.wan is not None:
            yield Rate(name="WAN", times=lambda f: _wan(cluster, f))
    yield Rate(name="memory bandwidth", times=lambda f: _devices(cluster, lambda d: _memory_rate(d, f)))
    yield Rate(name="peak FLOP/s", times=lambda f: _devices(cluster, lambda d: _peaks(d, f)))


def with_memory(cluster: Cluster, more_bytes: float) -> Cluster:
    """The cluster with so much more memory on every device."""
    return _devices(cluster, lambda device: replace(device, memory_bytes=device.memory_bytes + more_bytes))


def with_slow_node(cluster: Cluster, name: str, factor: float) -> Cluster:
    """The cluster with one node (`old/3`) slower by a factor than it is already."""
    group_name, _, node = name.rpartition("/")

    def slowed(group: NodeGroup) -> NodeGroup:
        if group.name != group_name:
            return group
        slow = dict(group.slow)
        slow[int(node)] = slow.get(int(node), 1.0) * factor
        return replace(group, slow=tuple(sorted(slow.items())))

    return _groups(cluster, slowed)


def _groups(cluster: Cluster, change: Callable[[NodeGroup], NodeGroup]) -> Cluster:
    return replace(cluster, groups=tuple(change(group) for group in cluster.groups))


def _devices(cluster: Cluster, change: Callable[[DeviceType], DeviceType]) -> Cluster:
    return _groups(cluster, lambda group: replace(group, device=change(group.device)))


def _faster(link: Link, factor: float) -> Link:
    return replace(link, bytes_per_s=link.bytes_per_s * factor)


def _intra(group: NodeGroup, factor: float) -> NodeGroup:
    return replace(group, intra=_faster(group.intra, factor))


def _nic(group: NodeGroup, factor: float) -> NodeGroup:
    return replace(group, nic=_faster(group.nic, factor))


def _tier(cluster: Cluster, index: int, factor: float) -> Cluster:
    """A switch that is not narrower than what hangs below it cannot gain: the ratio stays at least 1."""
    tier = cluster.tiers[index]
    changed = replace(tier, oversubscription=max(1.0, tier.oversubscription / factor))
    return replace(cluster, tiers=(*cluster.tiers[:index], changed, *cluster.tiers[index + 1 :]))


def _wan(cluster: Cluster, factor: float) -> Cluster:
    assert cluster.wan is not None
    return replace(cluster, wan=_faster(cluster.wan, factor))


def _memory_rate(device: DeviceType, factor: float) -> DeviceType:
    return replace(device, memory_bytes_per_s=device.memory_bytes_per_s * factor)


def _peaks(device: DeviceType, factor: float) -> DeviceType:
    """Every dtype's peak; the rate of exponentials is a unit of its own and stays."""
    peaks = {dtype: peak * factor for dtype, peak in device.peak_flops.items()}
    return replace(device, peak_flops=peaks, exponentials_per_s=device.exponentials)
