"""What the ranks of a plan send one another in a step: the collectives that are priced, with their groups and bytes.

The same collectives as those of fleet.py and executed.py (all others), so that bytes and seconds speak of
one thing. How a collective passes bytes from rank to rank is `edges`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import Cluster, DeviceType
from nebula.cost_model.by_stage import ByStage, under
from nebula.cost_model.chain import border_of
from nebula.cost_model.evaluate import beyond_fleet, plan_pricing
from nebula.cost_model.fleet import Pricing
from nebula.cost_model.groups import border_pairs, replica_devices
from nebula.cost_model.replicas import LayerLoad, Replicas
from nebula.cost_model.step import StepPricing, degrees_of_stage
from nebula.cost_model.traffic import Axes, axis_groups
from nebula.graph.values import Collective, DistributedGraph
from nebula.plan.values import Plan, Replica, Sharding, Stage

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

AXES = ("tensor", "context", "expert", "data", "pipeline")
"""Axes under which bytes are counted, in the order in which they are shown."""

COUNTED_AS = {
    "expert_tensor": "expert",
    "shard": "data",
    "outer": "data",
    "expert_shard": "data",
    "replicas": "data",
}
"""Groups of ranks that belong to another axis of AXES: those that share gradients, states or parameters are data."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flow:
    """One kind of collective in the groups of one axis of a stage, all calls of a step together.

    Attributes:
        axis: of AXES.
        kind: as of Collective, or `send` of the first of a group to the second.
        bytes: of the larger buffer on one rank, summed over the calls.
        groups: [groups, ranks of a group] global device indices.
    """

    axis: str
    kind: str
    bytes: float
    groups: Ints

    @property
    def sent_bytes(self) -> float:
        """What all ranks of all groups send together, as the formulas of communication.py count it."""
        groups, ranks = self.groups.shape
        total: float = groups * ranks * _share(self.kind, ranks) * self.bytes
        return total


def _share(kind: str, ranks: int) -> float:
    """What a rank sends on average, over the larger buffer of the collective.

    Rings pass each part p - 1 times (Patarasuk and Yuan, JPDC 69(2), 2009); tensors that are broadcast in turn by
    their owners pass as much.

    Example:
        >>> _share("all_reduce", 4), _share("all_to_all", 4), _share("send", 2)
        (1.5, 0.75, 0.5)
    """
    around = (ranks - 1) / ranks
    unlike = {"all_reduce": 2.0 * around, "ring_exchange": ranks - 1.0, "ring_return": float(ranks)}
    unlike["send"] = 0.5
    return unlike.get(kind, around)


def edges(flow: Flow) -> tuple[Ints, Ints, Floats]:
    """Devices that send, devices that receive, and bytes of each such pair; a pair may come more than once."""
    groups, ranks = flow.groups.shape
    if flow.kind == "send":
        return flow.groups[:, 0], flow.groups[:, 1], np.full(groups, flow.bytes)
    if flow.kind == "all_to_all":
        near, far = np.nonzero(~np.eye(ranks, dtype=bool))
        source, target = flow.groups[:, near].ravel(), flow.groups[:, far].ravel()
        return source, target, np.full(len(source), flow.bytes / ranks)
    source, target = flow.groups.ravel(), np.roll(flow.groups, -1, axis=1).ravel()
    return source, target, np.full(len(source), _share(flow.kind, ranks) * flow.bytes)


def plan_flows(graph: DistributedGraph, cluster: Cluster, plan: Plan) -> tuple[Flow, ...]:
    """Everything that a step of a plan sends; groups of one rank are left out.

    Raises:
        BadInput: the plan does not fit the graph or the cluster.
    """
    found = _executed(graph, cluster, plan) if beyond_fleet(plan) else _fleet(graph, cluster, plan)
    return tuple(flow for flow in found if flow.bytes and flow.groups.size and flow.groups.shape[1] > 1)


def _flows(wires: Iterable[Collective], groups: dict[str, Ints], times: float) -> Iterator[Flow]:
    """Each kind of collective along each axis once."""
    total: dict[tuple[str, str], float] = {}
    for each in wires:
        total[each.axis, each.kind] = total.get((each.axis, each.kind), 0.0) + times * each.bytes
    for (axis, kind), size in total.items():
        yield Flow(axis=COUNTED_AS.get(axis, axis), kind=kind, bytes=size, groups=groups[axis])


