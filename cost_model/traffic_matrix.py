"""Bytes between the nodes of a plan in one step, by axis, with the level of the network at which two nodes meet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.places import node_name
from nebula.cluster.topology import tiers
from nebula.cluster.values import Cluster
from nebula.cost_model.communication import Fabric
from nebula.cost_model.flows import AXES, Flow, edges, plan_flows
from nebula.cost_model.step_parameters import DEFAULT
from nebula.cost_model.traffic import attained
from nebula.graph.values import DistributedGraph
from nebula.plan.values import Plan

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

INSIDE, WAN = "node", "wan"
"""Levels as topology.py calls them: of what does not leave a node, and between sites."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrafficMatrix:
    """Who sends how much to whom in a step.

    Attributes:
        nodes: names of the nodes that take part.
        sources: [pairs] places in `nodes`.
        targets: [pairs] places in `nodes`, the source itself for what stays inside.
        sent_bytes: [pairs, AXES].
        seconds: [pairs, AXES] what that takes when all devices of the node send at once; over a WAN, all of the site.
        senders: [pairs] whoever shares the way out: the node, or over a WAN the site.
        levels: names of levels, from the node outward.
        level: [pairs] places in `levels`.
    """

    nodes: tuple[str, ...]
    sources: Ints
    targets: Ints
    sent_bytes: Floats
    seconds: Floats
    senders: Ints
    levels: tuple[str, ...]
    level: Ints

    @property
    def total_bytes(self) -> float:
        """All of it."""
        return float(self.sent_bytes.sum())

    def level_bytes(self, groups: Collection[str] | None = None) -> Floats:
        """[levels, AXES] bytes by where they pass, of all nodes or of what those of some node groups send."""
        if groups is None:
            return _summed(self.sent_bytes, self.level, len(self.levels))
        inside = np.array([name.rpartition("/")[0] in groups for name in self.nodes], dtype=bool)
        own = inside[self.sources]
        return _summed(self.sent_bytes[own], self.level[own], len(self.levels))

    def out_bytes(self) -> dict[str, float]:
        """What each node sends to others, by name."""
        outward = self.sent_bytes.sum(axis=1) * (self.sources != self.targets)
        out = np.bincount(self.sources, weights=outward, minlength=len(self.nodes))
        return dict(zip(self.nodes, out.tolist(), strict=True))

    def busiest_seconds(self) -> Floats:
        """[levels, AXES] the longest that one node (or site, over a WAN) sends."""
        levels, senders = len(self.levels), int(self.senders.max(initial=0)) + 1
        each = _summed(self.seconds, levels * self.senders + self.level, levels * senders)
        longest: Floats = each.reshape(senders, levels, len(AXES)).max(axis=0, initial=0.0)
        return longest

    def folded(self, parts: Sequence[Iterable[str]]) -> Floats:
        """[parts, parts, AXES] bytes from part to part, of nodes put together.

        Args:
            parts: names of nodes, each at most once; what others send or receive is left out.
        """
        place = {name: part for part, names in enumerate(parts) for name in names}
        part_of = np.array([place.get(name, -1) for name in self.nodes], dtype=np.int64)
        sources, targets = part_of[self.sources], part_of[self.targets]
        known = (sources >= 0) & (targets >= 0)
        cells = _summed(self.sent_bytes[known], (sources * len(parts) + targets)[known], len(parts) ** 2)
        return cells.reshape(len(parts), len(parts), len(AXES))


def traffic_matrix(graph: DistributedGraph, cluster: Cluster, plan: Plan) -> TrafficMatrix:
    """What the nodes of a plan send one another in a step.

    Raises:
        BadInput: the plan does not fit the graph or the cluster.
    """
    fabric = Fabric(attained(cluster, DEFAULT))
    pairs, sent_bytes = _node_pairs(plan_flows(graph, cluster, plan), fabric)
    used, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(pairs.shape)
    first = _first_devices(cluster)
    found, which = _ways(pairs, first, fabric)
    names = tuple(name for name in (INSIDE, *(tier.name for tier in tiers(cluster)), WAN) if name in dict(found))
    wide = np.array([name == WAN for name, _ in found], dtype=bool)[which]
    per_node = np.diff(np.append(first, cluster.device_count))[pairs[:, 0]]
    rates = np.array([rate for _, rate in found], dtype=float)[which] * np.where(wide, 1, per_node)
    return TrafficMatrix(
        nodes=tuple(node_name(cluster, int(first[node])) for node in used),
        sources=places[:, 0],
        targets=places[:, 1],
        sent_bytes=sent_bytes,
        seconds=sent_bytes / rates[:, None],
        senders=np.where(wide, len(used) + _sites(cluster)[pairs[:, 0]], places[:, 0]),
        levels=names,
        level=np.array([names.index(name) for name, _ in found], dtype=np.int64)[which],
    )


def _node_pairs(flows: Iterable[Flow], fabric: Fabric) -> tuple[Ints, Floats]:
    """[pairs, 2] nodes that exchange, and [pairs, AXES] bytes from the first to the second."""
    nodes = fabric.cluster.node_count
    keys, sizes = [np.zeros(0, dtype=np.int64)], [np.zeros((0, len(AXES)))]
    for flow in flows:
        source, target, size = edges(flow)
        there = source != target
        one, which = np.unique((fabric.node_of(source) * nodes + fabric.node_of(target))[there], return_inverse=True)
        column = np.zeros((len(one), len(AXES)))
        column[:, AXES.index(flow.axis)] = np.bincount(which, weights=size[there], minlength=len(one))
        keys.append(one)
        sizes.append(column)
    every, which = np.unique(np.concatenate(keys), return_inverse=True)
    return np.stack(np.divmod(every, nodes), axis=1), _summed(np.concatenate(sizes), which, len(every))


def _ways(pairs: Ints, first: Ints, fabric: Fabric) -> tuple[list[tuple[str, float]], Ints]:
    """Level and bytes per second of a device, for each way in which two nodes lie, and which way each pair has."""
    if not len(pairs):
        return [], np.zeros(0, dtype=np.int64)
    # within a node any two devices will do: all that are inside share one link
    ends = np.stack([first[pairs[:, 0]], first[pairs[:, 1]] + (pairs[:, 0] == pairs[:, 1])], axis=1)
    levels, which = fabric.distinct(ends)
    return [(met[-1].name, met[-1].link.bytes_per_s) for met in levels], which


def _first_devices(cluster: Cluster) -> Ints:
    """[nodes] the first device of every node."""
    counts = np.concatenate([np.full(group.count, group.devices_per_node) for group in cluster.groups])
    first: Ints = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    return first


def _sites(cluster: Cluster) -> Ints:
    """[nodes] the site of every node, 0 where there are none."""
    place = {name: index for index, site in enumerate(cluster.sites) for name in site.groups}
    return np.repeat([place.get(g.name, 0) for g in cluster.groups], [g.count for g in cluster.groups])


def _summed(values: Floats, places: Ints, count: int) -> Floats:
    """[count, columns] rows of values added up by their places."""
    total = np.zeros((count, values.shape[1]))
    np.add.at(total, places, values)
    return total
