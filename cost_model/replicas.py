"""What replicas of a stage share under an execution: gradients, optimizer states, parameters; and the update.

Shares are equal slices, reduced and gathered by rings, as in ZeRO (Rajbhandari et al., SC 2020, section 5) and in
Megatron's distributed optimizer; fleet, which deals whole tensors to owners, has sharding.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from nebula.cluster.topology import NO_HOST, HostShare, Level
from nebula.cluster.values import DeviceType
from nebula.cost_model.communication import Levels, one_ring, ranks_of
from nebula.cost_model.compute import moving_seconds
from nebula.cost_model.execution import Execution
from nebula.cost_model.offload import holds_states, update_seconds
from nebula.cost_model.passes import Passes
from nebula.cost_model.step_parameters import StepParameters
from nebula.cost_model.traffic import Axes, wire
from nebula.graph.experts import expert_parameters
from nebula.graph.values import DTYPE_BYTES, Block, Collective, Tensor
from nebula.plan.values import Stage


class Weights(NamedTuple):
    """Trainable weights on one rank.

    Attributes:
        elements: of those that all replicas hold.
        expert_elements: of those of experts.
        tensors: how many tensors all replicas hold.
        expert_tensors: how many are of experts.
    """

    elements: float = 0.0
    expert_elements: float = 0.0
    tensors: float = 0.0
    expert_tensors: float = 0.0


NO_WEIGHTS = Weights()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLoad:
    """What a layer adds to a stage, for one micro-batch.

    Attributes:
        passes: its kernels and collectives.
        weights: all of its weights.
        later: of these, those whose gradients a split backward leaves for later.
        border_bytes: what goes on to the next layer.
    """

    passes: Passes
    weights: Weights
    later: Weights = NO_WEIGHTS
    border_bytes: float


def layer_load(block: Block, passes: Passes, later: frozenset[str]) -> LayerLoad:
    """What a local block adds that takes so long, of whose weights a split backward leaves some for later."""
    every, experts = block.parameters, expert_parameters(block)
    return LayerLoad(
        passes=passes,
        weights=_weights(every, experts),
        later=_weights([t for t in every if t.name in later], experts),
        border_bytes=float(block.output_bytes),
    )


def _weights(some: Sequence[Tensor], experts: frozenset[str]) -> Weights:
    dense, of_experts = ([t.size for t in some if (t.name in experts) is is_one] for is_one in (False, True))
    return Weights(float(sum(dense)), float(sum(of_experts)), float(len(dense)), float(len(of_experts)))


UPDATE_KERNELS = 3
"""Of each tensor, where it is handled by itself: for the norm of its gradient, the clip and the update."""

Counted = Sequence[tuple[LayerLoad, int]]
"""Layers of a stage that differ, each with how many there are."""


Wires = tuple[Collective, ...]
Sends = tuple[tuple[Collective, int], ...]
"""Collectives, each with how many there are in a row."""


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
        return self._seconds(_once(gathers)), self._seconds(_once(reduces))

    def layer_wires(self, load: LayerLoad) -> tuple[Wires, Wires]:
        """The collectives of that."""
        if self.stage.sharding.stage < 3:
            return (), ()
        gathers = (
            Collective(kind="all_gather", axis="shard", bytes=load.weights.elements * self._gather_bytes),
            Collective(kind="all_gather", axis="expert_shard", bytes=load.weights.expert_elements * self._gather_bytes),
        )
        return gathers, self._reduces(load.weights.elements, load.weights.expert_elements)

    def adds_seconds(self, loads: Counted) -> float:
        """Adding a micro-batch's gradients to the sums of those before, on average over the micro-batches of a step.

        Under stage 3 what is added is reduced already.
        """
        return self._adds_seconds(_sum(loads, "weights"))

    def later_seconds(self, loads: Counted) -> float:
        """Of a backward, what a split one leaves for later: kernels that give gradients of weights, and adding them."""
        kernels_s = sum(n * load.passes.backward.later_s for load, n in loads)
        return kernels_s + self._adds_seconds(_sum(loads, "later"))

    def sets_seconds(self, loads: Counted) -> float:
        """What comes to that where the first gradient of a step is copied to where further ones are added.

        PaddlePaddle copies what is set as a gradient; on average over the micro-batches of a step.
        """
        weights = _sum(loads, "later")
        moved_bytes = 2 * DTYPE_BYTES[self.execution.accumulation_dtype] * sum(weights[:2])
        launches = self._launches(sum(weights[2:]))
        return moving_seconds(moved_bytes, launches, self.device) / self.micro_batches if launches else 0.0

    def _adds_seconds(self, weights: Weights) -> float:
        width = 2 * DTYPE_BYTES[self.execution.accumulation_dtype] + DTYPE_BYTES[self.execution.compute_dtype]
        added = sum(self._owned(weights)[:2] if self.stage.sharding.stage == 3 else weights[:2])
        launches = self._launches(sum(weights[2:]))
        again = (self.micro_batches - 1) / self.micro_batches
        return again * moving_seconds(added * width, launches, self.device)

    def _launches(self, tensors: float) -> float:
        """Kernels of so many tensors where each has its own; others are launched together, in none that count."""
        return tensors if self.execution.by_tensor else 0.0

    def sync_seconds(self, loads: Counted) -> tuple[float, float]:
        """Gradients reduced and parameters gathered once a step, whatever hides them, with the copies around them."""
        (reduces, gathers), (reduced_s, gathered_s) = self._sync_sends(loads), self._copies_seconds(loads)
        return self._seconds(reduces) + reduced_s, self._seconds(gathers) + gathered_s

    def _copies_seconds(self, loads: Counted) -> tuple[float, float]:
        """Copies around what is reduced and what is gathered, where weights are handled tensor by tensor.

        Gradients are joined to one array, which is parted again and copied back, each a read and a write; under
        sharding stage 1 at their owner alone. Owners then send their weights likewise to the others.
        """
        stage, alone = self.stage, not self.axes.shard and not self.axes.outer
        if not self.execution.by_tensor or alone or stage.sharding.stage > 1:
            return 0.0, 0.0
        weights = _sum(loads, "weights")
        elements, tensors = sum(weights[:2]), sum(weights[2:])
        own = 1.0 / self._degree if stage.sharding.stage == 1 else 1.0
        to_owner = 1.0 if self.axes.outer else own
        reduced_s = moving_seconds((2 + 4 * to_owner) * elements * self._reduce_bytes, to_owner * tensors, self.device)
        if stage.sharding.stage == 0:
            return reduced_s, 0.0
        moved_bytes = (2 + 4 * (1 - own)) * elements * self._gather_bytes
        return reduced_s, moving_seconds(moved_bytes, (1 - own) * tensors, self.device)

    def sync_wires(self, loads: Counted) -> tuple[Wires, Wires]:
        """The collectives of that; axis `replicas` is all ranks that hold the same."""
        reduces, gathers = (
            tuple(collective for collective, count in sends for _ in range(count)) for sends in self._sync_sends(loads)
        )
        return reduces, gathers

    def _sync_sends(self, loads: Counted) -> tuple[Sends, Sends]:
        """The same, each with how many of it there are."""
        dense, experts, *_ = _sum(loads, "weights")
        if self.stage.sharding.stage == 3:
            return (), ()
        if self.stage.sharding.stage == 0:
            every = Collective(kind="all_reduce", axis="replicas", bytes=dense * self._reduce_bytes)
            of_experts = Collective(kind="all_reduce", axis="expert_shard", bytes=experts * self._reduce_bytes)
            return _once((every, of_experts)), ()
        if self.execution.by_tensor and self.stage.sharding.stage == 1:
            return self._to_owners(dense, experts)
        gathers = (
            Collective(kind="all_gather", axis="shard", bytes=dense * self._gather_bytes),
            Collective(kind="all_gather", axis="expert_shard", bytes=experts * self._gather_bytes),
        )
        return _once(self._reduces(dense, experts)), _once(gathers)

    def _to_owners(self, dense: float, experts: float) -> tuple[Sends, Sends]:
        """Gradients to the owners of whole tensors, or to all where not all replicas share states, and weights back."""

        def each(kind: str, axis: str, size_bytes: float, owners: int) -> Sends:
            return ((Collective(kind=kind, axis=axis, bytes=size_bytes / owners), owners),)

        same = ranks_of(self.axes.expert_shard)
        reduced = (
            each("all_reduce", "replicas", dense * self._reduce_bytes, 1)
            if self.axes.outer
            else each("reduce", "shard", dense * self._reduce_bytes, self._degree)
        )
        gathers = each("broadcast", "shard", dense * self._gather_bytes, self._degree)
        gathers += each("broadcast", "expert_shard", experts * self._gather_bytes, same)
        return (*reduced, *each("reduce", "expert_shard", experts * self._reduce_bytes, same)), gathers

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
        weights = self._owned(_sum(loads, "weights"))
        owned = sum(weights[:2])
        if holds_states(self.stage.offload):
            return update_seconds(owned, e, self.device, self.host)
        gradient, weight = DTYPE_BYTES[e.accumulation_dtype], DTYPE_BYTES[e.compute_dtype]
        copy = 2 * DTYPE_BYTES[e.master_dtype] + weight if e.master_dtype else 2 * weight
        width = 4 * gradient + 2 * DTYPE_BYTES[e.moments_dtype] * e.moments + copy
        return moving_seconds(owned * width, UPDATE_KERNELS * self._launches(sum(weights[2:])), self.device)

    def _seconds(self, sends: Sends) -> float:
        return sum(
            count * wire(one.kind, self._levels(one.axis), self.parameters).seconds(one.bytes)
            for one, count in sends
            if one.bytes
        )

    def _levels(self, axis: str) -> Levels:
        if axis != "replicas":
            return self.axes.of(axis)
        joined = _joined(self.axes.shard, self.axes.outer)
        return one_ring(joined, ranks_of(joined)) if self.device.emulated else joined

    def _owned(self, weights: Weights) -> Weights:
        """Of weights those whose states the rank keeps: its share of what others hold as well."""
        if not self.stage.sharding.stage:
            return weights
        # stage 3 cuts each tensor
        shares = self._degree, ranks_of(self.axes.expert_shard)
        of_tensors = (1, 1) if self.stage.sharding.stage == 3 else shares
        return Weights(*(held / share for held, share in zip(weights, (*shares, *of_tensors), strict=True)))

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


def _once(wires: Wires) -> Sends:
    return tuple((one, 1) for one in wires)


def _sum(loads: Counted, which: str) -> Weights:
    """The `weights` of layers, or those that they leave for `later`."""
    held: list[tuple[Weights, int]] = [(getattr(load, which), n) for load, n in loads]
    return Weights(*(sum(n * each[i] for each, n in held) for i in range(len(Weights._fields))))


def _joined(inner: Levels, outer: Levels) -> Levels:
    """Where the ranks of both groups meet together."""
    merged: dict[str, Level] = {}
    for level in (*inner, *outer):
        known = merged.get(level.name)
        merged[level.name] = replace(level, members=level.members * (known.members if known else 1))
    return Levels(merged.values())
