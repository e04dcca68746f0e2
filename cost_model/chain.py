"""The cost of every layer of a chain as arrays over the layers, for one way of running a stage.

One ChainCost answers what any run of layers costs, by slices in evaluate and by prefix sums in search. A Chains object
makes each once; local blocks under tensor parallelism come from nebula.graph.partition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import DeviceType
from nebula.cost_model.activations import activations_under
from nebula.cost_model.communication import Levels
from nebula.cost_model.eager import eager_execution
from nebula.cost_model.layer import LayerCost, communication_seconds, layer_cost, recomputed
from nebula.cost_model.peak import layer_load, tensors_alone
from nebula.errors import BadInput
from nebula.graph.kept import shared_before
from nebula.graph.partition import tensor_parallel
from nebula.graph.rows import block_with_rows
from nebula.graph.stretched import MOST_CUT, stretched
from nebula.graph.values import Block, DistributedGraph
from nebula.plan.job import RECOMPUTE

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ChainCost:
    """Costs by layer, each an array [layers].

    Attributes:
        forward_s: kernels of one forward.
        backward_s: kernels of one backward.
        recompute_s: kernels that the backward runs again.
        forward_communication_s: collectives of one forward among the tensor group.
        backward_communication_s: those of one backward, recomputation included.
        elements: trainable elements on one rank.
        tensors: how many tensors they are.
        parameters_bytes: their bytes.
        again_bytes: of these, parameters of layers whose whole forward the backward runs again.
        cut_tensors: of the tensors, those that sharding stage 3 cuts.
        again_tensors: of these, those of such layers.
        kept_bytes: kept from forward to backward of one micro-batch.
        shared_bytes: of these, outputs that the layer before keeps as well: one memory where both are on one stage.
        module_outputs: outputs of sublayers with parameters of their own.
        module_output_bytes: their bytes.
        working_bytes: needed while the layer's backward runs, gradients of weights apart.
        gradient_bytes: of the largest weight.
        loss_bytes: of the layer of the loss, gradients of one operator; where tensors alone count all that lies beside
            what is kept.
        logits_bytes: tensors of the loss; 0 where tensors alone count.
        forward_border_bytes: what goes to the next layer.
        backward_border_bytes: what comes back from it: the gradients of it.
        forward_messages: tensors that go to the next layer.
        backward_messages: tensors that come back.
    """

    forward_s: Floats
    backward_s: Floats
    recompute_s: Floats
    forward_communication_s: Floats
    backward_communication_s: Floats
    elements: Floats
    tensors: Floats
    parameters_bytes: Floats
    again_bytes: Floats
    cut_tensors: Floats
    again_tensors: Floats
    kept_bytes: Floats
    shared_bytes: Floats
    module_outputs: Floats
    module_output_bytes: Floats
    working_bytes: Floats
    gradient_bytes: Floats
    loss_bytes: Floats
    logits_bytes: Floats
    forward_border_bytes: Floats
    backward_border_bytes: Floats
    forward_messages: Floats
    backward_messages: Floats

    def stage_kept_bytes(self, first: int, end: int) -> float:
        """What layers [first, end) on one stage keep of one micro-batch, each memory once."""
        return float(self.kept_bytes[first:end].sum() - self.shared_bytes[first + 1 : end].sum())

    @cached_property
    def recomputes(self) -> bool:
        """Whether a backward runs anything again."""
        return bool(self.recompute_s.any())

    @cached_property
    def forward_total_s(self) -> Floats:
        """All that one forward occupies of the stage's stream, borders apart."""
        return self.forward_s + self.forward_communication_s

    @cached_property
    def backward_total_s(self) -> Floats:
        """All that one backward occupies of the stage's stream, borders apart."""
        return self.backward_s + self.recompute_s + self.backward_communication_s


class ChainKey(NamedTuple):
    """What a chain depends on, the device by its name; as of Chains.cost."""

    rows: int
    tensor: int
    levels: Levels
    sequence: bool
    device: str
    policy: str
    until: int = 0


