"""What one plan costs: its step time by parts that sum to it, its memory per stage, its range and where it comes from.

Pure: no plan is changed, nothing is run. A Pricing object serves many plans of one graph, cluster and job and keeps
what they share; `evaluate` is the same for a single plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.places import device_index
from nebula.cluster.values import Cluster, DeviceType
from nebula.cost_model.border import receive_seconds, send_seconds
from nebula.cost_model.chain import ChainCost, Chains
from nebula.cost_model.closed_form import last_backward_s
from nebula.cost_model.communication import Fabric
from nebula.cost_model.confidence import interval, provenance
from nebula.cost_model.executed import paddle_execution, predict_executed
from nebula.cost_model.groups import Groups, stage_groups
from nebula.cost_model.memory import in_flight, stage_memory
from nebula.cost_model.runs.execution import Execution
from nebula.cost_model.sharding import bucket_bytes, pass_costs, sync_seconds, update_seconds
from nebula.cost_model.simulate import Durations, Event, Timeline, timeline
from nebula.errors import BadInput
from nebula.graph.values import DistributedGraph
from nebula.plan.values import Job, Plan, Prediction, RankPlace, Replica, Stage, StageMemory, StepParts

PRECISION_DTYPE = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def evaluate(graph: DistributedGraph, cluster: Cluster, plan: Plan, execution: Execution | None = None) -> Prediction:
    """Predicts one training step of a plan.

    Args:
        graph: the model.
        cluster: what it is trained on.
        plan: how.
        execution: what the software does; None: fleet's way, and for plans that fleet cannot run (virtual stages,
            context and expert parallelism) what PaddlePaddle does elsewhere.

    Raises:
        BadInput: the plan does not fit the graph or the cluster.
    """
    if execution is not None:
        return predict_executed(graph, cluster, plan, execution)
    if beyond_fleet(plan):
        return predict_executed(graph, cluster, plan, paddle_execution(plan.job))
    return Pricing(graph, cluster, plan.job).predict(plan)


def beyond_fleet(plan: Plan) -> bool:
    """Whether fleet has no price for a plan: several stages on one device, another schedule, context or experts."""
    several = len({stage.ranks for stage in plan.stages}) < len(plan.stages)
    inner = any(stage.context > 1 or stage.expert > 1 for stage in plan.stages)
    return several or inner or plan.schedule not in ("1f1b", "fthenb")


def predicted_timeline(graph: DistributedGraph, cluster: Cluster, plan: Plan) -> Timeline:
    """Every forward, backward, send, synchronization and update of one predicted step, stage by stage."""
    return Pricing(graph, cluster, plan.job).timeline(plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """What one stage does, in seconds.

    Attributes:
        compute_s: kernels of one forward and one backward, sums of gradients included.
        recompute_s: kernels run again in one backward.
        tensor_s: communication of the tensor group in one forward and one backward.
        sharded_s: communication that sharding adds to one forward and one backward.
        forward_s: one forward, all of the above and receiving included.
        backward_s: one backward, likewise.
        receive_s: receiving, in one forward and one backward.
        send_forward_s: sending on.
        send_backward_s: sending back.
        sync_s: data communication of one step after the last backward.
        update_s: the optimizer.
    """

    compute_s: float
    recompute_s: float
    tensor_s: float
    sharded_s: float
    forward_s: float
    backward_s: float
    receive_s: tuple[float, float]
    send_forward_s: float
    send_backward_s: float
    sync_s: float
    update_s: float
    memory: StageMemory

    @property
    def pass_s(self) -> float:
        """One forward and one backward without borders."""
        return self.compute_s + self.recompute_s + self.tensor_s + self.sharded_s


class Pricing:
    """Prices plans of one graph on one cluster for one job."""

    def __init__(self, graph: DistributedGraph, cluster: Cluster, job: Job) -> None:
        self.graph, self.cluster, self.job = graph, cluster, job
        self.chains, self.fabric = Chains(graph), Fabric(cluster)
        self._device: dict[RankPlace, int] = {}

    def predict(self, plan: Plan) -> Prediction:
        """The prediction for a plan.

        Raises:
            BadInput: the plan does not fit the graph or the cluster.
        """
        costs = self.stage_costs(plan)
        m = plan.micro_batches
        tail_s = np.array([c.sync_s + c.update_s for c in costs])
        step_s = float((_ends(costs, m, plan.schedule) + tail_s).max())
        borderless_s = float((_ends(costs, m, plan.schedule, borders=0.0) + tail_s).max())
        busy = max(costs, key=lambda c: m * c.pass_s + c.sync_s + c.update_s)
        parts = StepParts(
            compute_s=m * busy.compute_s,
            recompute_s=m * busy.recompute_s,
            tensor_communication_s=m * busy.tensor_s,
            pipeline_communication_s=step_s - borderless_s,
            data_communication_s=m * busy.sharded_s + busy.sync_s,
            bubble_s=borderless_s - m * busy.pass_s - busy.sync_s - busy.update_s,
            optimizer_s=busy.update_s,
        )
        types = self.fabric.device_types(self.devices(plan))
        rows = m * sum(r.micro_batch_rows for r in plan.stages[0].replicas)
        return Prediction(
            step_time_s=step_s,
            interval_s=interval(step_s, types),
            tokens_per_s=rows * self.graph.tokens_per_row / step_s,
            mfu=self._flops_per_row * rows / (self._peak_flops(plan) * step_s),
            parts=parts,
            memory=tuple(c.memory for c in costs),
            provenance=provenance(types),
        )

    def timeline(self, plan: Plan) -> Timeline:
        """The events of one predicted step."""
        costs = self.stage_costs(plan)
        passes = timeline(
            Durations(
                forward_s=tuple(c.forward_s for c in costs),
                backward_s=tuple(c.backward_s for c in costs),
                send_forward_s=tuple(c.send_forward_s for c in costs),
                send_backward_s=tuple(c.send_backward_s for c in costs),
            ),
            plan.schedule,
            plan.micro_batches,
        )
        stages = enumerate(zip(passes.by_stage(), costs, strict=True))
        return Timeline(events=tuple(e for s, (own, cost) in stages for e in (*own, *_tail(own, s, cost))))

    def stage_costs(self, plan: Plan) -> tuple[StageCost, ...]:
        """The cost of every stage."""
        self._check(plan)
        devices = self.devices(plan)
        groups = stage_groups(plan, devices, self.fabric)
        return tuple(self._stage(plan, i, devices, groups[i]) for i in range(len(plan.stages)))

    def devices(self, plan: Plan) -> NDArray[np.int64]:
        """The global device index of every rank."""
        for place in plan.ranks:
            if place not in self._device:
                self._device[place] = device_index(self.cluster, place.node, place.device)
        return np.array([self._device[place] for place in plan.ranks])

    def _check(self, plan: Plan) -> None:
        layers = len(self.graph.layers)
        held = [layer for stage in plan.stages for layer in range(*stage.layers)]
        if held != list(range(layers)):
            ranges = ", ".join(f"[{s.layers[0]}, {s.layers[1]})" for s in plan.stages)
            raise BadInput(f"the stages hold layers {ranges}; {self.graph.name} has layers [0, {layers}), each once")
        for stage in plan.stages:
            if stage.context > 1 or stage.expert > 1:
                raise BadInput("context and expert parallelism have no price yet; plan with context=1 and expert=1")

    def _stage(self, plan: Plan, index: int, devices: NDArray[np.int64], groups: Groups) -> StageCost:
        """The cost of a stage: that of its slowest replica, with the memory of the one nearest to its limit."""
        stage = plan.stages[index]
        held = devices[list(stage.ranks)]
        slow, types = self.fabric.slowest(held), self.fabric.device_types(held)
        costs = [self._replica(plan, index, r, d, groups, slow) for r in _unlike(stage) for d in types]
        slowest = max(costs, key=lambda c: plan.micro_batches * c.pass_s + c.update_s)
        fullest = max((c.memory for c in costs), key=lambda m: m.total_bytes / m.limit_bytes)
        return replace(slowest, memory=fullest)

    def _replica(
        self, plan: Plan, index: int, replica: Replica, device: DeviceType, groups: Groups, slow: float
    ) -> StageCost:
        stage = plan.stages[index]
        chain = self.chains.cost(
            rows=replica.micro_batch_rows,
            tensor=len(replica.ranks),
            levels=groups.tensor,
            sequence=plan.sequence_parallel,
            device=device,
            policy=stage.recompute,
        )
        own = slice(*stage.layers)
        parameters_bytes, tensors = float(chain.parameters_bytes[own].sum()), float(chain.tensors[own].sum())
        elements = float(chain.elements[own].sum())
        passes = pass_costs(
            parameters_bytes,
            tensors,
            outputs=(float(chain.module_outputs[own].sum()), float(chain.module_output_bytes[own].sum())),
            sharding=stage.sharding,
            shard=groups.shard,
            micro_batches=plan.micro_batches,
            device=device,
        )
        forward_kernels_s = slow * (float(chain.forward_s[own].sum()) + passes.forward_kernels_s)
        backward_kernels_s = slow * (float(chain.backward_s[own].sum()) + passes.backward_kernels_s)
        recompute_s = slow * float(chain.recompute_s[own].sum())
        forward_wire_s = float(chain.forward_communication_s[own].sum())
        backward_wire_s = float(chain.backward_communication_s[own].sum())
        borders = _borders(chain, stage, groups)
        return StageCost(
            compute_s=forward_kernels_s + backward_kernels_s,
            recompute_s=recompute_s,
            tensor_s=forward_wire_s + backward_wire_s,
            sharded_s=passes.forward_wire_s + passes.backward_wire_s,
            forward_s=forward_kernels_s + forward_wire_s + passes.forward_wire_s + borders.receive_s[0],
            backward_s=backward_kernels_s
            + recompute_s
            + backward_wire_s
            + passes.backward_wire_s
            + borders.receive_s[1],
            receive_s=borders.receive_s,
            send_forward_s=borders.send_s[0],
            send_backward_s=borders.send_s[1],
            sync_s=sync_seconds(parameters_bytes, tensors, sharding=stage.sharding, groups=groups, device=device),
            update_s=slow * update_seconds(elements, tensors, sharding=stage.sharding, job=self.job, device=device),
            memory=self._memory(plan, index, chain, borders.bytes + bucket_bytes(parameters_bytes, groups), device),
        )

    def _memory(
        self, plan: Plan, index: int, chain: ChainCost, buffers_bytes: float, device: DeviceType
    ) -> StageMemory:
        """What a rank of a stage holds, with so many bytes of buffers at borders and for gradients."""
        stage = plan.stages[index]
        own = slice(*stage.layers)
        return stage_memory(
            parameters_bytes=float(chain.parameters_bytes[own].sum()),
            elements=float(chain.elements[own].sum()),
            widest_bytes=float(chain.parameters_bytes[own].max()),
            kept_bytes=chain.stage_kept_bytes(*stage.layers),
            working_bytes=float(chain.working_bytes[own].max()),
            sharding=stage.sharding,
            in_flight=in_flight(plan.schedule, len(plan.stages), index, plan.micro_batches),
            border_bytes=buffers_bytes,
            job=self.job,
            limit_bytes=device.memory_bytes * self.job.memory_fraction,
        )

    @cached_property
    def _flops_per_row(self) -> float:
        """Model FLOPs of one row: forward and backward of the serial graph."""
        return (self.graph.forward_flops + self.graph.backward_flops) / self.graph.rows

    def _peak_flops(self, plan: Plan) -> float:
        dtype = PRECISION_DTYPE[self.job.precision]
        devices = self.devices(plan)
        return self.fabric.total(devices, lambda device: device.peak(dtype))


def _ends(costs: Sequence[StageCost], micro_batches: int, schedule: str, borders: float = 1.0) -> NDArray[np.float64]:
    """When each stage has done its last backward, with borders costing what they do or, at 0, nothing."""
    forward = [c.forward_s - c.receive_s[0] + borders * (c.receive_s[0] + c.send_forward_s) for c in costs]
    backward = [c.backward_s - c.receive_s[1] + borders * (c.receive_s[1] + c.send_backward_s) for c in costs]
    return last_backward_s(np.array(forward), np.array(backward), micro_batches, schedule)


def _tail(passes: Sequence[Event], stage: int, cost: StageCost) -> list[Event]:
    """Synchronization and update of a stage after its last backward."""
    start_s = passes[-1].end_s
    synced_s = start_s + cost.sync_s
    sync = [Event(stage, "sync", -1, start_s, synced_s)] if cost.sync_s else []
    return [*sync, Event(stage, "update", -1, synced_s, synced_s + cost.update_s)]


class _Borders(NamedTuple):
    """Seconds (forward, backward) and bytes at both ends of a stage."""

    send_s: tuple[float, float]
    receive_s: tuple[float, float]
    bytes: float


def _borders(chain: ChainCost, stage: Stage, groups: Groups) -> _Borders:
    """What a stage pays for its neighbours: sending outputs on and gradients back, receiving both."""
    first, last = stage.layers[0] - 1, stage.layers[1] - 1
    f_bytes, b_bytes = chain.forward_border_bytes, chain.backward_border_bytes
    f_count, b_count = chain.forward_messages, chain.backward_messages
    tensor, ranks = groups.tensor, groups.tensor_ranks
    inward = (float(f_bytes[first]), float(f_count[first])) if groups.before else (0.0, 0.0)
    returned = (float(b_bytes[last]), float(b_count[last])) if groups.behind else (0.0, 0.0)
    onward = (float(f_bytes[last]), float(f_count[last])) if groups.behind else (0.0, 0.0)
    back = (float(b_bytes[first]), float(b_count[first])) if groups.before else (0.0, 0.0)
    return _Borders(
        send_s=(send_seconds(*onward, groups.behind, ranks), send_seconds(*back, groups.before, ranks)),
        receive_s=(receive_seconds(*inward, groups.before, tensor), receive_seconds(*returned, groups.behind, tensor)),
        bytes=inward[0] + returned[0],
    )


def _unlike(stage: Stage) -> list[Replica]:
    """The replicas of a stage that differ in rows or tensor degree; usually one."""
    kinds = {(r.micro_batch_rows, len(r.ranks)): r for r in stage.replicas}
    return list(kinds.values())