def _fleet(graph: DistributedGraph, cluster: Cluster, plan: Plan) -> Iterator[Flow]:
    pricing = Pricing(graph, cluster, plan.job)
    devices = pricing.devices(plan)
    held = [replica_devices(stage, devices) for stage in plan.stages]
    for stage, grid in zip(plan.stages, held, strict=True):
        yield from _passes(pricing, plan, stage, devices)
        yield from _sharded(pricing, plan, stage, grid)
    for index, (sender, receiver) in enumerate(pairwise(held)):
        yield from _border(pricing, plan, index, border_pairs(sender, receiver), devices)


def _alike(stage: Stage, devices: Ints) -> Iterator[tuple[int, Ints]]:
    """The tensor groups of a stage by rows of a micro-batch and ranks: rows, and devices [replicas, ranks]."""
    alike: dict[tuple[int, int], list[Replica]] = {}
    for replica in stage.replicas:
        alike.setdefault((replica.micro_batch_rows, len(replica.ranks)), []).append(replica)
    for (rows, _), replicas in alike.items():
        yield rows, devices[np.array([replica.ranks for replica in replicas])]


def _passes(pricing: Pricing, plan: Plan, stage: Stage, devices: Ints) -> Iterator[Flow]:
    """What tensor groups exchange in the forwards and backwards of a step."""
    for rows, groups in _alike(stage, devices):
        (device, *_) = pricing.fabric.device_types(groups)
        wires: list[Collective] = []
        for policy, *run in stage.policy_runs:
            for index in pricing.graph.layers[slice(*run)]:
                cost = pricing.chains.layer(index, rows, groups.shape[1], plan.sequence_parallel, device)
                wires += (*cost.forward_collectives, *cost.backward_collectives)
                wires += cost.recompute_collectives[policy]
        yield from _flows(wires, {"tensor": groups}, plan.micro_batches)


def _sharded(pricing: Pricing, plan: Plan, stage: Stage, grid: Ints) -> Iterator[Flow]:
    """What replicas exchange: gradients, parameters, and under sharding what their owners hold."""
    (device, *_) = pricing.fabric.device_types(grid)
    rows, degree = stage.replicas[0].micro_batch_rows, stage.sharding.degree
    layers = pricing.graph.layers[slice(*stage.layers)]
    costs = [pricing.chains.layer(i, rows, stage.tensor, plan.sequence_parallel, device) for i in layers]
    size = float(sum(cost.parameters_bytes for cost in costs))
    groups = axis_groups(grid[:, None, :], shard=degree, expert=1, expert_tensor=1)
    yield from _flows(_replica_wires(size, stage.sharding, plan.micro_batches), groups, 1.0)


def _replica_wires(size: float, sharding: Sharding, micro_batches: int) -> Iterator[Collective]:
    """The collectives of a step that sharding.py prices, for so many bytes of parameters on one rank."""
    yield Collective(kind="all_reduce", axis="outer", bytes=size / sharding.degree)
    if sharding.stage == 1:
        yield Collective(kind="broadcast", axis="shard", bytes=2 * size)
    if sharding.stage == 2:
        yield Collective(kind="broadcast", axis="shard", bytes=(micro_batches + 1) * size)
    if sharding.stage == 3:
        yield Collective(kind="all_gather", axis="shard", bytes=2 * micro_batches * size)
        yield Collective(kind="all_reduce", axis="shard", bytes=micro_batches * size)


def _border(pricing: Pricing, plan: Plan, index: int, pairs: Ints, devices: Ints) -> Iterator[Flow]:
    """Outputs forward and their gradients back: a part of each from every tensor rank, gathered behind the border."""
    ahead, behind = plan.stages[index], plan.stages[index + 1]
    last = pricing.graph.layers[ahead.layers[1] - 1]
    sizes = np.zeros(2)
    for replica in ahead.replicas:
        block = pricing.chains.block(last, replica.micro_batch_rows, len(replica.ranks), plan.sequence_parallel)
        sizes += border_of(block)[:2]
    for size, one_way, stage in zip(sizes, (pairs, pairs[:, ::-1]), (behind, ahead), strict=True):
        whole = plan.micro_batches * float(size)
        yield Flow(axis="pipeline", kind="send", bytes=whole / len(pairs), groups=one_way)
        for _, groups in _alike(stage, devices):
            yield Flow(axis="pipeline", kind="all_gather", bytes=whole / stage.data, groups=groups)


