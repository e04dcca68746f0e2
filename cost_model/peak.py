"""The peak of memory on one rank over a step: at which moment it is reached, and what holds it.

A rank's parameters lie there all step long; activations grow until the first backward, the loss has tensors of its own,
an update works on copies. What an allocator reserves and a process holds beyond what is allocated is added where it is
asked for.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nebula.cluster.values import Cluster
from nebula.cost_model.activations import PRODUCTS, Activations
from nebula.cost_model.eager_peak import eager_moments
from nebula.cost_model.execution import Execution
from nebula.cost_model.held import Held, has_own_sums, held, held_beside_host
from nebula.cost_model.offload import holds_activations, holds_states, staged_bytes
from nebula.graph.values import DTYPE_BYTES, Block
from nebula.plan.values import Sharding, StageMemory

FRAGMENTATION = 0.36
"""Of what is allocated tensor by tensor (weights, gradients, activations), what the allocator holds beside it; what
lies there for a moment only is served from it. Fitted; plausible between 0 and 0.5."""

CONTEXT_BYTES = 0.7 * 2**30
"""Of a process on a device: driver, kernels and the libraries' workspace. Fitted; plausible 0.4 to 1.6 GiB."""

COMMUNICATOR_BYTES = 0.4 * 2**30
"""Of the buffers of one communicator, outside of the allocator. Fitted; plausible 0.1 to 1 GiB."""

STEP = "optimizer step"
"""The moment when activations are gone and the update works."""

OWNER_ELEMENTS = 2**23
"""Elements of the buffer in which stage 2 collects gradients for one owner (fleet, PaddlePaddle 3.3.1)."""


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


def counted_on(cluster: Cluster) -> Counted:
    """What fills the memory of devices: tensors alone of emulated ones, which have no driver and no libraries."""
    return Counted.EMULATED if any(group.device.emulated for group in cluster.groups) else Counted.PROCESS


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
        widest_bytes: the largest gradient of one weight.
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
    """

    layers: tuple[LayerLoad, ...]
    flight: int
    sends: bool = False
    offload: str = "none"
    received_bytes: float = 0.0

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
        micro_batches: of one step.
        communicators: groups of ranks that a rank is in.
        counted: what the measurement counts.
        tied_elements: that the rank has twice in its layers and once in memory.
        limit_bytes: what may be filled.
        offload: what of the parameters lies in the host's memory, one of OFFLOAD.
        splits: whether gradients of weights come later than those of inputs.
    """

    execution: Execution
    sharding: Sharding
    expert_sharding: Sharding
    replicas: int = 1
    micro_batches: int = 1
    communicators: int = 0
    counted: Counted = Counted.ALLOCATED
    tied_elements: float = 0.0
    limit_bytes: float = 0.0
    offload: str = "none"
    splits: bool = False

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
        widest_bytes=float(max((t.bytes for t in block.parameters), default=0)),
    )


def rank_peak(chunks: Sequence[Chunk], setting: Setting) -> Peak:
    """The peak of a rank that holds these chunks."""
    own = _held(chunks, setting)
    moments = eager_moments(chunks, setting, own, _staged(chunks)) if setting.eager else _moments(chunks, setting, own)
    name = max(moments, key=lambda m: moments[m].total_bytes)
    if setting.eager or setting.counted is Counted.ALLOCATED:
        return Peak(memory=moments[name], moment=name, counted=setting.counted)
    busiest = max((m for n, m in moments.items() if n != STEP), key=lambda m: m.total_bytes)
    return Peak(memory=_reserved(busiest, own, setting), moment=name, counted=setting.counted)


def _held(chunks: Sequence[Chunk], setting: Setting) -> Held:
    layers = [layer for chunk in chunks for layer in chunk.layers]
    plain = sum(layer.elements for layer in layers) - setting.tied_elements
    experts = sum(layer.expert_elements for layer in layers)
    of = held_beside_host if holds_states(setting.offload) else held
    return of(plain, setting.execution, setting.sharding) + of(experts, setting.execution, setting.expert_sharding)


def _base(chunks: Sequence[Chunk], setting: Setting, own: Held) -> StageMemory:
    """What lies there in every moment between the first forward and the update."""
    return StageMemory(
        weights_bytes=own.weights,
        gradients_bytes=own.gradients,
        optimizer_bytes=own.states,
        activations_bytes=sum(chunk.flight * chunk.kept_bytes for chunk in chunks),
        workspace_bytes=_weight_gradients(chunks, setting),
        buffers_bytes=_buffers(chunks, setting, own) + _staged(chunks),
        limit_bytes=setting.limit_bytes,
        host_bytes=own.host + sum(chunk.host_bytes for chunk in chunks),
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


def _buffers(chunks: Sequence[Chunk], setting: Setting, own: Held) -> float:
    """What communication of gradients and parameters holds."""
    stage, width = setting.sharding.stage, DTYPE_BYTES[setting.execution.compute_dtype]
    if stage == 3:
        widest = max((layer.elements for chunk in chunks for layer in chunk.layers), default=0.0)
        # the layer at work and the one that is fetched ahead
        return 2.0 * width * widest
    if stage == 2:
        owners = setting.sharding.degree
        elements = sum(layer.elements for chunk in chunks for layer in chunk.layers)
        return width * (owners - 1) * min(elements / owners, float(OWNER_ELEMENTS))
    if stage == 0 and setting.replicas > 1 and not has_own_sums(setting.execution):
        # sums of their own are reduced where they lie, others are copied into buckets
        return own.gradients
    return 0.0


def _moments(chunks: Sequence[Chunk], setting: Setting, own: Held) -> dict[str, StageMemory]:
    base = _base(chunks, setting, own)
    layers = [layer.activations for chunk in chunks for layer in chunk.layers]
    losses = [(c.flight, layer.activations) for c in chunks for layer in c.layers if layer.activations.logits]
    passing = max((a.restored + a.passing for a in layers if not a.logits), default=0.0)
    early = base
    if setting.counted is Counted.ALLOCATED and setting.micro_batches == 1 and not has_own_sums(setting.execution):
        # gradients that nothing added to before are not there yet
        early = replace(base, gradients_bytes=0.0)
    workspace = base.workspace_bytes
    moments = {
        "last backward": replace(early, workspace_bytes=workspace + passing),
        STEP: replace(base, activations_bytes=0.0, workspace_bytes=own.update, buffers_bytes=0.0),
    }
    for flight, loss in losses:
        moments["loss"] = replace(early, workspace_bytes=workspace + loss.passing, logits_bytes=flight * loss.logits)
    if setting.sharding.stage == 3:
        # what was gathered in one piece is copied into the tensors of the layer
        moments["gather"] = replace(early, workspace_bytes=_buffers(chunks, setting, own) / 2.0)
    return moments


def _reserved(memory: StageMemory, own: Held, setting: Setting) -> StageMemory:
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
