"""Which devices a plan may use: the largest set of equal ones, healthy nodes first, and what is left out, in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

from nebula.cluster.places import exclude, node_runs, usable_nodes
from nebula.cluster.topology import ports
from nebula.cluster.values import Cluster, DeviceType
from nebula.errors import BadInput
from nebula.plan.values import RankPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Equal devices in the order in which ranks are placed.

    Attributes:
        device: their type.
        devices: global indices, nodes together, those under one switch together, slow nodes last.
        devices_per_node: of the node that has fewest.
        left_out: a sentence about devices of other types; empty when there are none.
    """

    device: DeviceType
    devices: tuple[int, ...]
    devices_per_node: int
    left_out: str


def equal_devices(cluster: Cluster, dtype: str, excluded: Iterable[str] = ()) -> Pool:
    """The devices of the type that together compute fastest.

    Args:
        cluster: with its excluded nodes.
        dtype: of the products, by which types are compared.
        excluded: further nodes and groups that must not be used.

    Raises:
        BadInput: no device is left.
    """
    offered = exclude(cluster, excluded)
    by_type: dict[str, list[tuple[float, range]]] = defaultdict(list)
    types = {group.device.name: group.device for group in offered.groups}
    slow = {group.name: dict(group.slow) for group in offered.groups}
    for group, node, devices in usable_nodes(offered):
        by_type[group.device.name].append((slow[group.name].get(node, 1.0), devices))
    counts = {name: sum(len(devices) for _, devices in nodes) for name, nodes in by_type.items()}
    if not counts:
        raise BadInput(f"cluster {cluster.name} offers no device: its nodes are excluded or have none")

    def speed(name: str) -> float:
        return counts[name] * types[name].peak(dtype) * types[name].product_efficiency

    best = max(by_type, key=speed)
    rest = {name: count for name, count in counts.items() if name != best}
    wired = _wiring(cluster)
    ordered = sorted(by_type[best], key=lambda node: (node[0], wired(node[1][0])))
    chosen = tuple(chain.from_iterable(devices for _, devices in ordered))
    used = [g for g in offered.groups if g.device.name == best and len(g.excluded) < g.count]
    return Pool(
        device=types[best],
        devices=chosen,
        devices_per_node=min(group.devices_per_node for group in used),
        left_out=_left_out(rest, types[best], len(chosen)),
    )


def _wiring(cluster: Cluster) -> Callable[[int], tuple[int, int]]:
    """The site and the port of a device's node: nodes in this order fill switch after switch."""
    every = ports(cluster)
    site = [next((i for i, s in enumerate(cluster.sites) if g.name in s.groups), 0) for g in cluster.groups]

    def where(device: int) -> tuple[int, int]:
        place = cluster.address(device)
        return site[place.group], every[place.group][place.node]

    return where


def places(cluster: Cluster, devices: Iterable[int]) -> tuple[RankPlace, ...]:
    """Where the ranks run that are placed on those devices in order."""
    found: list[RankPlace] = []
    for (group, node, local), run in node_runs(cluster, devices):
        name, first = f"{cluster.groups[group].name}/{node}", run[0] - local
        found += [RankPlace(name, device - first) for device in run]
    return tuple(found)


def _left_out(rest: dict[str, int], used: DeviceType, count: int) -> str:
    if not rest:
        return ""
    others = " and ".join(f"{n} {name}" for name, n in rest.items())
    return f"Planned on the {count} {used.name} alone; {others} stay unused, because the stages of fleet are equal."
