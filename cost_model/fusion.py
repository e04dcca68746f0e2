"""What a stack launches in place of single operators: products of one input as one, pointwise neighbours as one kernel.

Fusion changes kernels and their bytes, never FLOPs of products or collectives. Written for any block, so that a traced
layer is fused by the same rules as a described one; memory of activations is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from nebula.cost_model.siblings import kernels_of, siblings
from nebula.graph.values import Block, Collective, Kernel, Operator, Role, Tensor

POINTWISE = frozenset(
    {
        *("add", "subtract", "multiply", "divide", "maximum", "minimum", "scale", "square", "cast", "where", "dropout"),
        *("gelu", "relu", "silu", "swiglu", "sigmoid", "tanh"),
    }
)
"""Kinds that a hand-written or generated kernel does while it has the elements at hand."""

MASKS = frozenset(("full", "triu", "tril", "arange"))
"""Kinds whose result a fused softmax works out from the place of an element."""

NORMS = ("layer_norm", "rms_norm")

COMPILED = frozenset((*NORMS, "rope", "contiguous", "expand", "concat", "split"))
"""What a compiler joins beside: norms reduce within the rows that a kernel holds, copies become addressing."""


def fused(block: Block, compiled: bool) -> Block:
    """The block with the kernels of a stack that fuses.

    Args:
        block: of one rank.
        compiled: whether a compiler fuses whole regions; else only what stacks for training have kernels for: bias and
            activation, scale, mask and softmax, bias, dropout and addition.
    """
    return _regions(siblings(block), compiled)


def separate(block: Block) -> Block:
    """The block with a kernel for each operator as eager frameworks launch them: a bias is added by its product, the
    gradient of a residual sum is handed on, and copies that a view needs are the library's own."""
    return replace(block, operators=tuple(_alone(block, op) for op in block.operators))


def regions(block: Block, compiled: bool) -> tuple[tuple[Operator, ...], ...]:
    """The operators of each region that becomes one kernel each way, in the order of the block; masks are in none.

    Two pointwise neighbours are in one region if no other kernel lies on any way between them, so that regions wait
    for each other in one direction only. A softmax ends its region unless a compiler goes on.
    """
    found = _Regions(block, compiled)
    for op in block.operators:
        found.take(op)
    return tuple(tuple(op for op in block.operators if op.name in members) for members in found.all)


class _Regions:
    """Deals the operators of a block to regions, one after the other; a region is the names of its operators.

    What an operator makes has a depth: how many kernels that are not fused lie on the longest way to it.
    """

    def __init__(self, block: Block, compiled: bool) -> None:
        self.tensors, self.compiled = block.by_name, compiled
        self.kinds = POINTWISE | MASKS | {"softmax"} | (COMPILED if compiled else frozenset())
        self.masks = _masks(block)
        self.all: list[set[str]] = []
        self.depth: dict[str, int] = {}
        self.made_in: dict[str, set[str]] = {}

    def take(self, op: Operator) -> None:
        """Gives the operator to a region, where it is pointwise, and its outputs their depth."""
        if op.name in self.masks:
            return
        level = max((self.depth.get(n, 0) for n in op.inputs), default=0)
        fusible = op.kind in self.kinds and not any(self.tensors[n].role is Role.PARAMETER for n in op.inputs[:1])
        ends = op.kind == "softmax" and not self.compiled
        region = self._region(op, level) if fusible else None
        if _is_view(self.tensors, op):
            region = self.made_in.get(op.inputs[0])
        for name in op.outputs:
            self.depth[name] = level + (ends if fusible else not _is_view(self.tensors, op))
            if region is not None and not ends:
                self.made_in[name] = region
        if ends and region is not None:
            self.made_in = {n: r for n, r in self.made_in.items() if r is not region}

    def _region(self, op: Operator, level: int) -> set[str]:
        """The region of the operator: those of its level that make its inputs, which become one."""
        near = [self.made_in[n] for n in op.inputs if n in self.made_in and self.depth[n] == level]
        region = {op.name}.union(*near)
        self.all = [r for r in self.all if r not in near] + [region]
        self.made_in.update({n: region for n, r in self.made_in.items() if r in near})
        return region


def _is_view(tensors: Mapping[str, Tensor], op: Operator) -> bool:
    """Whether it shows the memory of its input in another shape and sends nothing back."""
    shown = bool(op.inputs) and bool(tensors[op.outputs[0]].alias_of) and not op.forward
    return shown and not any(isinstance(w, Collective) for w in op.backward)


def _masks(block: Block) -> frozenset[str]:
    """Operators that make a mask from nothing, or from another mask."""
    masked: set[str] = set()
    found = set()
    for op in block.operators:
        if op.kind in MASKS and masked.issuperset(op.inputs):
            found.add(op.name)
            masked.update(op.outputs)
    return frozenset(found)


