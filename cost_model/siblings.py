"""Products of one activation with several weights as one: query, key and value, or a gate and what it multiplies.

FLOPs are those of the parts, and so are bytes but for the input, which is read once; the sums of the gradients that
the parts return for it fall away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from nebula.graph.values import Block, Kernel, Operator, Product, Role, Tensor, Work


def kernels_of(work: Iterable[Work]) -> list[Kernel]:
    """The kernels among the work."""
    return [w for w in work if isinstance(w, Kernel)]


def operand_gradients(op: Operator, tensors: Mapping[str, Tensor]) -> tuple[Kernel | None, Kernel | None]:
    """The products that give the gradients of the two operands of a product; None where one has none.

    Rules write that of the first operand first. Shapes do not tell them apart: where a micro-batch has as many tokens
    as the layer is wide both are square.
    """
    products: list[Kernel | None] = [k for k in kernels_of(op.backward) if k.product]
    if len(products) == 1:
        products.insert(1 if tensors[op.inputs[0]].needs_gradient else 0, None)
    return (products[0], products[1]) if products else (None, None)


def siblings(block: Block) -> Block:
    """Products of one activation with several weights as one with the weights side by side (query, key and value)."""
    tensors = block.by_name
    groups: dict[object, list[Operator]] = {}
    for op in block.operators:
        if op.kind in ("matmul", "grouped_matmul") and op.forward and tensors[op.inputs[1]].role is Role.PARAMETER:
            groups.setdefault((op.kind, op.inputs[0], op.attribute("transpose_x", False)), []).append(op)
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
    forward = [kernels_of(op.forward)[0] for op in alike]
    one = forward[0].product
    assert one is not None
    columns = sum(k.product.n for k in forward if k.product)
    wide = replace(_sum(forward, x_bytes), product=one._replace(n=columns))
    gradients = [operand_gradients(op, tensors) for op in alike]
    of_input, of_weight = ([k for pair in gradients if (k := pair[at])] for at in (0, 1))
    backward: list[Work] = []
    if of_input:
        # the sum over all columns, so that nothing is left to add
        narrow = replace(_sum(of_input, 0.0), written_bytes=x_bytes)
        backward.append(replace(narrow, product=Product(one.batch, one.m, one.k, columns)))
    if of_weight:
        backward.append(replace(_sum(of_weight, x_bytes), product=Product(one.batch, one.k, columns, one.m)))
    return replace(
        alike[0],
        forward=(wide, *_exchanges(alike, lambda op: op.forward)),
        backward=(*backward, *_beside(alike, x_bytes), *_exchanges(alike, lambda op: op.backward)),
    )


def _sum(kernels: list[Kernel], shared_bytes: float) -> Kernel:
    """One kernel for several that read the same `shared_bytes`; its shape is that of the first."""
    return replace(
        kernels[0],
        flops=sum(k.flops for k in kernels),
        read_bytes=sum(k.read_bytes for k in kernels) - (len(kernels) - 1) * shared_bytes,
        written_bytes=sum(k.written_bytes for k in kernels),
    )


def _beside(alike: list[Operator], x_bytes: float) -> Iterable[Kernel]:
    """What is left of the other kernels of their backwards: a copy of the input once, sums of gradients that meet.

    Of n products n - 1 sums met those of their siblings; any other met the gradient of someone else.
    """
    others = [k for op in alike for k in kernels_of(op.backward) if not k.product]
    sums = [k for k in others if k.kind == "add" and k.written_bytes == x_bytes]
    yield from dict.fromkeys(k for k in others if k not in sums)
    yield from sums[len(alike) - 1 :]


def _exchanges(alike: list[Operator], direction: Callable[[Operator], Iterable[Work]]) -> Iterable[Work]:
    return (w for op in alike for w in direction(op) if not isinstance(w, Kernel))
