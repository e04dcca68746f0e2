"""One training step of a plan under an execution: what each virtual stage does and what a step takes.

Kernels come from the graph's local blocks, collectives from their axes, what a stack hides from hiding.py, waiting from
the schedule. How PaddlePaddle's fleet does it on its own is fleet.py's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.places import device_index
from nebula.cluster.topology import HostShare
from nebula.cluster.values import Cluster, DeviceType
from nebula.cost_model.activations import activations
from nebula.cost_model.border import alike, messages
from nebula.cost_model.closed_form import last_backward_s
from nebula.cost_model.communication import Fabric, ranks_of
from nebula.cost_model.compute import moving_seconds
from nebula.cost_model.cut_blocks import CutBlocks
from nebula.cost_model.execution import Execution
from nebula.cost_model.groups import ALONE
from nebula.cost_model.hiding import Hiding
from nebula.cost_model.offload import copies_seconds, holds_activations
from nebula.cost_model.passes import later_weights, layer_passes
from nebula.cost_model.peak import LayerLoad as Held
from nebula.cost_model.replicas import LayerLoad, Replicas, layer_load
from nebula.cost_model.step_parameters import StepParameters, parameters_on
from nebula.cost_model.traffic import Axes, across, attained, axis_groups, slowest_of, stage_axes, wire
from nebula.errors import BadInput
from nebula.graph.values import DTYPE_BYTES, Block, DistributedGraph
from nebula.plan.job import EXCHANGES
from nebula.plan.schedule import splits_backward
from nebula.plan.values import Plan, RankPlace, Stage

Floats = NDArray[np.float64]

NUMBERS_TOLD = 2
"""All-reductions of single numbers in a step."""


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
        offload_s: exposed copies of activations to and from the host, in both.
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
    offload_s: float


class PassTimes(NamedTuple):
    """One direction of a layer or stage: kernels, what is exposed of communication along each axis, and of copies."""

    kernels_s: float
    tensor_s: float
    context_s: float
    expert_s: float
    sharded_s: float
    offload_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of it."""
        return sum(self)

    def beside(self, again_s: float, copied_bytes: float, host: HostShare) -> PassTimes:
        """The same with the copies of a layer's activations, which run beside it and what it runs again."""
        if not copied_bytes:
            return self
        return self._replace(offload_s=copies_seconds(self.total_s + again_s, copied_bytes, host))


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
    """Prices plans of one graph on one cluster under one execution.

    Attributes:
        under: pricings of the same plans by recompute policy, where several are known.
        held: by degrees what each layer of the chain holds on a rank, as far as it is known (by_stage.held_loads).
    """

    def __init__(
        self, graph: DistributedGraph, cluster: Cluster, execution: Execution, parameters: StepParameters | None = None
    ) -> None:
        self.parameters = parameters or parameters_on(cluster)
        self.graph, self.cluster, self.execution = graph, cluster, execution
        self.hiding = Hiding(execution.hidden, self.parameters)
        self.fabric = Fabric(attained(cluster, self.parameters))
        self.cuts = CutBlocks(graph, by_tensor=execution.by_tensor)
        self._loads: dict[tuple[object, ...], LayerLoad] = {}
        self.under: Mapping[str, StepPricing] = {}
        self.held: dict[tuple[int, ...], tuple[Held, ...]] = {}
        self._kept: dict[tuple[int, ...], float] = {}
        self._device: dict[RankPlace, int] = {}

    def step(self, plan: Plan, expert_tensor: int = 1, *, borders: float = 1.0) -> StepTimes:
        """What one step of a plan takes.

        Args:
            plan: stages of equal ranks are virtual stages of one device.
            expert_tensor: ranks over which the width of an expert is cut.
            borders: what messages between stages take, as a multiple of what they do.

        Raises:
            BadInput: the plan does not fit the graph, or its schedule these numbers.
        """
        devices = self.devices(plan)
        grids = [_grid(stage, devices) for stage in plan.stages]
        alone = len(plan.homes) == 1
        stages = tuple(self._stage(plan, i, grids, expert_tensor, alone=alone) for i in range(len(plan.stages)))
        return self.step_of(plan, stages, borders=borders)

    def step_of(self, plan: Plan, stages: tuple[StageTimes, ...], *, borders: float = 1.0) -> StepTimes:
        """What one step takes whose virtual stages take so long."""
        devices, homes = self.devices(plan), plan.homes
        ends = self._ends(plan, stages, len(stages) // len(homes), borders)
        held = [[stages[index] for index in own] for own in homes]
        turns = min(len(homes), plan.micro_batches)
        tail = np.array([self.sync_seconds(own, turns) for own in held])
        summed = self.tied_ends(plan, ends, devices)
        update = np.array([sum(times.update_s for times in own) for own in held])
        passes_s = float(ends.max())
        nodes = max(1, len(np.unique(self.fabric.node_of(devices))))
        waiting = 1.0 + self.parameters.jitter * math.log2(nodes)
        alone_s = self.meeting_seconds(devices) + self.parameters.step_host_s
        step_s = waiting * float((summed + tail).max()) + float(update.max()) + alone_s
        return StepTimes(step_s=step_s, passes_s=passes_s, stages=stages)

    def layer(self, plan: Plan) -> StageTimes:
        """What the layers of a plan of one stage take, each forward and backward once, apart from any step."""
        return self._stage(plan, 0, [_grid(plan.stages[0], self.devices(plan))], 1, alone=True)

    def devices(self, plan: Plan) -> NDArray[np.int64]:
        """The global device index of every rank."""
        for place in set(plan.ranks) - self._device.keys():
            self._device[place] = device_index(self.cluster, place.node, place.device)
        return np.fromiter(map(self._device.__getitem__, plan.ranks), np.int64, len(plan.ranks))

    def degrees(self, plan: Plan, expert_tensor: int = 1) -> tuple[int, ...]:
        """The degrees that `block` takes, of a plan whose stages are alike."""
        stage = plan.stages[0]
        return degrees_of_stage(plan, stage, stage.replicas[0].micro_batch_rows, expert_tensor)

    def sync_seconds(self, own: Sequence[StageTimes], turns: int) -> float:
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
        return self.hiding.beside(backward_s, reduce_s) + self.hiding.beside(forward_s, gather_s)

    def tied_ends(self, plan: Plan, ends: Floats, devices: NDArray[np.int64]) -> Floats:
        """When the gradients of weights that the first and the last stage share are summed, [places of the pipeline].

        They are before replicas reduce theirs: in fleet (`PipelineParallel`: `allreduce_shared_weight_gradients`, then
        data parallelism) and in DeepSpeed (`TrainSchedule`: `ReduceTiedGrads`, then `ReduceGrads`). Other places go on
        when their passes end.
        """
        first, last = plan.stages[0], plan.stages[-1]
        if not self.graph.tied_elements or first.ranks == last.ranks:
            return ends
        grid = _grid(first, devices)
        size_bytes = self.graph.tied_elements / grid.shape[2] * DTYPE_BYTES[self.execution.accumulation_dtype]
        levels = across(grid, _grid(last, devices), self.fabric)
        at_last = next(place for place, own in enumerate(plan.homes) if own[-1] == len(plan.stages) - 1)
        both, summed = [0, at_last], ends.copy()
        summed[both] = ends[both].max() + wire("all_reduce", levels, self.parameters).seconds(size_bytes)
        return summed

    def durations(self, stages: Sequence[StageTimes], borders: float = 1.0) -> tuple[Floats, Floats, Floats, Floats]:
        """Forward and backward of virtual stages, and the messages of each beside them: outputs on, gradients back."""
        forward, backward = (np.array([getattr(s, f) for s in stages]) for f in ("forward_s", "backward_s"))
        send = borders * np.array([s.send_s for s in stages])
        back = np.roll(send, 1)
        back[0] = 0.0
        (busy, send), (busy_back, back) = self.hiding.around(forward, send), self.hiding.around(backward, back)
        return forward + busy, backward + busy_back, send, back

    def _ends(self, plan: Plan, stages: Sequence[StageTimes], chunks: int, borders: float) -> Floats:
        forward, backward, send, back = self.durations(stages, borders)
        weight = np.array([s.weight_s for s in stages])
        return last_backward_s(forward, backward, plan.micro_batches, plan.schedule, chunks, weight, send, back)

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
            same_tokens=self.execution.same_tokens(
                tensor=grid.shape[2], sequence=plan.sequence_parallel, expert=stage.expert
            ),
        )
        parted: dict[int, float] = {}
        hands_on = index + 1 < len(plan.stages)
        if axes.pair and not alike(stage, plan.stages[index + 1]):
            axes, parted = self._unlike(plan, index, axes)
        rows_of = np.array([replica.micro_batch_rows for replica in stage.replicas])
        each = [
            self._times(plan, stage, rows, device, own, held, expert_tensor, parted.get(rows, 1.0), hands_on=hands_on)
            # whoever is slower may have fewer rows, and whoever computes faster slower links
            for rows in sorted(set(rows_of.tolist()))
            for held in (grid[rows_of == rows].reshape(-1),)
            for device in self.fabric.device_types(held)
            for own in (self._meeting(axes, grid, rows_of == rows, device),)
        ]
        slowest = max(each, key=lambda t: t.forward_s + t.backward_s)
        # they wait for each other before they reduce, and the step for the last update
        most = {name: max(getattr(t, name) for t in each) for name in ("reduce_s", "gather_s", "update_s")}
        return replace(slowest, **most)

    def _meeting(self, axes: Axes, grid: NDArray[np.int64], some: NDArray[np.bool_], device: DeviceType) -> Axes:
        """The axes of `some` of the replicas [data, context, tensor], those that have devices of a type."""
        if len(self.fabric.device_types(grid.reshape(-1))) == 1:
            return axes
        has = [device in self.fabric.device_types(own.reshape(-1)) for own in grid]
        groups = axis_groups(grid[some & has], shard=1, expert=1, expert_tensor=1)
        return replace(axes, **{name: slowest_of(groups[name], self.fabric) for name in ("tensor", "context")})

    def _unlike(self, plan: Plan, index: int, axes: Axes) -> tuple[Axes, dict[int, float]]:
        """The axes with the pairs of ranks that talk behind a stage which the next is cut unlike; and by rows of a
        replica the largest part of them in one message, where messages of one rank do not share its links."""
        stage, devices = plan.stages[index], self.devices(plan)
        every = list(messages(stage, plan.stages[index + 1]))
        pairs = devices[np.array([(message.giver, message.taker) for message in every])]
        rows_of = {rank: replica.micro_batch_rows for replica in stage.replicas for rank in replica.ranks}
        parted: dict[int, float] = {}
        for message in every if self.fabric.flat else ():
            rows = rows_of[message.giver]
            parted[rows] = max(parted.get(rows, 0.0), message.rows / rows)
        apart = pairs[pairs[:, 0] != pairs[:, 1]]
        return replace(axes, pair=slowest_of(apart, self.fabric) if len(apart) else ALONE), parted

    def _times(
        self,
        plan: Plan,
        stage: Stage,
        rows: int,
        device: DeviceType,
        axes: Axes,
        held: NDArray[np.int64],
        expert_tensor: int,
        sent: float,
        *,
        hands_on: bool,
    ) -> StageTimes:
        """The times of replicas with so many rows, on the devices `held` of which some are of the type.

        `sent` is the largest part of its rows that a rank sends another at a border; `hands_on` whether there is one.
        """
        slow = self.fabric.slowest(held)
        degrees = degrees_of_stage(plan, stage, rows, expert_tensor)
        layers = self.graph.layers[slice(*stage.layers)]
        counted = Counter(
            (self.under[policy] if self.under else self, i)
            for policy, *run in stage.policy_runs
            for i in self.graph.layers[slice(*run)]
        )
        loads = [(pricing.load(i, degrees, device), count) for (pricing, i), count in counted.items()]
        replicas = Replicas(
            stage=stage,
            micro_batches=plan.micro_batches,
            axes=axes,
            device=device,
            execution=self.execution,
            parameters=self.parameters,
            host=self.fabric.host(held),
        )
        copied = holds_activations(stage.offload)
        kept = [pricing.kept_bytes(i, degrees) if copied else 0.0 for pricing, i in counted]
        both = [self._layer(load, replicas, slow, size) for (load, _), size in zip(loads, kept, strict=True)]
        counts = list(counted.values())
        forward, backward = (_total([layer[way] for layer in both], counts) for way in (0, 1))
        sets_s = slow * replicas.sets_seconds(loads) if splits_backward(plan.schedule) else 0.0
        last = self.load(layers[-1], degrees, device)
        takes_s = slow * self.taking_seconds(last.border_bytes, device) if hands_on else 0.0
        more_s = slow * replicas.adds_seconds(loads) + sets_s + takes_s
        every = self.execution.recompute.every
        again_s = slow * sum(n * load.passes.again.kernels_s for load, n in loads) / every
        reduce_s, gather_s = replicas.sync_seconds(loads)
        return StageTimes(
            forward_s=forward.total_s,
            backward_s=backward.total_s + more_s + again_s,
            weight_s=slow * replicas.later_seconds(loads) + sets_s,
            compute_s=(forward.kernels_s, backward.kernels_s + more_s),
            again_s=again_s,
            tensor_s=forward.tensor_s + backward.tensor_s,
            context_s=forward.context_s + backward.context_s,
            expert_s=forward.expert_s + backward.expert_s,
            sharded_s=forward.sharded_s + backward.sharded_s,
            send_s=self._send(last, axes, sent, sequence=plan.sequence_parallel),
            reduce_s=reduce_s,
            gather_s=gather_s,
            update_s=slow * replicas.update_seconds(loads),
            offload_s=forward.offload_s + backward.offload_s,
        )

    def taking_seconds(self, border_bytes: float, device: DeviceType) -> float:
        """Copying the gradient of a stage's output, from which its backward starts, as PaddlePaddle does."""
        return moving_seconds(2.0 * border_bytes, 1.0, device) if self.execution.by_tensor else 0.0

    def meeting_seconds(self, devices: NDArray[np.int64]) -> float:
        """What all ranks of a step tell each other: the norm of the gradients and the loss, where each is a call."""
        if not self.execution.by_tensor or len(devices) == 1:
            return 0.0
        (every,), _ = self.fabric.distinct(devices[None])
        return NUMBERS_TOLD * wire("all_reduce", every, self.parameters).fixed_s

    def _layer(
        self, load: LayerLoad, replicas: Replicas, slow: float, copied_bytes: float
    ) -> tuple[PassTimes, PassTimes]:
        """One layer's forward and backward; what is run again counts with its communication, not its kernels.

        Args:
            copied_bytes: of its activations that go to the host and come back.
        """
        passes, every = load.passes, self.execution.recompute.every
        gather_s, reduce_s = replicas.layer_seconds(load)
        forward, own, more = (
            self.hiding.exposed(part, replicas.axes, slow, forward=part is not passes.backward)
            for part in (passes.forward, passes.backward, passes.again)
        )
        tensor_s, context_s, expert_s = (a + b / every for a, b in zip(own, more, strict=True))
        forward_s, backward_s = slow * passes.forward.kernels_s, slow * passes.backward.kernels_s
        # traffic of data runs on while ranks wait for their other groups
        ahead_s = forward_s + sum(forward)
        back_s = backward_s + slow * passes.again.kernels_s / every + tensor_s + context_s + expert_s
        ahead = PassTimes(forward_s, *forward, self.hiding.behind_data(ahead_s, gather_s))
        sharded_s = self.hiding.behind_data(back_s, gather_s + reduce_s)
        back = PassTimes(backward_s, tensor_s, context_s, expert_s, sharded_s)
        again_s, host = slow * passes.again.kernels_s / every, replicas.host
        return ahead.beside(0.0, copied_bytes, host), back.beside(again_s, copied_bytes, host)

    def kept_bytes(self, index: int, degrees: tuple[int, ...]) -> float:
        """What a layer of that block keeps of a micro-batch, on average where not all layers are computed again."""
        key, every = self.cuts.key(index, degrees), self.execution.recompute.every
        if key not in self._kept:
            block = self.block(index, degrees)
            each = [activations(block, self.execution, again=place == 0).kept for place in range(every)]
            self._kept[key] = sum(each) / every
        return self._kept[key]

    def load(self, index: int, degrees: tuple[int, ...], device: DeviceType) -> LayerLoad:
        """A layer of that block under degrees (rows, tensor, sequence, context, expert, expert_tensor, exchange)."""
        key = self.load_key(index, degrees, device)
        if key not in self._loads:
            block = self.block(index, degrees)
            later = later_weights(block, self.execution)
            self._loads[key] = layer_load(block, layer_passes(block, device, self.execution), later)
        return self._loads[key]

    def load_key(self, index: int, degrees: tuple[int, ...], device: DeviceType) -> tuple[object, ...]:
        """What a load depends on."""
        return (*self.cuts.key(index, degrees), device.name)

    def block(self, index: int, degrees: tuple[int, ...]) -> Block:
        """The local block of an index."""
        return self.cuts.block(index, degrees)

    def _send(self, last: LayerLoad, axes: Axes, sent: float, *, sequence: bool) -> float:
        """Handing a layer's output to the next stage, such a part of it to each rank.

        Tensor ranks that hold the same may send a part each and gather the parts behind the border (Narayanan et al.,
        SC 2021, section 4.1); with sequence parallelism each has its own part.
        """
        if not axes.pair:
            return 0.0
        parts = 1 if sequence or not self.execution.border_parts else ranks_of(axes.tensor)
        send_s = wire("send", axes.pair, self.parameters).seconds(sent * last.border_bytes / parts)
        return send_s + (
            wire("all_gather", axes.tensor, self.parameters).seconds(last.border_bytes) if parts > 1 else 0.0
        )