def _regions(block: Block, compiled: bool) -> Block:
    """Pointwise neighbours joined; each region's work stands on its last operator, masks are worked out in it."""
    masks = _masks(block)
    fates = {op.name: members for members in regions(block, compiled) for op in members}
    return replace(
        block,
        operators=tuple(
            replace(op, forward=(), backward=()) if op.name in masks else _launching(block, op, fates.get(op.name, ()))
            for op in block.operators
        ),
    )


def _launching(block: Block, op: Operator, members: tuple[Operator, ...]) -> Operator:
    """The operator with its region's kernels when it is the last of it, without any when it is not."""
    if len(members) < 2:
        return _alone(block, op) if members else op
    sent, returned = (tuple(w for w in work if not isinstance(w, Kernel)) for work in (op.forward, op.backward))
    if op is not members[-1]:
        return replace(op, forward=sent, backward=returned)
    forward, backward = _Members(block, members).kernels()
    return replace(op, forward=(*sent, *forward), backward=(*backward, *returned))


def _alone(block: Block, op: Operator) -> Operator:
    """A sum by itself: a bias is added as the product writes, a residual's gradient is that of the sum."""
    if op.kind != "add" or len(op.inputs) != 2:
        return op
    other = block.tensor(op.inputs[1])
    if other.role is Role.PARAMETER:
        return replace(op, forward=())
    if other.shape != block.tensor(op.inputs[0]).shape:
        return op
    return replace(op, backward=tuple(w for w in op.backward if not isinstance(w, Kernel) or w.kind != "add_grad"))


class _Members:
    """What a region reads and writes: tensors from outside, and those that others need."""

    def __init__(self, block: Block, members: tuple[Operator, ...]) -> None:
        self.members, self.tensors = members, block.by_name
        self.made = {n for m in members for n in m.outputs}
        masked = {n for op in block.operators if op.name in _masks(block) for n in op.outputs}
        self.entering = [
            n
            for n in dict.fromkeys(n for m in members for n in m.inputs)
            if self._owner(n) not in self.made and n not in masked
        ]
        inside = {m.name for m in members}
        outside = [op for op in block.operators if op.name not in inside and not _is_view(self.tensors, op)]
        used = {self._owner(n) for op in outside for n in (*op.inputs, *op.saved)}
        used |= {self._owner(n) for n in block.outputs}
        # random numbers are kept for the backward, and so are the statistics of norms
        self.states = {n for m in members if m.kind in ("dropout", *NORMS) for n in m.outputs[1:]}
        self.leaving = sorted(self.made & (used | self.states))

    def _owner(self, name: str) -> str:
        """The tensor whose memory a view shows, as far as it is made here."""
        while name not in self.made and self.tensors[name].alias_of:
            name = self.tensors[name].alias_of
        return name

    def kernels(self) -> tuple[list[Kernel], list[Kernel]]:
        """One kernel forward, and one backward where a gradient must be written; sums of gradients stay."""
        sums = [w for m in self.members for w in kernels_of(m.backward) if w.kind == "add"]
        forward = self._kernel(
            self.entering, self.leaving, sum(k.flops for m in self.members for k in kernels_of(m.forward))
        )
        wanted = [n for n in self.entering if self.tensors[n].needs_gradient]
        written = [n for n in wanted if n not in self._passed_through(wanted)]
        if not written:
            return [forward], sums
        flops = sum(k.flops for m in self.members for k in kernels_of(m.backward)) - sum(k.flops for k in sums)
        gradients = [n for n in self.leaving if self.tensors[n].needs_gradient and n not in self.states]
        backward = self._kernel([*self._kept(), *gradients], written, flops, "_grad")
        return [forward], [backward, *sums]

    def _kept(self) -> list[str]:
        """What the backward reads beside gradients; what was not kept is worked out again from what came in."""
        kept = list(dict.fromkeys(self._owner(n) for m in self.members for n in m.saved))
        read = [n for n in kept if n in self.leaving or n not in self.made]
        if len(read) < len(kept):
            whole = (self._owner(n) for n in self.entering if self.tensors[n].role is not Role.PARAMETER)
            read = list(dict.fromkeys((*read, *whole)))
        return read

    def _passed_through(self, wanted: list[str]) -> list[str]:
        """The residual input: the gradient of the sum is its gradient, and nothing is written for it."""
        last = self.members[-1]
        if last.kind != "add":
            return []
        shape = self.tensors[last.outputs[0]].shape
        return [n for n in last.inputs if n in wanted and self.tensors[n].shape == shape][:1]

    def _kernel(self, reads: Iterable[str], writes: Iterable[str], flops: float, suffix: str = "") -> Kernel:
        last = self.members[-1]
        return Kernel(
            kind=f"fused_{last.kind}{suffix}",
            dtype=self.tensors[last.outputs[0]].dtype,
            flops=flops,
            read_bytes=float(sum(self.tensors[n].bytes for n in reads)),
            written_bytes=float(sum(self.tensors[n].bytes for n in writes)),
        )
