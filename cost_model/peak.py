"""The peak of memory on one rank over a step: at which moment it is reached, and what holds it.

A rank's parameters lie there all step long; activations grow until the first backward, the loss has tensors of its own,
an update works on copies. What an allocator reserves and a process holds beyond what is allocated is added where it is
asked for.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import Cluster, DeviceType
from nebula.cost_model.activations import PRODUCTS, Activations
from nebula.cost_model.eager_peak import eager_moments
from nebula.cost_model.execution import Execution
from nebula.cost_model.held import Held, has_own_sums
from nebula.cost_model.moments import STEP, Summing, Totals, held_all_along, moments
from nebula.cost_model.offload import holds_activations, staged_bytes
from nebula.graph.values import Block
from nebula.plan.values import Sharding, StageMemory

Floats = NDArray[np.float64]

FRAGMENTATION = 0.36
"""Of what is allocated tensor by tensor (weights, gradients, activations), what the allocator holds beside it; what
lies there for a moment only is served from it. Fitted; plausible between 0 and 0.5."""

CONTEXT_BYTES = 0.7 * 2**30
"""Of a process on a device: driver, kernels and the libraries' workspace. Fitted; plausible 0.4 to 1.6 GiB."""

COMMUNICATOR_BYTES = 0.4 * 2**30
"""Of the buffers of one communicator, outside of the allocator. Fitted; plausible 0.1 to 1 GiB."""


class Counted(enum.Enum):
    """What a measurement of memory counts."""

    ALLOCATED = "allocated"
    RESERVED = "reserved"
    PROCESS = "process"
    EMULATED = "emulated"


INTERVALS = {
    Counted.ALLOCATED: (0.92, 1.09),
    Counted.RESERVED: (0.88, 1.13),
    Counted.PROCESS: (0.88, 1.13),
    Counted.EMULATED: (0.92, 1.09),
}
"""Of a peak, within which nine in ten measured ones lie: what is allocated follows from the operators, what is reserved
from an allocator's history."""


def tensors_alone(device: DeviceType) -> bool:
    """Whether tensors alone fill its memory: emulated devices and plain CPUs have no driver and no device allocator."""
    return device.emulated or device.kind == "cpu"


def counted_on(cluster: Cluster) -> Counted:
    """What fills the memory of the devices."""
    emulated = any(group.device.emulated for group in cluster.groups)
    return Counted.EMULATED if emulated or all(tensors_alone(g.device) for g in cluster.groups) else Counted.PROCESS


def fragmentation(counted: Counted) -> float:
    """Of what is allocated, how much more the allocator holds."""
    return 0.0 if counted in (Counted.ALLOCATED, Counted.EMULATED) else FRAGMENTATION


