"""What a stack launches in place of single operators: products of one input as one, pointwise neighbours as one kernel.

Fusion changes kernels and their bytes, never FLOPs of products or collectives. Written for any block, so that a traced
layer is fused by the same rules as a described one; memory of activations is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from nebula.graph.values import Block, Kernel, Operator, Product, Role, Tensor, Work

POINTWISE = frozenset(
    {
        *("add", "subtract", "multiply", "divide", "maximum", "minimum", "scale", "square", "cast", "where", "dropout"),
        *("gelu", "relu", "silu", "swiglu", "sigmoid", "tanh"),
    }
)
"""Kinds that a hand-written or generated kernel does while it has the elements at hand."""

MASKS = frozenset(("full", "triu", "tril", "arange"))
"""Kinds whose result a fused softmax works out from the place of an element."""

COMPILED = frozenset(("layer_norm", "rms_norm", "rope", "contiguous", "expand", "concat", "split"))
"""What a compiler joins beside: norms reduce within the rows that a kernel holds, copies become addressing."""


def fused(block: Block, compiled: bool) -> Block:
    """The block with the kernels of a stack that fuses.

    Args:
        block: of one rank.
        compiled: whether a compiler fuses whole regions; else only what stacks for training have kernels for: bias and
            activation, scale, mask and softmax, bias, dropout and addition.
    """
    return _regions(_siblings(block), compiled)


def separate(block: Block) -> Block:
    """The block with a kernel for each operator as eager frameworks launch them: a bias is added by its product, the
    gradient of a residual sum is handed on, and copies that a view needs are the library's own."""
    return replace(block, operators=tuple(_alone(block, op) for op in block.operators))


def _siblings(block: Block) -> Block:
    """Products of one activation with several weights as one with the weights side by side (query, key and value)."""
    tensors = block.by_name
    groups: dict[str, list[Operator]] = {}
    for op in block.operators:
        if op.kind in ("matmul", "grouped_matmul") and tensors[op.inputs[1]].role is Role.PARAMETER:
            groups.setdefault(f"{op.kind} {op.inputs[0]}", []).append(op)
    merged = {op.name: ops for ops in groups.values() if len(ops) > 1 for op in ops}
    out = []
    for op in block.operators:
        alike = merged.get(op.name)
        if alike is None:
            out.append(op)
        else:
            first = op is alike[0]
            out.append(_joined(tensors, alike) if first else replace(op, forward=(), backward=()))
    return replace(block, operators=tuple(out))


def _joined(tensors: Mapping[str, Tensor], alike: list[Operator]) -> Operator:
    """The first of several products of one input: columns add up, the input is read once."""
    x_bytes = float(tensors[alike[0].inputs[0]].bytes)
    forward = [_kernels(op.forward)[0] for op in alike]
    columns = sum(k.product.n for k in forward if k.product)
    one = forward[0]
    assert one.product is not None
    wide = replace(
        one,
        flops=sum(k.flops for k in forward),
        read_bytes=sum(k.read_bytes for k in forward) - (len(alike) - 1) * x_bytes,
        written_bytes=sum(k.written_bytes for k in forward),
        product=one.product._replace(n=columns),
    )
    backward = [_kernels(op.backward) for op in alike]
    return replace(alike[0], forward=(wide,), backward=tuple(_gradients(backward, one.product, columns, x_bytes)))


def _gradients(backward: list[list[Kernel]], one: Product, columns: int, x_bytes: float) -> Iterable[Kernel]:
    """Gradient of the input (sums over all columns, so that nothing is left to add), and that of the weights."""
    by_input = [k for kernels in backward for k in kernels if k.product and k.product.m == one.m]
    by_weight = [k for kernels in backward for k in kernels if k.product and k.product.m != one.m]
    if one.m == one.k:
        # both gradients have as many rows: they come in the order input, weight
        pairs = [[k for k in kernels if k.product] for kernels in backward]
        by_input, by_weight = [p[0] for p in pairs if len(p) > 1], [p[-1] for p in pairs]
    if by_input:
        yield replace(
            by_input[0],
            flops=sum(k.flops for k in by_input),
            read_bytes=sum(k.read_bytes for k in by_input),
            written_bytes=x_bytes,
            product=Product(one.batch, one.m, one.k, columns),
        )
    if by_weight:
        yield replace(
            by_weight[0],
            flops=sum(k.flops for k in by_weight),
            read_bytes=sum(k.read_bytes for k in by_weight) - (len(by_weight) - 1) * x_bytes,
            written_bytes=sum(k.written_bytes for k in by_weight),
            product=Product(one.batch, one.k, columns, one.m),
        )


def _kernels(work: Iterable[Work]) -> list[Kernel]:
    return [w for w in work if isinstance(w, Kernel)]


@dataclass
class _Region:
    """Operators that become one kernel each way.

    Attributes:
        depth: kernels that cannot be fused on the longest way to it; what lies deeper waits for one of them.
    """

    depth: int
    members: list[Operator]
    closed: bool = False

    @property
    def masks(self) -> bool:
        """Whether it only makes a mask."""
        return all(m.kind in MASKS for m in self.members)