class Chains:
    """Chain costs of one graph, each made once.

    Args:
        graph: the model; its rows do not matter.
        tensor_block: the local block for (block, degree, splits, sequence).

    Attributes:
        known: chains that are made, here or elsewhere.
    """

    def __init__(self, graph: DistributedGraph, tensor_block: Callable[..., Block] = tensor_parallel) -> None:
        self.graph = graph
        self._tensor_block = tensor_block
        self._blocks: dict[tuple[int, int, int, bool], Block] = {}
        self._whole: dict[tuple[int, int], Block] = {}
        self._layers: dict[tuple[int, int, int, bool, str], LayerCost] = {}
        self._held: dict[tuple[int, int, int, bool, str], Mapping[str, LayerHeld]] = {}
        self.known: dict[ChainKey, ChainCost] = {}

    def for_other_devices(self) -> Chains:
        """Chains of the same graph for devices that have the same names and other rates; blocks stay cut."""
        other = Chains(self.graph, self._tensor_block)
        other._blocks = self._blocks
        return other

    @property
    def cut(self) -> bool:
        """Whether blocks are cut for a tensor group already."""
        return any(tensor > 1 for _, _, tensor, _ in self._blocks)

    def exact_blocks(self) -> dict[tuple[int, int, int], Block]:
        """The blocks that are cut so far and not stretched, without sequence parallelism, by index, rows and tensor."""
        return {
            (index, rows, tensor): block
            for (index, rows, tensor, sequence), block in self._blocks.items()
            if rows <= MOST_CUT and not sequence
        }

    def block(self, index: int, rows: int, tensor: int, sequence: bool) -> Block:
        """The block of that index as one rank of a tensor group computes it.

        Raises:
            BadInput: the degree does not divide what it must cut.
        """
        key = (index, rows, tensor, sequence)
        if key not in self._blocks:
            self._blocks[key] = self._stretched(index, rows, tensor, sequence) or self._cut(*key)
        return self._blocks[key]

    def _cut(self, index: int, rows: int, tensor: int, sequence: bool) -> Block:
        if (index, rows) not in self._whole:
            self._whole[index, rows] = block_with_rows(self.graph.blocks[index], rows)
        block = self._whole[index, rows]
        return self._tensor_block(block, tensor, self.graph.splits, sequence=sequence) if tensor > 1 else block

    def _stretched(self, index: int, rows: int, tensor: int, sequence: bool) -> Block | None:
        """From the cuts at one and at two rows; None for these, and where they do not tell."""
        if rows <= MOST_CUT:
            return None
        try:
            one, two = (self.block(index, each, tensor, sequence) for each in (1, MOST_CUT))
        except BadInput:
            return None
        return stretched(one, two, rows)

    def cost(
        self,
        *,
        rows: int,
        tensor: int,
        levels: Levels,
        sequence: bool,
        device: DeviceType,
        policy: str,
        until: int = 0,
    ) -> ChainCost:
        """What each layer costs one rank.

        Args:
            rows: of a micro-batch.
            tensor: ranks of the tensor group.
            levels: where they meet; empty for one rank.
            sequence: whether norms and residuals are cut along the sequence.
            device: the device type, by name the same everywhere.
            policy: recompute policy.
            until: layers from that one on keep all; 0: all layers are under the policy.

        Raises:
            BadInput: the tensor degree does not divide what it must cut.
        """
        key = ChainKey(rows, tensor, levels, sequence, device.name, policy, until)
        if key not in self.known:
            self.known[key] = self._chain(rows, tensor, levels, sequence, device, policy, until)
        return self.known[key]

    def _chain(
        self, rows: int, tensor: int, levels: Levels, sequence: bool, device: DeviceType, policy: str, until: int
    ) -> ChainCost:
        blocks = [self.block(i, rows, tensor, sequence) for i in range(len(self.graph.blocks))]
        layers = [self.layer(i, rows, tensor, sequence, device) for i in range(len(blocks))]
        borders = [border_of(block) for block in blocks]

        def each(values: list[float]) -> Floats:
            return np.array(values, dtype=float)[list(self.graph.layers)]

        def under(values: Callable[[LayerCost, str], float]) -> Floats:
            again = each([values(c, policy) for c in layers])
            return np.where(before, again, each([values(c, RECOMPUTE[0]) for c in layers])) if until else again

        before = np.arange(len(self.graph.layers)) < until
        held = [self.held(i, rows, tensor, sequence, device) for i in range(len(blocks))]

        def holding(part: Callable[[LayerHeld], float]) -> Floats:
            again = each([part(h[policy]) for h in held])
            return np.where(before, again, each([part(h[RECOMPUTE[0]]) for h in held])) if until else again

        def wire(name: str) -> list[float]:
            return [communication_seconds(getattr(c, name), levels) for c in layers]

        again_s = under(lambda c, policy: communication_seconds(c.recompute_collectives[policy], levels))
        shared = shared_before(blocks, self.graph.layers, partial(recomputed, policy=policy), until)
        return ChainCost(
            forward_s=each([c.forward_s for c in layers]),
            backward_s=each([c.backward_s for c in layers]),
            recompute_s=under(lambda c, policy: c.recompute_s[policy]),
            forward_communication_s=each(wire("forward_collectives")),
            backward_communication_s=each(wire("backward_collectives")) + again_s,
            elements=each([c.parameter_elements for c in layers]),
            tensors=each([c.parameter_tensors for c in layers]),
            parameters_bytes=each([c.parameters_bytes for c in layers]),
            again_bytes=under(lambda c, policy: c.parameters_bytes * _runs_again_whole(c, policy)),
            cut_tensors=each([c.cut_tensors for c in layers]),
            again_tensors=under(lambda c, policy: c.cut_tensors * _runs_again_whole(c, policy)),
            kept_bytes=holding(lambda h: h.kept),
            shared_bytes=np.array(shared, float),
            module_outputs=each([c.module_outputs for c in layers]),
            module_output_bytes=each([c.module_output_bytes for c in layers]),
            working_bytes=holding(lambda h: h.working),
            gradient_bytes=holding(lambda h: h.gradient),
            loss_bytes=holding(lambda h: h.loss),
            logits_bytes=holding(lambda h: h.logits),
            forward_border_bytes=each([b[0] for b in borders]),
            backward_border_bytes=each([b[1] for b in borders]),
            forward_messages=each([b[2] for b in borders]),
            backward_messages=each([b[3] for b in borders]),
        )

    def layer(self, index: int, rows: int, degree: int, sequence: bool, device: DeviceType) -> LayerCost:
        """What a layer of the block of that index costs one rank.

        Raises:
            BadInput: the degree does not divide what it must cut.
        """
        key = (index, rows, degree, sequence, device.name)
        if key not in self._layers:
            self._layers[key] = layer_cost(self.block(index, rows, degree, sequence), device)
        return self._layers[key]

    def held(self, index: int, rows: int, degree: int, sequence: bool, device: DeviceType) -> Mapping[str, LayerHeld]:
        """By policy what a layer of the block of that index holds; errors as of layer."""
        key = (index, rows, degree, sequence, device.name)
        if key not in self._held:
            block, cost = self.block(index, rows, degree, sequence), self.layer(index, rows, degree, sequence, device)
            self._held[key] = tensors_held(cost) if tensors_alone(device) else device_held(block, device)
        return self._held[key]


