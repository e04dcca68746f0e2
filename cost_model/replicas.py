"""What replicas of a stage share under an execution: gradients, optimizer states, parameters; and the update.

Shares are equal slices, reduced and gathered by rings, as in ZeRO (Rajbhandari et al., SC 2020, section 5) and in
Megatron's distributed optimizer; fleet, which deals whole tensors to owners, has sharding.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nebula.cluster.topology import NO_HOST, HostShare, Level
from nebula.cluster.values import DeviceType
from nebula.cost_model.communication import Levels, ranks_of
from nebula.cost_model.compute import moving_seconds
from nebula.cost_model.execution import Execution
from nebula.cost_model.offload import holds_states, update_seconds
from nebula.cost_model.passes import Passes
from nebula.cost_model.step_parameters import StepParameters
from nebula.cost_model.traffic import Axes, wire
from nebula.graph.experts import expert_parameters
from nebula.graph.values import DTYPE_BYTES, Block, Collective
from nebula.plan.values import Stage


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


def layer_load(block: Block, passes: Passes) -> LayerLoad:
    """What a local block adds that takes so long."""
    experts = expert_parameters(block)
    return LayerLoad(
        passes=passes,
        elements=float(sum(t.size for t in block.parameters if t.name not in experts)),
        expert_elements=float(sum(t.size for t in block.parameters if t.name in experts)),
        border_bytes=float(block.output_bytes),
    )


Counted = Sequence[tuple[LayerLoad, int]]
"""Layers of a stage that differ, each with how many there are."""


Wires = tuple[Collective, ...]


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """The replicas of one stage.

    Attributes:
        stage: its sharding and context.
        micro_batches: of one step.
        axes: where its ranks meet.
        device: what runs it.
        execution: how.
        parameters: of the step model.
        host: what the device has of it; heeded where the stage offloads.
    """

    stage: Stage
    micro_batches: int
    axes: Axes
    device: DeviceType
    execution: Execution
    parameters: StepParameters
    host: HostShare = NO_HOST

    def layer_seconds(self, load: LayerLoad) -> tuple[float, float]:
        """Gathering a layer's parameters, and reducing its gradients, in every micro-batch: under stage 3."""
        gathers, reduces = self.layer_wires(load)
        return self._seconds(gathers), self._seconds(reduces)

    def layer_wires(self, load: LayerLoad) -> tuple[Wires, Wires]:
        """The collectives of that."""
        if self.stage.sharding.stage < 3:
            return (), ()
        gathers = (
            Collective(kind="all_gather", axis="shard", bytes=load.elements * self._gather_bytes),
            Collective(kind="all_gather", axis="expert_shard", bytes=load.expert_elements * self._gather_bytes),
        )
        return gathers, self._reduces(load.elements, load.expert_elements)

    def adds_seconds(self, loads: Counted) -> float:
        """Adding a micro-batch's gradients to the sums of those before, on average over the micro-batches of a step.

        Under stage 3 what is added is reduced already.
        """
        width = 2 * DTYPE_BYTES[self.execution.accumulation_dtype] + DTYPE_BYTES[self.execution.compute_dtype]
        added = sum(self._owned(loads) if self.stage.sharding.stage == 3 else _elements(loads))
        added *= (self.micro_batches - 1) / self.micro_batches
        return moving_seconds(added * width, 0.0, self.device)

    def sync_seconds(self, loads: Counted) -> tuple[float, float]:
        """Gradients reduced and parameters gathered once a step, whatever hides them."""
        reduces, gathers = self.sync_wires(loads)
        return self._seconds(reduces), self._seconds(gathers)

    def sync_wires(self, loads: Counted) -> tuple[Wires, Wires]:
        """The collectives of that; axis `replicas` is all ranks that hold the same."""
        dense, experts = _elements(loads)
        if self.stage.sharding.stage == 3:
            return (), ()
        if self.stage.sharding.stage == 0:
            every = Collective(kind="all_reduce", axis="replicas", bytes=dense * self._reduce_bytes)
            return (
                every,
                Collective(kind="all_reduce", axis="expert_shard", bytes=experts * self._reduce_bytes),
            ), ()
        gathers = (
            Collective(kind="all_gather", axis="shard", bytes=dense * self._gather_bytes),
            Collective(kind="all_gather", axis="expert_shard", bytes=experts * self._gather_bytes),
        )
        return self._reduces(dense, experts), gathers

    def _reduces(self, dense: float, experts: float) -> Wires:
        """Gradients of so many elements to those that own them, then over the groups that own the same."""
        width = self._reduce_bytes
        return (
            Collective(kind="reduce_scatter", axis="shard", bytes=dense * width),
            Collective(kind="all_reduce", axis="outer", bytes=dense * width / self._degree),
            Collective(kind="reduce_scatter", axis="expert_shard", bytes=experts * width),
        )

    def update_seconds(self, loads: Counted) -> float:
        """The clip of the global norm and the optimizer's update of what a rank owns.

        Gradients are read for the norm, read and written by the clip and read again; states are read and written, and
        so is the master copy, from which the weights are written.
        """
        e = self.execution
        owned = sum(self._owned(loads))
        if holds_states(self.stage.offload):
            return update_seconds(owned, e, self.device, self.host)
        gradient, weight = DTYPE_BYTES[e.accumulation_dtype], DTYPE_BYTES[e.compute_dtype]
        copy = 2 * DTYPE_BYTES[e.master_dtype] + weight if e.master_dtype else 2 * weight
        width = 4 * gradient + 2 * DTYPE_BYTES[e.moments_dtype] * e.moments + copy
        return moving_seconds(owned * width, 0.0, self.device)

    def _seconds(self, wires: Wires) -> float:
        return sum(
            wire(each.kind, self._levels(each.axis), self.parameters).seconds(each.bytes)
            for each in wires
            if each.bytes
        )

    def _levels(self, axis: str) -> Levels:
        return _joined(self.axes.shard, self.axes.outer) if axis == "replicas" else self.axes.of(axis)

    def _owned(self, loads: Counted) -> tuple[float, float]:
        """Elements whose states the rank keeps, and those of experts: its share of what others hold as well."""
        dense, experts = _elements(loads)
        if not self.stage.sharding.stage:
            return dense, experts
        return dense / self._degree, experts / ranks_of(self.axes.expert_shard)

    @cached_property
    def _degree(self) -> int:
        """Ranks over which states are cut: those of a context group share in it."""
        return self.stage.sharding.degree * self.stage.context

    @property
    def _gather_bytes(self) -> int:
        return DTYPE_BYTES[self.execution.gather_dtype]

    @property
    def _reduce_bytes(self) -> int:
        return DTYPE_BYTES[self.execution.reduction_dtype]


def _elements(loads: Counted) -> tuple[float, float]:
    """Elements that all replicas hold, and those of experts."""
    return sum(n * load.elements for load, n in loads), sum(n * load.expert_elements for load, n in loads)


def _joined(inner: Levels, outer: Levels) -> Levels:
    """Where the ranks of both groups meet together."""
    merged: dict[str, Level] = {}
    for level in (*inner, *outer):
        known = merged.get(level.name)
        merged[level.name] = replace(level, members=level.members * (known.members if known else 1))
    return Levels(merged.values())