def _executed(graph: DistributedGraph, cluster: Cluster, plan: Plan) -> Iterator[Flow]:
    pricing = plan_pricing(graph, cluster, plan)
    devices = pricing.devices(plan)
    grids = [
        devices[np.array([r.ranks for r in stage.replicas])].reshape(stage.data, stage.context, -1)
        for stage in plan.stages
    ]
    alone = len(plan.homes) == 1
    for index, (stage, grid) in enumerate(zip(plan.stages, grids, strict=True)):
        (device, *_) = pricing.fabric.device_types(grid)
        held = _loads(pricing, plan, stage, device)
        groups = axis_groups(
            grid,
            shard=stage.sharding.degree,
            expert=stage.expert,
            expert_tensor=1,
            same_tokens=under(pricing, stage).execution.same_tokens(
                tensor=grid.shape[2], sequence=plan.sequence_parallel, expert=stage.expert
            ),
        )
        groups["replicas"] = grid.reshape(-1, grid.shape[2]).T
        yield from _flows(_layer_wires(under(pricing, stage), plan, stage, held, device), groups, 1.0)
        if index + 1 < len(grids) and not alone:
            yield from _handed(plan, held[-1], grid, grids[index + 1])


def _loads(pricing: ByStage, plan: Plan, stage: Stage, device: DeviceType) -> list[LayerLoad]:
    """The layers of a stage on one rank, for the mean rows of its replicas."""
    rows = sum(replica.micro_batch_rows for replica in stage.replicas) // stage.data or 1
    degrees = degrees_of_stage(plan, stage, rows, 1)
    return [
        pricing.pricings[policy].load(index, degrees, device)
        for policy, *run in stage.policy_runs
        for index in pricing.graph.layers[slice(*run)]
    ]


def _layer_wires(
    pricing: StepPricing, plan: Plan, stage: Stage, held: Sequence[LayerLoad], device: DeviceType
) -> Iterator[Collective]:
    """What a rank takes part in during a step, borders apart."""
    replicas = Replicas(
        stage=stage,
        micro_batches=plan.micro_batches,
        axes=Axes(),
        device=device,
        execution=pricing.execution,
        parameters=pricing.parameters,
    )
    for load in held:
        passes = load.passes
        gathers, reduces = replicas.layer_wires(load)
        # parameters are gathered for the forward and again for the backward
        yield from _times(
            (*passes.forward.wires, *passes.backward.wires, *gathers, *gathers, *reduces), plan.micro_batches
        )
        yield from _times(passes.again.wires, plan.micro_batches / pricing.execution.recompute.every)
    for wires in replicas.sync_wires([(load, 1) for load in held]):
        yield from wires


def _times(wires: Iterable[Collective], times: float) -> Iterator[Collective]:
    return (Collective(kind=each.kind, axis=each.axis, bytes=times * each.bytes) for each in wires)


def _handed(plan: Plan, last: LayerLoad, sender: Ints, receiver: Ints) -> Iterator[Flow]:
    """A layer's output to the next stage and its gradient back, as StepPricing sends it."""
    count = min(sender.size, receiver.size)
    pairs = np.stack([sender.reshape(-1)[:count], receiver.reshape(-1)[:count]], axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    tensor = sender.shape[2]
    parts = 1 if plan.sequence_parallel else tensor
    size = plan.micro_batches * last.border_bytes
    for one_way, grid in ((pairs, receiver), (pairs[:, ::-1], sender)):
        yield Flow(axis="pipeline", kind="send", bytes=size / parts, groups=one_way)
        if parts > 1 and len(pairs):
            yield Flow(axis="pipeline", kind="all_gather", bytes=size, groups=grid.reshape(-1, tensor))
