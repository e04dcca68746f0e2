"""Which ranks of a stage talk along which axis, and what their collectives take on the links between them.

A replica's ranks are context times tensor, tensor fastest; experts are dealt over the ranks of a stage in their order,
the width of an expert over neighbours. Where groups of one axis lie unlike, the slowest counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import Cluster, Link, NodeGroup
from nebula.cost_model.communication import AlphaBeta, Fabric, Levels, collective
from nebula.cost_model.groups import ALONE, PROBE_BYTES, crossing, shared_wan
from nebula.cost_model.step_parameters import StepParameters
from nebula.graph.values import Collective


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Where the ranks along each axis of a stage meet.

    Attributes:
        tensor, context, expert, expert_tensor: as the axes of collectives.
        shard: ranks that share one set of optimizer states.
        outer: ranks that hold the same share of it.
        expert_shard: ranks that add gradients of the same share of the same experts.
        pair: this stage and the next; empty for the last.
    """

    tensor: Levels = ALONE
    context: Levels = ALONE
    expert: Levels = ALONE
    expert_tensor: Levels = ALONE
    shard: Levels = ALONE
    outer: Levels = ALONE
    expert_shard: Levels = ALONE
    pair: Levels = ALONE

    def of(self, axis: str) -> Levels:
        """The levels of a collective's axis."""
        found: Levels = getattr(self, axis)
        return found


def stage_axes(
    grid: NDArray[np.int64],
    *,
    shard: int,
    expert: int,
    expert_tensor: int,
    behind: NDArray[np.int64] | None,
    fabric: Fabric,
    same_tokens: bool = False,
) -> Axes:
    """The axes of one stage.

    Args:
        grid: [data, context, tensor] global device indices.
        shard: replicas over which optimizer states are cut; the ranks of a context group share in it.
        expert: ranks over which experts are dealt.
        expert_tensor: ranks over which the width of an expert is cut.
        behind: the grid of the next stage.
        fabric: of the cluster.
        same_tokens: as of axis_groups.
    """
    members = axis_groups(grid, shard=shard, expert=expert, expert_tensor=expert_tensor, same_tokens=same_tokens)
    found = {axis: slowest_of(groups, fabric) for axis, groups in members.items()}
    if behind is None:
        return Axes(**found)
    return Axes(**found, pair=paired(grid, behind, fabric))


def paired(grid: NDArray[np.int64], behind: NDArray[np.int64], fabric: Fabric) -> Levels:
    """Where the slowest pair of ranks at the same place of two stages meets; grids as of stage_axes."""
    pairs = _pairs(grid, behind)
    return slowest_of(pairs, fabric) if len(pairs) else Levels()


def across(first: NDArray[np.int64], last: NDArray[np.int64], fabric: Fabric) -> Levels:
    """Where ranks of two stages meet pair by pair, while the stages between them are silent.

    Args:
        first: [data, context, tensor] global device indices.
        last: likewise.
        fabric: of the cluster.
    """
    pairs = _pairs(first, last)
    talking = int(np.unique(fabric.node_of(pairs), return_counts=True)[1].max())
    share = min(_spare(group, talking) for group in fabric.cluster.groups)
    return Levels(
        level
        if level.name == "node"
        else replace(level, link=replace(level.link, bytes_per_s=share * level.link.bytes_per_s))
        for level in slowest_of(pairs, fabric)
    )


def _spare(group: NodeGroup, talking: int) -> float:
    """What a device has of the network while so many of its node talk, over its share while all do: a card at most."""
    return max(1.0, group.devices_per_node / max(talking, group.nic_count))