def _regions(block: Block, compiled: bool) -> Block:
    """Pointwise neighbours joined; each region's work stands on its last operator."""
    kinds = POINTWISE | MASKS | {"softmax"} | (COMPILED if compiled else frozenset())
    tensors = block.by_name
    region_of: dict[str, _Region] = {}
    made_in: dict[str, _Region] = {}
    depth: dict[str, int] = {}
    for op in block.operators:
        level = max((depth.get(n, 0) for n in op.inputs), default=0)
        fusible = op.kind in kinds and not any(tensors[n].role is Role.PARAMETER for n in op.inputs[:1])
        if fusible:
            makers = [made_in[n] for n in op.inputs if n in made_in]
            region = _joining(op, level, makers)
            region.members.append(op)
            region.closed = op.kind == "softmax" and not compiled
            region_of[op.name] = region
        shows = bool(tensors[op.outputs[0]].alias_of) and not op.forward
        for name in op.outputs:
            depth[name] = level if fusible or shows else level + 1
            passed = made_in.get(op.inputs[0]) if shows and op.inputs else None
            if fusible or passed is not None:
                made_in[name] = region_of[op.name] if fusible else passed  # type: ignore[assignment]
    return replace(block, operators=tuple(_launching(block, op, region_of.get(op.name)) for op in block.operators))


def _joining(op: Operator, depth: int, makers: list[_Region]) -> _Region:
    """The region of an operator: an open one of its depth that makes an input; a mask that was made for it joins."""
    near = [r for r in makers if not r.closed and r.depth == depth and not r.masks]
    region = near[0] if near else _Region(depth, [])
    for other in makers:
        if other is not region and other.masks and (op.kind in MASKS or near):
            region.members[:0] = other.members
            other.members.clear()
    return region


def _launching(block: Block, op: Operator, region: _Region | None) -> Operator:
    """The operator with its region's kernels when it is the last of it, without any when it is not."""
    if region is None:
        return op
    sent, returned = (tuple(w for w in work if not isinstance(w, Kernel)) for work in (op.forward, op.backward))
    if not region.members or op is not region.members[-1] or region.masks:
        return replace(op, forward=sent, backward=returned)
    if len(region.members) == 1:
        return _alone(block, op)
    forward, backward = _region_kernels(block, region.members)
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


def _region_kernels(block: Block, members: list[Operator]) -> tuple[list[Kernel], list[Kernel]]:
    """One kernel forward: what comes from outside is read, what others need is written. One backward likewise."""
    tensors = block.by_name
    inside = {m.name for m in members}
    made = {n for m in members for n in m.outputs}
    masked = {n for m in members if m.kind in MASKS for n in m.outputs}
    outside = [op for op in block.operators if op.name not in inside]
    used = {n for op in outside for n in (*op.inputs, *op.saved)} | set(block.outputs)
    views = {t.alias_of for t in block.tensors if t.alias_of}
    random = {n for m in members if m.kind == "dropout" for n in m.outputs[1:]}
    statistics = {n for m in members if m.kind in ("layer_norm", "rms_norm") for n in m.outputs[1:]}
    leaving = [n for n in made if (n in used or n in views or n in random or n in statistics) and n not in masked]
    entering = list(dict.fromkeys(n for m in members for n in m.inputs if n not in made))
    flops = sum(k.flops for m in members for k in _kernels(m.forward))
    forward = _kernel(tensors, members, entering, leaving, flops, "")
    wanted = [n for n in entering if tensors[n].needs_gradient]
    if not wanted:
        return [forward], []
    gradient_flops = sum(k.flops for m in members for k in _kernels(m.backward) if k.kind != "add" or m.kind == "add")
    through = _passed_through(tensors, members, wanted)
    kept = list(dict.fromkeys(n for m in members for n in m.saved))
    read = [n for n in kept if n in leaving or n in entering]
    if len(read) < len(kept):
        # what was not kept is worked out again from what came in
        read = list(dict.fromkeys((*read, *(n for n in entering if tensors[n].role is not Role.PARAMETER))))
    gradients = [n for n in leaving if tensors[n].needs_gradient and n not in random]
    backward = _kernel(
        tensors, members, [*read, *gradients], [n for n in wanted if n not in through], gradient_flops, "_grad"
    )
    sums = [w for m in members for w in _kernels(m.backward) if w.kind == "add" and m.kind != "add"]
    return [forward], [backward, *sums]


def _passed_through(tensors: Mapping[str, Tensor], members: list[Operator], wanted: list[str]) -> set[str]:
    """The residual input: the gradient of the sum is its gradient, and nothing is written for it."""
    last = members[-1]
    if last.kind != "add":
        return set()
    out = tensors[last.outputs[0]].shape
    return set([n for n in last.inputs if n in wanted and tensors[n].shape == out][:1])


def _kernel(
    tensors: Mapping[str, Tensor],
    members: list[Operator],
    reads: Iterable[str],
    writes: Iterable[str],
    flops: float,
    suffix: str,
) -> Kernel:
    kind = f"fused_{members[-1].kind}"
    dtype = tensors[members[-1].outputs[0]].dtype
    return Kernel(
        kind=f"{kind}{suffix}",
        dtype=dtype,
        flops=flops,
        read_bytes=float(sum(tensors[n].bytes for n in reads)),
        written_bytes=float(sum(tensors[n].bytes for n in writes)),
    )
