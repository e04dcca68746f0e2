"""One training step of a plan under an execution: what each virtual stage does, what is hidden, what a step takes.

Kernels come from the graph's local blocks, collectives from their axes, waiting from the schedule. What a stack hides
is worked out against the kernels that run meanwhile, and what runs at once is slowed. How PaddlePaddle's fleet does it
on its own is evaluate.py's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.places import device_index
from nebula.cluster.values import Cluster, DeviceType
from nebula.cost_model.closed_form import last_backward_s
from nebula.cost_model.communication import Fabric, Levels, ranks_of
from nebula.cost_model.compute import moving_seconds
from nebula.cost_model.passes import Pass, Passes, layer_passes
from nebula.cost_model.runs.execution import Execution
from nebula.cost_model.step_parameters import DEFAULT, StepParameters
from nebula.cost_model.traffic import Axes, attained, seconds_by_axis, stage_axes, wire
from nebula.graph.experts import expert_parameters
from nebula.graph.local_block import local_block
from nebula.graph.rows import with_rows
from nebula.graph.values import DTYPE_BYTES, Block, Collective, DistributedGraph
from nebula.plan.values import Plan, Stage

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLoad:
    """What a layer adds to a stage, for one micro-batch.

    Attributes:
        passes: its kernels and collectives.
        elements: trainable elements on one rank that all replicas hold.
        expert_elements: those of experts.
        border_bytes: what goes on to the next layer.
    """

    passes: Passes
    elements: float
    expert_elements: float
    border_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """One virtual stage, in seconds.

    Attributes:
        forward_s: one forward, with what is exposed of its communication.
        backward_s: one backward, recomputation included.
        weight_s: the part of it that gives gradients of weights.
        compute_s: kernels of both, first of the forward.
        again_s: kernels run again.
        tensor_s: exposed communication of the tensor group, in both; likewise context, expert and sharded.
        send_s: to the next stage, and as much back.
        reduce_s: gradients over replicas once a step; 0 where every micro-batch does it.
        gather_s: updated parameters over replicas.
        update_s: the optimizer.
    """

    forward_s: float
    backward_s: float
    weight_s: float
    compute_s: tuple[float, float]
    again_s: float
    tensor_s: float
    context_s: float
    expert_s: float
    sharded_s: float
    send_s: float
    reduce_s: float
    gather_s: float
    update_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """A step.

    Attributes:
        step_s: from one step's start to the next's.
        passes_s: until the last backward of the slowest device.
        stages: every virtual stage.
    """

    step_s: float
    passes_s: float
    stages: tuple[StageTimes, ...]


class StepPricing:
    """Prices plans of one graph on one cluster under one execution."""

    def __init__(
        self, graph: DistributedGraph, cluster: Cluster, execution: Execution, parameters: StepParameters = DEFAULT
    ) -> None:
        self.graph, self.cluster, self.execution, self.parameters = graph, cluster, execution, parameters
        self.fabric = Fabric(attained(cluster, parameters))
        self._blocks: dict[tuple[int, ...], Block] = {}
        self._loads: dict[tuple[object, ...], LayerLoad] = {}

    def step(self, plan: Plan, expert_tensor: int = 1) -> StepTimes:
        """What one step of a plan takes.

        Raises:
            BadInput: the plan does not fit the graph, or its schedule these numbers.
        """
        devices = np.array([device_index(self.cluster, p.node, p.device) for p in plan.ranks])
        homes = list(dict.fromkeys(stage.ranks for stage in plan.stages))
        chunks = len(plan.stages) // len(homes)
        grids = [_grid(stage, devices) for stage in plan.stages]
        stages = tuple(
            self._stage(plan, i, grids, expert_tensor, alone=len(homes) == 1) for i in range(len(plan.stages))
        )
        home = np.array([homes.index(stage.ranks) for stage in plan.stages])
        ends = self._ends(plan, stages, chunks)
        held = [[times for times, at in zip(stages, home, strict=True) if at == place] for place in range(len(homes))]
        turns = min(len(homes), plan.micro_batches)
        tail = np.array([self._sync_seconds(own, turns) for own in held])
        update = np.array([sum(times.update_s for times in own) for own in held])
        passes_s = float(ends.max())
        nodes = max(1, len(np.unique(self.fabric.node_of(devices))))
        waiting = 1.0 + self.parameters.jitter * math.log2(nodes)
        step_s = waiting * float((ends + tail).max()) + float(update.max()) + self.parameters.step_host_s
        return StepTimes(step_s=step_s, passes_s=passes_s, stages=stages)

    def layer(self, plan: Plan) -> StageTimes:
        """What the layers of a plan of one stage take, each forward and backward once, apart from any step."""
        devices = np.array([device_index(self.cluster, p.node, p.device) for p in plan.ranks])
        return self._stage(plan, 0, [_grid(plan.stages[0], devices)], 1, alone=True)

    def degrees(self, plan: Plan, expert_tensor: int = 1) -> tuple[int, ...]:
        """The degrees that `block` takes, of a plan whose stages are alike."""
        stage = plan.stages[0]
        return _degrees(plan, stage, stage.replicas[0].micro_batch_rows, expert_tensor)

    def _sync_seconds(self, own: Sequence[StageTimes], turns: int) -> float:
        """Data communication around the passes of the virtual stages of a device, as far as they do not hide it.

        Gradients leave while the last micro-batch runs backward, parameters come while the first runs forward. Of
        several virtual stages all but the one at the end of the step have the time of `turns` micro-batches, which
        interleaving runs through one before it comes to the next.
        """
        reduce_s, gather_s = sum(t.reduce_s for t in own), sum(t.gather_s for t in own)
        if not self.execution.hidden.data:
            return reduce_s + gather_s
        passes = (turns * (len(own) - 1) + 1) / len(own)
        backward_s, forward_s = (passes * sum(getattr(t, f) for t in own) for f in ("backward_s", "forward_s"))
        return self.beside(backward_s, reduce_s) + self.beside(forward_s, gather_s)

    def _ends(self, plan: Plan, stages: Sequence[StageTimes], chunks: int) -> Floats:
        forward, backward = (np.array([getattr(s, f) for s in stages]) for f in ("forward_s", "backward_s"))
        send = np.array([s.send_s for s in stages])
        back = np.roll(send, 1)
        back[0] = 0.0
        weight = np.array([s.weight_s for s in stages])
        args = (plan.micro_batches, plan.schedule, chunks, weight)
        if self.execution.hidden.pipeline:
            return last_backward_s(forward, backward, *args, send_forward_s=send, send_backward_s=back)
        return last_backward_s(forward + send, backward + back, *args)

    def _stage(
        self, plan: Plan, index: int, grids: Sequence[NDArray[np.int64]], expert_tensor: int, *, alone: bool
    ) -> StageTimes:
        stage, grid = plan.stages[index], grids[index]
        axes = stage_axes(
            grid,
            shard=stage.sharding.degree,
            expert=stage.expert,
            expert_tensor=expert_tensor,
            behind=grids[index + 1] if index + 1 < len(grids) and not alone else None,
            fabric=self.fabric,
        )
        held = grid.reshape(-1)
        slow = self.fabric.slowest(held)
        each = [
            self._times(plan, stage, rows, device, axes, slow, expert_tensor)
            for rows in sorted({r.micro_batch_rows for r in stage.replicas})
            for device in self.fabric.device_types(held)
        ]
        return max(each, key=lambda t: t.forward_s + t.backward_s)

    def _times(
        self, plan: Plan, stage: Stage, rows: int, device: DeviceType, axes: Axes, slow: float, expert_tensor: int
    ) -> StageTimes:
        degrees = _degrees(plan, stage, rows, expert_tensor)
        layers = self.graph.layers[slice(*stage.layers)]
        loads = [(self.load(i, degrees, device), count) for i, count in Counter(layers).items()]
        sharing = _Sharing(self, plan, stage, axes, device)
        forward = [0.0, 0.0, 0.0, 0.0, 0.0]
        backward = [0.0, 0.0, 0.0, 0.0, 0.0]
        again_s = weight_s = 0.0
        every = self.execution.recompute.every
        for load, count in loads:
            p = load.passes
            gathered_s, reduced_s = sharing.layer_seconds(load)
            f = self._exposed(p.forward, axes, forward=True)
            a = self._exposed(p.again, axes, forward=True)
            b = self._exposed(p.backward, axes, forward=False)
            sharded = (
                sharing.beside(slow * p.forward.kernels_s, gathered_s),
                sharing.beside(slow * (p.backward.kernels_s + p.again.kernels_s / every), gathered_s + reduced_s),
            )
            forward = [
                x + count * y for x, y in zip(forward, (slow * p.forward.kernels_s, *f, sharded[0]), strict=True)
            ]
            b = tuple(x + y / every for x, y in zip(b, a, strict=True))
            backward = [
                x + count * y for x, y in zip(backward, (slow * p.backward.kernels_s, *b, sharded[1]), strict=True)
            ]
            again_s += count * slow * p.again.kernels_s / every
            weight_s += count * slow * p.backward.weight_products_s
        adds_s = slow * sharing.adds_seconds(loads)
        backward[0] += adds_s
        f_s, b_s = sum(forward), sum(backward) + again_s
        reduce_s, gather_s = sharing.sync_seconds(loads)
        return StageTimes(
            forward_s=f_s,
            backward_s=b_s,
            weight_s=weight_s,
            compute_s=(forward[0], backward[0]),
            again_s=again_s,
            tensor_s=forward[1] + backward[1],
            context_s=forward[2] + backward[2],
            expert_s=forward[3] + backward[3],
            sharded_s=forward[4] + backward[4],
            send_s=self._send(self.load(layers[-1], degrees, device), axes, sequence=plan.sequence_parallel),
            reduce_s=reduce_s,
            gather_s=gather_s,
            update_s=slow * sharing.update_seconds(loads),
        )

    def load(self, index: int, degrees: tuple[int, ...], device: DeviceType) -> LayerLoad:
        """A layer of that block under degrees (rows, tensor, sequence, context, expert, expert_tensor)."""
        key = (index, degrees, device.name)
        if key not in self._loads:
            block = self.block(index, degrees)
            experts = expert_parameters(block)
            self._loads[key] = LayerLoad(
                passes=layer_passes(block, device, self.execution),
                elements=float(sum(t.size for t in block.parameters if t.name not in experts)),
                expert_elements=float(sum(t.size for t in block.parameters if t.name in experts)),
                border_bytes=float(block.output_bytes),
            )
        return self._loads[key]

    def block(self, index: int, degrees: tuple[int, ...]) -> Block:
        """The local block of an index."""
        key = (index, *degrees)
        if key not in self._blocks:
            rows, tensor, sequence, context, expert, expert_tensor = degrees
            whole = with_rows(self.graph, rows).blocks[index]
            fused_core = any(op.kind == "attention" for op in whole.operators)
            self._blocks[key] = local_block(
                whole,
                tensor=tensor,
                splits=self.graph.splits,
                sequence=bool(sequence),
                context=context,
                how="ring" if fused_core else "gather",
                expert=expert,
                expert_tensor=expert_tensor,
            )
        return self._blocks[key]

    def _exposed(self, part: Pass, axes: Axes, *, forward: bool) -> tuple[float, float, float]:
        """Seconds of a layer's communication along tensor, context and expert axes that nothing hides."""
        hidden = self.execution.hidden
        behind = () if forward else ("all_reduce", "reduce_scatter")
        early = [w for w in part.wires if w.axis == "tensor" and w.kind in behind]
        rest = [w for w in part.wires if w not in early]
        seconds = seconds_by_axis(rest, axes, self.parameters)
        early_s = seconds_by_axis(early, axes, self.parameters).get("tensor", 0.0)
        tensor_s = seconds.get("tensor", 0.0)
        if hidden.tensor:
            total_s = tensor_s + early_s
            tensor_s = total_s - self.parameters.pipelined_share * min(total_s, part.products_s)
        else:
            tensor_s += self.beside(part.weight_products_s, early_s)
        context_s = seconds.get("context", 0.0)
        if any(w.kind == "ring_exchange" for w in part.wires):
            context_s = self.beside(part.attention_s, context_s)
        expert_s = seconds.get("expert", 0.0) + seconds.get("expert_tensor", 0.0)
        if hidden.expert:
            expert_s = self.beside(part.kernels_s, expert_s)
        return tensor_s, context_s, expert_s

    def beside(self, work_s: float, wire_s: float) -> float:
        """What communication adds to kernels that run meanwhile: what is longer, and what both delay one another."""
        return max(0.0, wire_s - work_s) + self.parameters.contention * min(work_s, wire_s)

    def _send(self, last: LayerLoad, axes: Axes, *, sequence: bool) -> float:
        """Handing a layer's output to the next stage.

        Tensor ranks that hold the same send a part each and gather the parts behind the border (Narayanan et al., SC
        2021, section 4.1); with sequence parallelism each has its own part.
        """
        if not axes.pair:
            return 0.0
        parts = 1 if sequence else ranks_of(axes.tensor)
        send_s = wire("send", axes.pair, self.parameters).seconds(last.border_bytes / parts)
        return send_s + (
            wire("all_gather", axes.tensor, self.parameters).seconds(last.border_bytes) if parts > 1 else 0.0
        )


