"""What one layer keeps from forward to backward under an execution, and what its backward needs beside that.

Read from the operators of a local block: what each keeps (Korthikanti et al. 2022, arXiv 2205.05198, equations 1 to 4,
come out of the operators of a GPT layer), less what is gathered or computed again. A gathered tensor is kept as the
rank's own part and gathered once more (section 4.2.2 there). The loss is apart, because its tensors live for a moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from nebula.cost_model.exchange_kernels import copies_bytes
from nebula.cost_model.execution import Execution, Recompute
from nebula.cost_model.layer import attention_cores, recomputed
from nebula.graph.values import DTYPE_BYTES, Block, Collective, Operator, Role, Tensor

PRODUCTS = ("matmul", "grouped_matmul")
FLOAT_BYTES = DTYPE_BYTES["float32"]
MADE_AGAIN = ("all_gather", "contiguous")
"""Kinds whose output is no memory of its own between forward and backward: it is gathered or copied once more."""

NORMS = ("layer_norm", "rms_norm")

FLOAT_COPIES = {"composed": (3, 4), "steps": (2, 2), "kernel": (2, 2), "in place": (0, 0), "plug-in": (2, 5)}
"""Float32 tensors as large as the logits that a loss holds at once, by how it is computed (Execution.loss): over a
whole vocabulary, and over one that tensor ranks share.

