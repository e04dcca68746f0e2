"""The devices of a cluster as the explorer lays stages on them: pools of one type each."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.places import exclude
from nebula.cluster.topology import tiers
from nebula.cluster.values import Cluster, DeviceType
from nebula.cost_model.peak import Counted, counted_on, fragmentation, process_bytes
from nebula.errors import BadInput

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """Pools of equal devices in the order in which stages are laid on them.

    Attributes:
        devices: global indices of each pool, nodes together.
        types: the device type of each pool.
        periods: of each pool after how many devices its nodes and switches repeat; 0: they do not.
        per_node: devices of the largest node of each pool.
        smallest: devices of the smallest node of all.
        counted: what fills the memory of the devices.
    """

    devices: tuple[Ints, ...]
    types: tuple[DeviceType, ...]
    periods: tuple[int, ...]
    per_node: tuple[int, ...]
    smallest: int
    counted: Counted

    @property
    def held_share(self) -> float:
        """Bytes that an allocator holds for each that lasts."""
        return 1.0 + fragmentation(self.counted)

    @property
    def keeps_whole(self) -> bool:
        """Whether what micro-batches keep counts until the gradients of weights are there."""
        return self.counted is not Counted.EMULATED

    def least_bytes(self, parameters: Floats, kept: Floats) -> Floats:
        """What a device holds at least of parameters, with gradients and states, and of activations in flight.

        Where tensors alone count, gradients may come after the most activations have gone; weights and states, half of
        the parameters' bytes or more, lie there with both.
        """
        if self.counted is Counted.EMULATED:
            return np.maximum(parameters, parameters / 2.0 + kept)
        return parameters + self.held_share * kept

    def process_bytes(self, communicators: int) -> float:
        """What a process holds beside the allocator on any device."""
        return process_bytes(self.counted, communicators)


def pools_of(cluster: Cluster, excluded: tuple[str, ...] = ()) -> Pools:
    """The devices that may be used, those of one type together, nodes in order and slow ones last.

    Raises:
        BadInput: there is none.
    """
    left = exclude(cluster, excluded)
    by_type: dict[str, list[Ints]] = defaultdict(list)
    slow: dict[str, list[Floats]] = defaultdict(list)
    first = 0
    for group in left.groups:
        nodes = np.array([n for n in range(group.count) if n not in group.excluded], dtype=np.int64)
        if group.ports:
            nodes = nodes[np.argsort(np.array(group.ports)[nodes], kind="stable")]
        slower = np.ones(group.count)
        for node, factor in group.slow:
            slower[node] = factor
        within = np.arange(group.devices_per_node)
        by_type[group.device.name].append((first + nodes[:, None] * group.devices_per_node + within).reshape(-1))
        slow[group.device.name].append(np.repeat(slower[nodes], group.devices_per_node))
        first += group.device_count
    found = {name: _slow_last(parts, slow[name]) for name, parts in by_type.items() if sum(map(len, parts))}
    if not found:
        raise BadInput(f"cluster {cluster.name} offers no device: its nodes are excluded or have none")
    return Pools(
        devices=tuple(found.values()),
        types=tuple(left.device_type(int(devices[0])) for devices in found.values()),
        periods=tuple(_period(left, devices) for devices in found.values()),
        per_node=tuple(max(g.devices_per_node for g in left.groups if g.device.name == name) for name in found),
        smallest=min(g.devices_per_node for g in left.groups if len(g.excluded) < g.count),
        counted=counted_on(left),
    )


def _slow_last(devices: Sequence[Ints], slow: Sequence[Floats]) -> Ints:
    every: Ints = np.concatenate(devices)
    return every[np.argsort(np.concatenate(slow), kind="stable")]


def _period(cluster: Cluster, devices: Ints) -> int:
    """Devices after which nodes and switches repeat, where a pool is one whole node group that begins where they do."""
    counts = np.cumsum([0, *(group.device_count for group in cluster.groups)])
    index = int(np.searchsorted(counts, devices[0], side="right")) - 1
    group, nodes_before = cluster.groups[index], sum(g.count for g in cluster.groups[:index])
    widths = [tier.nodes for tier in tiers(cluster) if tier.nodes]
    repeats = math.lcm(*widths) if widths else 1
    whole = len(devices) == group.device_count and devices[0] == counts[index]
    if not whole or cluster.sites or nodes_before % repeats or group.slow or group.excluded or group.ports:
        return 0
    return group.devices_per_node * repeats
