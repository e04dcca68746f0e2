"""Which operators the time of a predicted step goes to, what bounds each, and where the rates behind it come from.

Of the busiest stage, as the parts of the step are. What a stage does beside its operators (sums of gradients, copies
for collectives, a loss in several kernels) is one row, so that the rows sum to the step's compute and recomputation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from nebula.cluster.values import Cluster, DeviceType
from nebula.cost_model.compute import SEVERAL_PRODUCTS, kernels_seconds
from nebula.cost_model.confidence import origin
from nebula.cost_model.evaluate import beyond_fleet, plan_pricing
from nebula.cost_model.fleet import Pricing
from nebula.cost_model.fusion import separate
from nebula.cost_model.layer import recomputed
from nebula.cost_model.passes import computed_again
from nebula.cost_model.pointwise import READS, SHARPNESS
from nebula.graph.values import Block, DistributedGraph, Kernel, Operator
from nebula.plan.values import Plan, Stage

REST = "sums of gradients, copies and the rest"
MOST = 10
"""Kinds of operators that have a row of their own, those with most time."""

BOUNDS = {
    "arithmetic": ("peak_flops", "product_efficiency"),
    "memory": ("memory_bytes_per_s", "memory_efficiency"),
    "instructions": ("exponentials_per_s",),
    "launches": ("kernel_s",),
}
"""What may bound a kernel, and the fields of a device type that it then rests on."""


JOINED = 2.0 ** (1.0 / SHARPNESS)
"""What a kernel takes over its bytes alone where its instructions take as long, which is where the bound changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRow:
    """One kind of operator.

    Attributes:
        kind: as of the graph; backward and recomputation are counted with it.
        step_s: of a step, on one device.
        launches: of a step.
        bound: of BOUNDS, what takes most of its time.
        rests_on: pairs of a field of the device type and where it comes from.
    """

    kind: str
    step_s: float
    launches: float
    bound: str
    rests_on: tuple[tuple[str, str], ...]


class _Time(NamedTuple):
    """Seconds by what bounds them, and launches."""

    launches: float = 0.0
    launch_s: float = 0.0
    memory_s: float = 0.0
    arithmetic_s: float = 0.0
    instructions_s: float = 0.0

    def plus(self, other: _Time, times: float) -> _Time:
        return _Time(*(a + times * b for a, b in zip(self, other, strict=True)))

    @property
    def total_s(self) -> float:
        return self.launch_s + self.memory_s + self.arithmetic_s + self.instructions_s

    @property
    def bound(self) -> str:
        each = (self.arithmetic_s, self.memory_s, self.instructions_s, self.launch_s)
        return max(zip(each, BOUNDS, strict=True))[1]


def operation_rows(graph: DistributedGraph, cluster: Cluster, plan: Plan) -> tuple[OperationRow, ...]:
    """The kinds of operators of the busiest stage, those with most time first, and the rest of its compute.

    Args:
        graph: the model.
        cluster: that the plan is for.
        plan: with its prediction.

    Raises:
        BadInput: the plan does not fit the graph or the cluster.
    """
    assert plan.prediction is not None
    parts = plan.prediction.parts
    device, times = _executed(graph, cluster, plan) if beyond_fleet(plan) else _fleet(graph, cluster, plan)
    ranked = sorted(times.items(), key=lambda pair: -pair[1].total_s)
    rows = [_row(kind, time, device) for kind, time in ranked[:MOST]]
    rest_s = parts.compute_s + parts.recompute_s - sum(row.step_s for row in rows)
    return (*rows, _row(REST, _Time(memory_s=rest_s), device))


def _row(kind: str, time: _Time, device: DeviceType) -> OperationRow:
    fields = BOUNDS[time.bound]
    return OperationRow(
        kind=kind,
        step_s=time.total_s,
        launches=time.launches,
        bound=time.bound,
        rests_on=tuple((field, origin(device, field)) for field in fields),
    )