Composed of operators: the log-softmax, the gradient that the negative log-likelihood writes, the log-softmax's own, and
over a cut vocabulary an exponential (PyTorch's loss_parallel). One kernel: the converted logits and the softmax, which
becomes the gradient. In place: none.
"""

NORMALISED = "/normalised"
"""Suffix of a norm's input: what a norm in pieces keeps beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Bytes of one micro-batch in one layer on one rank.

    Attributes:
        kept: lie there from the forward to the backward.
        restored: come back when the layer's backward computes its forward again.
        passing: gradients of tensors that lie there together while the backward passes one operator.
        logits: of the loss, from its forward to the gradient of the projection; 0 in other layers.
        logits_gradient: of these, what its backward leaves: one tensor as large as the logits.
        again: whether the backward computes some of the layer's forward again.
        later: of what is kept, and of gradients, what a split backward leaves for the gradients of weights.
        early: of what is kept and restored, passing gradients and those of weights the most that lies there together
            while the latter come, where none lay there before; infinite: it is not known.
    """

    kept: float
    restored: float = 0.0
    passing: float = 0.0
    logits: float = 0.0
    logits_gradient: float = 0.0
    again: bool = False
    later: float = 0.0
    early: float = math.inf


def activations(block: Block, execution: Execution, *, again: bool = True, parts: int = 1) -> Activations:
    """What a local block keeps.

    Args:
        block: a layer as one rank computes it.
        execution: what is fused, and what is computed again.
        again: whether this layer is one of those that are computed again, where whole layers are.
        parts: ranks of a context group that share the sequence, where the block holds all of it.
    """
    return activations_under(block, (execution,), again=again, parts=parts)[0]


def activations_under(
    block: Block, executions: Sequence[Execution], *, again: bool = True, parts: int = 1, timed: bool = True
) -> tuple[Activations, ...]:
    """The same under each of several executions that differ in what is computed again alone.

    Args:
        timed: whether `later` and `early` are wanted.
    """
    view = _View(block, executions[0])
    whole = view.memories(view.saved(block.operators))
    size, logits_bytes = view.size, view.logits_bytes
    passing = max(view.passing, default=0.0)
    later = view.later() if timed else 0.0
    early: dict[frozenset[str], float] = {}
    found = []
    copies = view.copies(frozenset())
    for execution in executions:
        kept = view.memories(view.kept(again, execution.recompute))
        own = view.copies(view.repeated(again, execution.recompute))
        lying = kept | whole
        if lying not in early:
            early[lying] = view.early(lying, parts) + copies / parts if timed else math.inf
        found.append(
            Activations(
                kept=(size(kept) + own + view.exchanged(kept, parts)) / parts,
                restored=(size(whole - kept) + copies - own) / parts,
                passing=passing / parts,
                logits=logits_bytes / parts,
                logits_gradient=view.logits_gradient_bytes / parts,
                again=again and execution.recompute.what != "none",
                later=later / parts,
                early=early[lying],
            )
        )
    return tuple(found)


class _View:
    """One block under one execution."""

    def __init__(self, block: Block, execution: Execution) -> None:
        self.block, self.execution = block, execution
        self.tensors: Mapping[str, Tensor] = block.by_name
        self.makers = {name: op for op in block.operators for name in op.outputs}
        self.loss = next((op for op in block.operators if op.kind == "cross_entropy"), None)
        self.logits = self._logits()

    def _logits(self) -> frozenset[str]:
        """Tensors of the loss: as large as what it reads, from the projection to its softmax."""
        if self.loss is None:
            return frozenset()
        size = self.tensors[self.loss.inputs[0]].size
        return frozenset(t.name for t in self.block.tensors if t.role is Role.ACTIVATION and t.size == size)

    @property
    def logits_bytes(self) -> float:
        """All tensors of the loss that lie there at once."""
        if self.loss is None:
            return 0.0
        logits = self.tensors[self.loss.inputs[0]]
        width = DTYPE_BYTES[self.execution.compute_dtype]
        cut = any(isinstance(work, Collective) for work in self.loss.forward)
        copies = FLOAT_COPIES[self.execution.loss][cut]
        wide = FLOAT_BYTES if self.execution.float_logits else width
        # logits that are float32 already need no converted copy
        return float(logits.size * (width + wide * (copies - (width == FLOAT_BYTES and copies > 0))))

    @property
    def logits_gradient_bytes(self) -> float:
        """Of the logits' gradient, in the dtype in which products are computed."""
        if self.loss is None:
            return 0.0
        return float(self.tensors[self.loss.inputs[0]].size * DTYPE_BYTES[self.execution.compute_dtype])

    def saved(self, operators: Iterable[Operator]) -> set[str]:
        """Names that operators save for their gradients."""
        return {name for op in operators for name in self._saved(op)}

    def _saved(self, op: Operator) -> tuple[str, ...]:
        if op.kind not in NORMS or self.execution.fused_norm:
            return op.saved
        # in pieces it keeps its input in float32, to square it, and the normalised value, to scale it
        return (*op.saved, op.inputs[0] + NORMALISED)

    def kept(self, again: bool, recompute: Recompute) -> set[str]:
        """Names that lie there between forward and backward.

        Args:
            again: whether this layer is one of those that are computed again, where whole layers are.
            recompute: what is.
        """
        inputs = set(self.block.inputs)
        if not self.execution.by_tensor and self.loss is None and any(self.tensors[n].needs_gradient for n in inputs):
            if recompute.what == "layer" and again:
                return inputs
            if recompute.what == "products":
                return inputs | self._every_second_product()
        repeated = self.repeated(again, recompute)
        runs_again = [op for op in self.block.operators if op.name in repeated]
        made = {name for op in runs_again for name in op.outputs}
        read = {name for op in runs_again for name in op.inputs if name not in made}
        return self.saved(op for op in self.block.operators if op.name not in repeated) | read

    def repeated(self, again: bool, recompute: Recompute) -> frozenset[str]:
        """Names of the operators that the backward runs again; of a stack that runs whole layers again see `kept`.

        PaddlePaddle's elements are run again as `recomputed` says, that of the loss up to it as well; elsewhere the
        layer of the loss is not.
        """
        if self.execution.by_tensor:
            wanted = again or recompute.what != "layer"
            return frozenset(op.name for op in recomputed(self.block, recompute.policy)) if wanted else frozenset()
        if recompute.what != "core" or self.loss is not None:
            return frozenset()
        if not any(self.tensors[n].needs_gradient for n in self.block.inputs):
            return frozenset()
        return frozenset(op.name for op in attention_cores(self.block))

    def copies(self, repeated: frozenset[str]) -> float:
        """Bytes of inputs that PaddlePaddle's layers copy for themselves; of what is computed again none is kept."""
        if not self.execution.by_tensor:
            return 0.0
        return copies_bytes(self.block, (op for op in self.block.operators if op.name not in repeated))

    def _every_second_product(self) -> set[str]:
        """Outputs of the first, third, ... product with a weight, and of fused attention."""
        weights = {t.name for t in self.block.parameters}
        products = [op for op in self.block.operators if op.kind in PRODUCTS and weights & set(op.inputs)]
        fused = [op for op in self.block.operators if op.kind == "attention"]
        return {op.outputs[0] for op in products[::2]} | {name for op in fused for name in op.outputs}

    def memories(self, names: Iterable[str]) -> frozenset[str]:
        """The memories behind names, without parameters, buffers and the tensors of the loss."""
        owners = {self._owner(name) for name in names}
        return frozenset(n for n in owners if n not in self.logits and self._is_activation(n))

    def _is_activation(self, name: str) -> bool:
        return name.endswith(NORMALISED) or self.tensors[name].role in (Role.INPUT, Role.ACTIVATION)

    def _owner(self, name: str) -> str:
        """The tensor whose memory is kept: of a view the whole, of what is made again what it is made of."""
        while name in self.tensors:
            maker = self.makers.get(name)
            if self.tensors[name].alias_of:
                name = self.tensors[name].alias_of
            elif maker is not None and maker.kind in MADE_AGAIN:
                name = maker.inputs[0]
            else:
                break
        return name

    def size(self, names: Iterable[str]) -> float:
        """Bytes of memories."""
        return float(sum(self._bytes(name) for name in names))

    def _bytes(self, name: str) -> int:
        if not name.endswith(NORMALISED):
            return self.tensors[name].bytes
        normalised = self.tensors[name.removesuffix(NORMALISED)]
        return normalised.bytes + normalised.size * FLOAT_BYTES

    def exchanged(self, kept: frozenset[str], parts: int) -> float:
        """What attention over a shared sequence keeps of its output on the other side of the exchange of heads.

        DeepSpeed-Ulysses, arXiv 2309.14509, section 3.1.
        """
        outputs = {op.outputs[0] for op in self.block.operators if op.kind == "attention"}
        return self.size(outputs & kept) if parts > 1 else 0.0

    def later(self) -> float:
        """Inputs of products with weights, and the gradients of their outputs; the logits' are counted as such."""
        weights = {t.name for t in self.block.parameters}
        products = [op for op in self.block.operators if op.kind in PRODUCTS and weights.intersection(op.inputs[1:])]
        inputs = self.memories(op.inputs[0] for op in products)
        outputs = {op.outputs[0] for op in products} - self.logits
        return self.size(inputs) + self.size(outputs)

    def early(self, lying: frozenset[str], parts: int) -> float:
        """The most that lies there while the gradients of weights come, operator by operator of the backward."""
        count = len(self.block.operators)
        lies, made, pieces = [0.0] * count, [0.0] * (count + 1), [0.0] * count
        left, weights = set(lying), {t.name: float(t.bytes) for t in self.block.parameters}
        for index, op in enumerate(self.block.operators):
            # what the first operator that saves it has used is gone
            own = left & {self._owner(name) for name in self._saved(op)}
            lies[index] = self.size(own)
            left -= own
        for index in reversed(range(count)):
            own_weights = weights.keys() & set(self.block.operators[index].inputs)
            own_bytes = sum(weights.pop(name) for name in own_weights)
            made[index] = made[index + 1] + own_bytes
            # of experts those of each lie beside the whole that they are stacked to
            pieces[index] = own_bytes if self.block.operators[index].kind == "grouped_matmul" else 0.0
        held, most = self.size(left), 0.0
        for index in range(count):
            held += lies[index]
            most = max(most, (held + self.passing[index]) / parts + made[index] + pieces[index])
        return most

    @cached_property
    def passing(self) -> tuple[float, ...]:
        """Gradients of tensors, weights apart, that lie there while the backward of each operator runs."""
        return tuple(map(self._passing, self.block.operators))

    def _passing(self, op: Operator) -> float:
        if not op.backward:
            return 0.0
        near = [self.tensors[n] for n in (*op.inputs, *op.outputs)]
        wanted = [t for t in near if t.needs_gradient and t.role is not Role.PARAMETER and t.name not in self.logits]
        return float(sum(t.bytes for t in wanted))