def degrees_of_stage(plan: Plan, stage: Stage, rows: int, expert_tensor: int) -> tuple[int, ...]:
    """What the layers of a stage are cut by: rows, tensor, sequence, context, expert, expert_tensor, exchange."""
    tensor = len(stage.replicas[0].ranks) // stage.context
    way = EXCHANGES.index(stage.exchange) if stage.context > 1 else 0
    return (rows, tensor, int(plan.sequence_parallel), stage.context, stage.expert, expert_tensor, way)


class Unpriced(BadInput):
    """The cost model has no price for a plan that may be legal."""


def _grid(stage: Stage, devices: NDArray[np.int64]) -> NDArray[np.int64]:
    """[data, context, tensor] devices of a stage.

    Raises:
        Unpriced: replicas have other numbers of ranks.
        BadInput: the context degree does not divide them.
    """
    counts = {len(r.ranks) for r in stage.replicas}
    where = f"layers [{stage.layers[0]}, {stage.layers[1]}): replicas of {sorted(counts)} ranks"
    if len(counts) > 1:
        raise Unpriced(f"{where} have a price under 1f1b and fthenb alone, without context, experts and virtual stages")
    if min(counts) % stage.context:
        raise BadInput(f"{where}, context {stage.context}: they must be a multiple of the context degree")
    ranks = np.array([r.ranks for r in stage.replicas])
    grid: NDArray[np.int64] = devices[ranks].reshape(len(stage.replicas), stage.context, -1)
    return grid


def _total(layers: Sequence[PassTimes], counts: Sequence[int]) -> PassTimes:
    """Layers one after the other, each as often as it is there."""
    return PassTimes(*(sum(n * s for n, s in zip(counts, field, strict=True)) for field in zip(*layers, strict=True)))