def _fleet(graph: DistributedGraph, cluster: Cluster, plan: Plan) -> tuple[DeviceType, dict[str, _Time]]:
    pricing = Pricing(graph, cluster, plan.job)
    costs, m = pricing.stage_costs(plan), plan.micro_batches
    busy = max(range(len(costs)), key=lambda i: m * costs[i].pass_s + costs[i].sync_s + costs[i].update_s)
    stage, devices = plan.stages[busy], pricing.devices(plan)[list(plan.stages[busy].ranks)]
    (device, *_) = pricing.fabric.device_types(devices)
    slow, rows = pricing.fabric.slowest(devices), stage.replicas[0].micro_batch_rows

    def blocks() -> Iterator[tuple[float, Block, Iterable[Operator]]]:
        for (policy, index), count in _counted(graph, stage).items():
            block = pricing.chains.block(index, rows, stage.tensor, plan.sequence_parallel)
            yield count * m * slow, block, recomputed(block, policy)

    return device, _times(blocks(), device)


def _executed(graph: DistributedGraph, cluster: Cluster, plan: Plan) -> tuple[DeviceType, dict[str, _Time]]:
    pricing = plan_pricing(graph, cluster, plan)
    times = pricing.step(plan).stages
    busy = max(plan.homes, key=lambda own: sum(times[i].forward_s + times[i].backward_s for i in own))
    held = [plan.stages[index] for index in busy]
    devices = pricing.devices(plan)[list(held[0].ranks)]
    (device, *_) = pricing.fabric.device_types(devices)
    often = plan.micro_batches * pricing.fabric.slowest(devices)

    def blocks() -> Iterator[tuple[float, Block, Iterable[Operator]]]:
        for stage in held:
            degrees = pricing.degrees(replace(plan, stages=(stage,)))
            for (policy, index), count in _counted(graph, stage).items():
                own = pricing.pricings[policy]
                block = separate(own.block(index, degrees))
                yield count * often, block, computed_again(block, own.execution)

    return device, _times(blocks(), device)


def _counted(graph: DistributedGraph, stage: Stage) -> Counter[tuple[str, int]]:
    """The layers of a stage by recompute policy and block."""
    return Counter((policy, index) for policy, *run in stage.policy_runs for index in graph.layers[slice(*run)])


def _times(blocks: Iterable[tuple[float, Block, Iterable[Operator]]], device: DeviceType) -> dict[str, _Time]:
    """Seconds by kind of operator; of each block how often it runs, and what of it runs again."""
    found: dict[str, _Time] = {}
    for times, block, again in blocks:
        work = [w for op in block.operators for w in (*op.forward, *op.backward)]
        work += [w for op in again for w in op.forward]
        kernels = [w for w in work if isinstance(w, Kernel)]
        for kernel, took_s in zip(kernels, kernels_seconds(kernels, device).tolist(), strict=True):
            kind = kernel.kind.removesuffix("_grad")
            found[kind] = found.get(kind, _Time()).plus(_time(kernel, took_s, device), times)
    return found


def _time(kernel: Kernel, took_s: float, device: DeviceType) -> _Time:
    """A kernel's time: its launch, and its bytes or, where they take longer, its arithmetic or instructions."""
    work_s = took_s - device.kernel_s
    product = kernel.product or kernel.scores or kernel.kind.removesuffix("_grad") in SEVERAL_PRODUCTS
    reads = 1.0 if product or not device.shaped else READS.get(kernel.kind, 1.0)
    moved = kernel.read_bytes * reads + kernel.written_bytes
    moved_s = moved / (device.memory_bytes_per_s * device.memory_efficiency)
    time = _Time(launches=1.0, launch_s=device.kernel_s)
    if work_s <= moved_s * JOINED:
        return time._replace(memory_s=work_s)
    return time._replace(arithmetic_s=work_s) if product else time._replace(instructions_s=work_s)