class _Sharing:
    """What replicas of a stage share: gradients, optimizer states and parameters."""

    def __init__(self, pricing: StepPricing, plan: Plan, stage: Stage, axes: Axes, device: DeviceType) -> None:
        self.pricing, self.plan, self.stage, self.axes, self.device = pricing, plan, stage, axes, device
        self.execution, self.parameters = pricing.execution, pricing.parameters
        e = self.execution
        self.gather_bytes = DTYPE_BYTES.get(e.gather_dtype, 1)
        self.reduce_bytes = DTYPE_BYTES[e.reduction_dtype]
        self.level = stage.sharding.stage

    def beside(self, work_s: float, wire_s: float) -> float:
        """Sharded parameters' communication, as far as it is not hidden."""
        return self.pricing.beside(work_s, wire_s) if self.execution.hidden.data else wire_s

    def _wire(self, kind: str, levels: Levels, size_bytes: float) -> float:
        return wire(kind, levels, self.parameters).seconds(size_bytes) if size_bytes else 0.0

    def layer_seconds(self, load: LayerLoad) -> tuple[float, float]:
        """Gathering a layer's parameters, and reducing its gradients, in every micro-batch: under stage 3."""
        if self.level < 3:
            return 0.0, 0.0
        gather_s = self._wire("all_gather", self.axes.shard, load.elements * self.gather_bytes)
        gather_s += self._wire("all_gather", self.axes.expert_shard, load.expert_elements * self.gather_bytes)
        reduce_s = self._wire("reduce_scatter", self.axes.shard, load.elements * self.reduce_bytes)
        reduce_s += self._wire("reduce_scatter", self.axes.expert_shard, load.expert_elements * self.reduce_bytes)
        reduce_s += self._wire("all_reduce", self.axes.outer, load.elements * self.reduce_bytes / self._degree)
        return gather_s, reduce_s

    @cached_property
    def _degree(self) -> int:
        return self.stage.sharding.degree * self.stage.context

    def _elements(self, loads: Sequence[tuple[LayerLoad, int]]) -> tuple[float, float]:
        return (
            sum(n * load.elements for load, n in loads),
            sum(n * load.expert_elements for load, n in loads),
        )

    def adds_seconds(self, loads: Sequence[tuple[LayerLoad, int]]) -> float:
        """Adding a micro-batch's gradients to the sums of those before."""
        m = self.plan.micro_batches
        if m == 1 or self.level == 3:
            return 0.0
        dense, experts = self._elements(loads)
        width = 2 * DTYPE_BYTES[self.execution.accumulation_dtype] + DTYPE_BYTES[self.execution.compute_dtype]
        return moving_seconds((dense + experts) * width, 0.0, self.device) * (m - 1) / m

    def sync_seconds(self, loads: Sequence[tuple[LayerLoad, int]]) -> tuple[float, float]:
        """Gradients reduced and parameters gathered once a step, whatever hides them."""
        if self.level == 3:
            return 0.0, 0.0
        dense, experts = self._elements(loads)
        shard, outer, expert = self.axes.shard, self.axes.outer, self.axes.expert_shard
        if self.level == 0:
            reduce_s = self._wire("all_reduce", self._levels_of_all(), dense * self.reduce_bytes)
            return reduce_s + self._wire("all_reduce", expert, experts * self.reduce_bytes), 0.0
        reduce_s = self._wire("reduce_scatter", shard, dense * self.reduce_bytes)
        reduce_s += self._wire("all_reduce", outer, dense * self.reduce_bytes / self._degree)
        reduce_s += self._wire("reduce_scatter", expert, experts * self.reduce_bytes)
        gather_s = self._wire("all_gather", shard, dense * self.gather_bytes)
        return reduce_s, gather_s + self._wire("all_gather", expert, experts * self.gather_bytes)

    def _levels_of_all(self) -> Levels:
        """Where all replicas meet: sharding groups of one replica leave them in `outer`, context ranks in `shard`."""
        levels = [*self.axes.shard, *self.axes.outer]
        merged: dict[str, object] = {}
        for level in levels:
            known = merged.get(level.name)
            merged[level.name] = level if known is None else _more(known, level.members)
        return Levels(merged.values())  # type: ignore[arg-type]

    def update_seconds(self, loads: Sequence[tuple[LayerLoad, int]]) -> float:
        """The clip of the global norm and the optimizer's update of what a rank owns."""
        e = self.execution
        dense, experts = self._elements(loads)
        owned = dense / self._degree if self.level else dense
        owned += experts
        grad, moment = DTYPE_BYTES[e.accumulation_dtype], DTYPE_BYTES[e.moments_dtype]
        weight = DTYPE_BYTES[e.compute_dtype]
        master = DTYPE_BYTES[e.master_dtype] if e.master_dtype else 0
        # norm: read; clip: read and written; update: gradient, states both ways, weights written
        width = grad + 2 * grad + grad + 2 * moment * e.moments + (2 * master + weight if master else 2 * weight)
        return moving_seconds(owned * width, 0.0, self.device)


def _more(level: object, members: int) -> object:
    from dataclasses import replace

    return replace(level, members=level.members * members)  # type: ignore[type-var, attr-defined]


def _degrees(plan: Plan, stage: Stage, rows: int, expert_tensor: int) -> tuple[int, ...]:
    tensor = len(stage.replicas[0].ranks) // stage.context
    return (rows, tensor, int(plan.sequence_parallel), stage.context, stage.expert, expert_tensor)


def _grid(stage: Stage, devices: NDArray[np.int64]) -> NDArray[np.int64]:
    """[data, context, tensor] devices of a stage."""
    ranks = np.array([r.ranks for r in stage.replicas])
    grid: NDArray[np.int64] = devices[ranks].reshape(len(stage.replicas), stage.context, -1)
    return grid


__all__ = ["Collective", "StepPricing", "StepTimes"]