class LayerHeld(NamedTuple):
    """What a layer of a micro-batch holds, in bytes; as the fields of ChainCost."""

    kept: float
    working: float
    gradient: float = 0.0
    loss: float = 0.0
    logits: float = 0.0


def tensors_held(cost: LayerCost) -> Mapping[str, LayerHeld]:
    """By policy, where tensors alone count."""
    return {
        policy: LayerHeld(
            kept=cost.kept_bytes[policy],
            working=cost.passing_bytes[policy],
            gradient=cost.gradient_bytes,
            loss=cost.loss_bytes[policy],
        )
        for policy in RECOMPUTE
    }


def device_held(block: Block, device: DeviceType) -> Mapping[str, LayerHeld]:
    """By policy, where an allocator and a process count: activations as of the executor's plans."""
    dtype = block.tensor(block.outputs[0]).dtype if not block.parameters else block.parameters[0].dtype
    executions = [eager_execution(dtype, "adamw", (device,), policy) for policy in RECOMPUTE]
    under = activations_under(block, executions, timed=False)
    # weights are there whatever is computed again
    gradient = max((size for *_, size in layer_load(block, under[0]).weights), default=0.0)
    found = {}
    for policy, own in zip(RECOMPUTE, under, strict=True):
        found[policy] = LayerHeld(
            kept=own.kept,
            working=0.0 if own.logits else own.restored + own.passing,
            gradient=gradient,
            loss=own.passing if own.logits else 0.0,
            logits=own.logits,
        )
    return found


def border_of(block: Block) -> tuple[float, float, float, float]:
    """Bytes forward, bytes backward, tensors forward, tensors backward across the border behind a block."""
    tensors = block.by_name
    out = [tensors[n] for n in block.outputs]
    returned = [t for t in out if t.needs_gradient]
    return sum(t.bytes for t in out), sum(t.bytes for t in returned), len(out), len(returned)


def _runs_again_whole(cost: LayerCost, policy: str) -> float:
    """1 where a backward runs all of a layer's forward again, and so reads its parameters once more; else 0."""
    return float(cost.recompute_s[policy] > 0 and cost.kept_bytes[policy] == cost.kept_bytes["full"])