def _pairs(grid: NDArray[np.int64], behind: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each rank of a stage with the one of another at its place, [pairs, 2]."""
    count = min(grid.size, behind.size)
    return np.stack([grid.reshape(-1)[:count], behind.reshape(-1)[:count]], axis=1)


def axis_groups(
    grid: NDArray[np.int64], *, shard: int, expert: int, expert_tensor: int, same_tokens: bool = False
) -> dict[str, NDArray[np.int64]]:
    """For each axis of Axes but `pair` its groups, [groups, ranks of a group]; arguments as of stage_axes.

    Args:
        same_tokens: whether ranks of a tensor group give all experts the same tokens: their gradients are the same, so
            that ranks at one place of their tensor groups add theirs, as they do of all other weights.
    """
    data, context, tensor = grid.shape
    replicas = grid.reshape(data // shard, shard * context, tensor)
    dealt = (
        grid.reshape(-1, expert, expert_tensor) if grid.size % (expert * expert_tensor) == 0 else grid.reshape(1, -1, 1)
    )
    return {
        "tensor": grid.reshape(-1, tensor),
        "context": grid.transpose(0, 2, 1).reshape(-1, context),
        "expert": dealt.transpose(0, 2, 1).reshape(-1, dealt.shape[1]),
        "expert_tensor": dealt.reshape(-1, dealt.shape[2]),
        "shard": replicas.transpose(0, 2, 1).reshape(-1, shard * context),
        "outer": replicas.transpose(1, 2, 0).reshape(-1, data // shard),
        "expert_shard": grid.transpose(2, 0, 1).reshape(tensor, -1)
        if same_tokens
        else dealt.transpose(1, 2, 0).reshape(-1, dealt.shape[0]),
    }


def slowest_of(groups: NDArray[np.int64], fabric: Fabric) -> Levels:
    """The levels of the slowest of the groups [groups, ranks of a group]; those that cross a WAN share it."""
    levels, which = fabric.distinct(groups)
    slowest = max(levels, key=lambda group: collective("all_reduce", group).seconds(PROBE_BYTES))
    wan = fabric.cluster.wan
    return slowest if wan is None else shared_wan(slowest, crossing(levels, which), wan)


def wire(kind: str, levels: Levels, parameters: StepParameters) -> AlphaBeta:
    """The cost of a collective, its launch included."""
    if not levels:
        return AlphaBeta(0.0, 0.0)
    cost = collective(kind, levels)
    return AlphaBeta(cost.fixed_s + parameters.start_s, cost.per_byte_s)


def attained(cluster: Cluster, parameters: StepParameters) -> Cluster:
    """The cluster with the rates that collectives attain on its links.

    Links of emulated devices, and those whose rate was measured with messages, attain what they say.
    """
    if any(g.device.emulated for g in cluster.groups):
        return cluster
    return replace(cluster, groups=tuple(_attained(group, parameters) for group in cluster.groups))


WITHOUT_RDMA = ("ethernet", "omni-path")
"""Networks whose messages pass through the host's memory and cores: TCP, and Omni-Path, whose verbs are software."""


FRAMED = 1448 / 1538
"""Of the bytes on a wire, those of a message over TCP: a full Ethernet frame has 1500 bytes and 38 around them (IEEE
802.3), 52 of them are headers of IP and TCP with timestamps (RFC 791, 9293, 7323)."""


def _attained(group: NodeGroup, parameters: StepParameters) -> NodeGroup:
    share = {"pcie": parameters.pcie_share}.get(group.intra.kind, parameters.intra_share)
    nic_bytes_per_s = group.nic.bytes_per_s * parameters.nic_share
    if group.nic.kind in WITHOUT_RDMA:
        # the host is what limits a fast card, the wire a slow one
        nic_bytes_per_s = min(group.nic.bytes_per_s * FRAMED, parameters.tcp_bytes_per_s)
    return replace(
        group,
        intra=_measured(group.intra, group.intra.bytes_per_s * share),
        nic=_measured(group.nic, nic_bytes_per_s),
    )


def _measured(link: Link, bytes_per_s: float) -> Link:
    return link if link.attained else replace(link, bytes_per_s=bytes_per_s, attained=True)


def seconds_by_axis(wires: Iterable[Collective], axes: Axes, parameters: StepParameters) -> Mapping[str, float]:
    """Seconds of collectives one after the other, by axis."""
    total: dict[str, float] = {}
    for c in wires:
        cost = wire(c.kind, axes.of(c.axis), parameters)
        total[c.axis] = total.get(c.axis, 0.0) + cost.seconds(c.bytes)
    return total
