"""Names of places in a cluster: `group/index` for a node, and which devices a job may use.

Plans, run files and errors speak of nodes by these names; everything that computes speaks of global device indices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from nebula.cluster.values import Address, Cluster, NodeGroup
from nebula.errors import BadInput, closest, shown

_INDEX = re.compile(r"0|[1-9][0-9]{0,11}")


def node_name(cluster: Cluster, device: int) -> str:
    """The name of the node that holds a device: its group and its index in the group (`fast/3`)."""
    place = cluster.address(device)
    return f"{cluster.groups[place.group].name}/{place.node}"


def device_index(cluster: Cluster, node: str, local: int) -> int:
    """The global index of the device at that place of a node.

    Raises:
        BadInput: the cluster has no such node, or the node no such device.
    """
    first, group = _find(cluster, node)
    if not 0 <= local < group.devices_per_node:
        raise BadInput(
            f"node {node} of cluster {cluster.name} has devices 0 to {group.devices_per_node - 1}: no {local}"
        )
    return first + _index(node) * group.devices_per_node + local


def usable_devices(cluster: Cluster) -> tuple[int, ...]:
    """Global indices of the devices on nodes that are not excluded, in order."""
    return tuple(chain.from_iterable(devices for _, _, devices in usable_nodes(cluster)))


def usable_nodes(cluster: Cluster) -> Iterator[tuple[NodeGroup, int, range]]:
    """Every node that is not excluded: its group, its index there and the global indices of its devices, in order."""
    first = 0
    for group in cluster.groups:
        for node in range(group.count):
            if node not in group.excluded:
                begin = first + node * group.devices_per_node
                yield group, node, range(begin, begin + group.devices_per_node)
        first += group.device_count


def node_runs(cluster: Cluster, devices: Iterable[int]) -> Iterator[tuple[Address, list[int]]]:
    """Runs of devices of one node that are given one after the other: where the node is, and their global indices."""
    address, first, end, run = Address(0, 0, 0), 0, 0, list[int]()
    for device in devices:
        if not first <= device < end:
            if run:
                yield address, run
            address, run = cluster.address(device), []
            first = device - address.local
            end = first + cluster.groups[address.group].devices_per_node
        run.append(device)
    if run:
        yield address, run


def slowness(cluster: Cluster, device: int) -> float:
    """By what factor the device's node is slower than its type says; 1 when healthy."""
    place = cluster.address(device)
    return dict(cluster.groups[place.group].slow).get(place.node, 1.0)


def exclude(cluster: Cluster, names: Iterable[str]) -> Cluster:
    """The cluster without the named nodes (`old/3`) and groups (`old`); indices of devices stay as they are.

    Raises:
        BadInput: a name that the cluster does not have.
    """
    groups = {group.name: group for group in cluster.groups}
    for name in names:
        group = groups[name] if name in groups else _find(cluster, name)[1]
        nodes = range(group.count) if name in groups else [_index(name)]
        groups[group.name] = replace(groups[group.name], excluded=groups[group.name].excluded | frozenset(nodes))
    return replace(cluster, groups=tuple(groups.values()))


def _find(cluster: Cluster, node: str) -> tuple[int, NodeGroup]:
    """The first device of the node's group, and the group."""
    name, _, index = node.rpartition("/")
    first = 0
    for group in cluster.groups:
        if group.name == name:
            # `fast/00` or other digits would be a second name for `fast/0`
            if _INDEX.fullmatch(index) and int(index) < group.count:
                return first, group
            there = f"nodes {name}/0 to {name}/{group.count - 1}"
            raise BadInput(f"group {name} of cluster {cluster.name} has {there}: no {shown(node)}")
        first += group.device_count
    remedy = closest(name or node, (g.name for g in cluster.groups))
    raise BadInput(f"cluster {cluster.name} has no node {shown(node)} (a node is written group/index); {remedy}")


def _index(node: str) -> int:
    return int(node.rpartition("/")[2])