def process_bytes(counted: Counted, communicators: int) -> float:
    """What a process holds beside the allocator."""
    return CONTEXT_BYTES + communicators * COMMUNICATOR_BYTES if counted is Counted.PROCESS else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLoad:
    """What one layer brings to a rank.

    Attributes:
        elements: trainable elements, those of experts apart.
        expert_elements: those of experts.
        weights: for each weight of a product its name, its shape and the bytes of one gradient; of experts of one.
        activations: of one micro-batch.
        output_bytes: of one micro-batch, what goes to the next layer.
        widest_bytes: the largest gradient of one weight on its way; of experts with those of each, which are stacked.
    """

    elements: float
    expert_elements: float
    weights: tuple[tuple[str, tuple[int, ...], float], ...]
    activations: Activations
    output_bytes: float
    widest_bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Layers of one virtual stage.

    Attributes:
        layers: in order.
        flight: micro-batches whose activations lie in memory together.
        sends: whether its output goes to another stage and is kept until the gradient comes.
        offload: what lies in the host's memory, one of OFFLOAD.
        received_bytes: what came from the stage before, of one micro-batch.
        waiting: of those in flight, how many wait for the gradients of weights alone.
        begun: micro-batches in flight on each chunk of the device when the first backward of this one begins; empty:
            of a chunk alone.
    """

    layers: tuple[LayerLoad, ...]
    flight: int
    sends: bool = False
    offload: str = "none"
    received_bytes: float = 0.0
    waiting: int = 0
    begun: tuple[int, ...] = ()

    @property
    def kept_bytes(self) -> float:
        """What one micro-batch leaves from its forward to its backward, the output that was sent included."""
        kept = 0.0 if holds_activations(self.offload) else sum(layer.activations.kept for layer in self.layers)
        return kept + (self.layers[-1].output_bytes if self.sends else 0.0)

    @property
    def host_bytes(self) -> float:
        """What all micro-batches in flight have in the host's memory."""
        if not holds_activations(self.offload):
            return 0.0
        return self.flight * sum(layer.activations.kept for layer in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What holds for all ranks of a stage.

    Attributes:
        execution: how the step is carried out.
        sharding: stage, and degree among ranks with equal parameters.
        expert_sharding: likewise, of experts.
        replicas: ranks that add their gradients.
        expert_replicas: ranks that add those of the same experts.
        micro_batches: of one step.
        communicators: groups of ranks that a rank is in.
        counted: what the measurement counts.
        tied_elements: that the rank has twice in its layers and once in memory.
        limit_bytes: what may be filled.
        offload: what of the parameters lies in the host's memory, one of OFFLOAD.
        splits: whether gradients of weights come later than those of inputs.
        summing: how gradients are copied that replicas sum, where PaddlePaddle does it tensor by tensor.
    """

    execution: Execution
    sharding: Sharding
    expert_sharding: Sharding
    replicas: int = 1
    expert_replicas: int = 1
    micro_batches: int = 1
    communicators: int = 0
    counted: Counted = Counted.ALLOCATED
    tied_elements: float = 0.0
    limit_bytes: float = 0.0
    offload: str = "none"
    splits: bool = False
    summing: Summing = Summing.JOINED

    @property
    def adds_nothing(self) -> bool:
        """Whether the first gradients are the sums, so that none lie there while they are made."""
        return self.counted is Counted.ALLOCATED and self.micro_batches == 1 and not has_own_sums(self.execution)

    @property
    def eager(self) -> bool:
        """Whether PaddlePaddle's executor runs it where tensors alone count."""
        plain = self.sharding.stage < 2 and self.offload == "none"
        return plain and self.counted is Counted.EMULATED and self.execution.by_tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The peak of a rank.

    Attributes:
        memory: by what holds it.
        moment: `loss`, `last backward`, `optimizer step` or `gather`.
        counted: what of it a measurement would count.
    """

    memory: StageMemory
    moment: str
    counted: Counted = Counted.ALLOCATED

    @property
    def interval_bytes(self) -> tuple[float, float]:
        """Low and high end of what may be measured."""
        low, high = INTERVALS[self.counted]
        return low * self.bytes, high * self.bytes

    @property
    def bytes(self) -> float:
        """The whole."""
        return self.memory.total_bytes

    @property
    def holder(self) -> str:
        """What holds most of it: `weights`, `activations`, ..."""
        return max(HOLDERS, key=lambda holder: holder_bytes(self.memory, holder))


HOLDERS = tuple(
    name.removesuffix("_bytes") for name in StageMemory.__slots__ if not name.endswith(("limit_bytes", "host_bytes"))
)
"""What holds a device's memory, in the order in which it is shown."""


def holder_bytes(memory: StageMemory, holder: str) -> float:
    """What one of HOLDERS has of a stage's memory."""
    found: float = getattr(memory, f"{holder}_bytes")
    return found


def layer_load(block: Block, activations: Activations, expert_parts: int = 1) -> LayerLoad:
    """What a local block brings.

    Args:
        block: as one rank computes it.
        activations: of it.
        expert_parts: ranks over which each expert of the block is cut, where the block holds whole ones.
    """
    experts = {op.inputs[1] for op in block.operators if op.kind == "grouped_matmul"}
    factors = {name for op in block.operators if op.kind in PRODUCTS for name in op.inputs}
    return LayerLoad(
        elements=float(sum(t.size for t in block.parameters if t.name not in experts)),
        expert_elements=sum(t.size for t in block.parameters if t.name in experts) / expert_parts,
        weights=tuple(
            (t.name, t.shape, t.bytes / (t.shape[0] * expert_parts if t.name in experts else 1.0))
            for t in block.parameters
            if t.name in factors
        ),
        activations=activations,
        output_bytes=float(block.output_bytes),
        widest_bytes=float(max((t.bytes * (1 + (t.name in experts)) for t in block.parameters), default=0)),
    )


def rank_peak(chunks: Sequence[Chunk], setting: Setting) -> Peak:
    """The peak of a rank that holds these chunks."""
    totals = _totals(chunks, setting)
    own = held_all_along(totals, setting)
    host_bytes = own.host + sum(chunk.host_bytes for chunk in chunks)
    if setting.eager:
        found = eager_moments(chunks, setting, own, totals.staged)
        name = max(found, key=lambda m: found[m].total_bytes)
        return Peak(memory=replace(found[name], host_bytes=host_bytes), moment=name, counted=setting.counted)
    return stage_peak(totals, setting, host_bytes=host_bytes)


def stage_peak(totals: Totals[float], setting: Setting, host_bytes: float = 0.0) -> Peak:
    """The peak of a rank whose layers add up to that.

    Args:
        totals: of its layers.
        setting: of the rank.
        host_bytes: what it has in the host's memory.
    """
    own = held_all_along(totals, setting)
    found = {
        name: StageMemory(
            weights_bytes=own.weights,
            gradients_bytes=moment.gradients,
            optimizer_bytes=own.states,
            activations_bytes=moment.activations,
            workspace_bytes=moment.workspace,
            logits_bytes=moment.logits,
            buffers_bytes=moment.buffers,
            limit_bytes=setting.limit_bytes,
            host_bytes=host_bytes,
        )
        for name, moment in moments(totals, setting, own).items()
    }
    name = max(found, key=lambda m: found[m].total_bytes)
    if setting.counted is Counted.ALLOCATED:
        return Peak(memory=found[name], moment=name, counted=setting.counted)
    reserved = {n: _reserved(m, own, setting) for n, m in found.items() if n != STEP or setting.execution.by_tensor}
    busiest = max(reserved, key=lambda m: reserved[m].total_bytes)
    return Peak(
        memory=reserved[busiest],
        moment=busiest if setting.execution.by_tensor else name,
        counted=setting.counted,
    )


class Line(NamedTuple):
    """Bytes that a device holds at least: so many, and so many more for each micro-batch in flight, up to `most`."""

    held: Floats
    kept: Floats
    most: float = math.inf

    def of(self, which: slice) -> Line:
        """Of some runs."""
        return Line(self.held[which], self.kept[which], self.most)

    def at(self, flights: float | Floats | NDArray[np.int64]) -> Floats:
        """With so many in flight."""
        return self.held + np.minimum(flights, self.most) * self.kept

    def room(self, limit_bytes: float) -> Floats:
        """How many in flight leave it at the limit."""
        room: Floats = (limit_bytes - self.held) / np.maximum(self.kept, 1.0)
        return room if self.most == math.inf else np.where(self.at(self.most) <= limit_bytes, math.inf, room)


def stage_lines(totals: Totals[Floats], setting: Setting) -> tuple[Line, ...]:
    """Lines whose greatest is the peak of ranks that hold one run of layers each and update tensor by tensor.

    Args:
        totals: of the runs, activations and logits of one micro-batch.
        setting: of the ranks; what a process holds counts.
    """
    own = held_all_along(totals, setting)
    always = own.states + process_bytes(setting.counted, setting.communicators)
    found = moments(totals, setting, own)
    lines = [
        Line(
            always + own.weights + each.gradients + each.buffers + each.workspace,
            each.activations + each.logits,
        )
        for each in found.values()
    ]
    share, passing = 1.0 + fragmentation(setting.counted), found["last backward"]
    lasting = own.weights + passing.gradients + passing.buffers
    return (*lines, Line(always + share * lasting, share * passing.activations))


def _totals(chunks: Sequence[Chunk], setting: Setting) -> Totals[float]:
    layers = [layer for chunk in chunks for layer in chunk.layers]
    losses = [(c.flight, layer.activations) for c in chunks for layer in c.layers if layer.activations.logits]
    return Totals(
        elements=sum(layer.elements for layer in layers),
        expert_elements=sum(layer.expert_elements for layer in layers),
        widest_elements=max((layer.elements for layer in layers), default=0.0),
        activations=sum(chunk.flight * chunk.kept_bytes for chunk in chunks),
        weight_gradients=_weight_gradients(chunks, setting),
        passing=max((a.restored + a.passing for a in (x.activations for x in layers) if not a.logits), default=0.0),
        loss_passing=max((loss.passing for _, loss in losses), default=0.0),
        logits=max((flight * loss.logits for flight, loss in losses), default=0.0),
        staged=_staged(chunks),
    )


def _staged(chunks: Sequence[Chunk]) -> float:
    """What of offloaded activations is on its way."""
    offloaded = [chunk for chunk in chunks if holds_activations(chunk.offload)]
    widest = max((layer.activations.kept for chunk in offloaded for layer in chunk.layers), default=0.0)
    return staged_bytes(sum(chunk.host_bytes for chunk in offloaded), widest)


def _weight_gradients(chunks: Sequence[Chunk], setting: Setting) -> float:
    """Gradients of weights on their way to the sums: where sums have another dtype one of each kind, else the largest.

    Layers that are alike share it: Transformer Engine keeps one for each shape of weights.
    """
    each: Mapping[tuple[str, tuple[int, ...]], float] = {
        (name, shape): size for chunk in chunks for layer in chunk.layers for name, shape, size in layer.weights
    }
    own = has_own_sums(setting.execution) and not setting.execution.separate_sums and setting.sharding.stage < 2
    return sum(each.values()) if own else max(each.values(), default=0.0)


def _reserved(memory: StageMemory, own: Held[float], setting: Setting) -> StageMemory:
    """The memory with what is reserved beyond it, and with what a process holds beside the allocator.

    An allocator splits what it reserved, so that tensors of a moment are served from what lies idle between the others;
    the flat copies of an update are too large for that and come on top.
    """
    lasting = memory.weights_bytes + memory.gradients_bytes + memory.activations_bytes + memory.buffers_bytes
    passing = memory.workspace_bytes + memory.logits_bytes
    return replace(
        memory,
        workspace_bytes=memory.workspace_bytes + own.update,
        fragmentation_bytes=max(0.0, fragmentation(setting.counted) * lasting - passing),
        context_bytes=process_bytes(setting.counted, setting.communicators),
    )
