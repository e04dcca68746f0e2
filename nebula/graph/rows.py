"""How a block changes with the rows of the micro-batch: the same layer seen at two row counts, and at any other.

Shapes and integer attributes of a Transformer or a convolution are affine in the rows, so two traces say it all.
Kernels and bytes are not stored per row: the rules are applied again to the new shapes.
"""

from __future__ import annotations

from dataclasses import replace

from nebula.errors import BadInput
from nebula.graph.rules import COLLECTIVE_KINDS, apply
from nebula.graph.values import Block, DistributedGraph, Operator, Tensor

_SUFFIX = "_per_row"


def affine(block: Block, other: Block) -> Block:
    """`block` with the dependence on rows that `other`, the same layer at another row count, shows.

    Raises:
        BadInput: the two do not hold the same operators in the same order.
    """
    steps = other.rows - block.rows
    assert steps, "two different row counts are needed"
    if [(t.name, t.dtype) for t in block.tensors] != [(t.name, t.dtype) for t in other.tensors] or [
        (o.name, o.inputs, o.outputs) for o in block.operators
    ] != [(o.name, o.inputs, o.outputs) for o in other.operators]:
        raise BadInput(
            f"{block.name} computes other operators at {other.rows} rows than at {block.rows}; "
            "its forward must not branch on the batch size"
        )
    tensors = tuple(_affine_tensor(a, b, steps) for a, b in zip(block.tensors, other.tensors, strict=True))
    operators = tuple(_affine_operator(a, b, steps) for a, b in zip(block.operators, other.operators, strict=True))
    return replace(block, tensors=tensors, operators=operators)


def _affine_tensor(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """The tensor with what each dim gains per row."""
    if a.shape == b.shape:
        return a
    gains = tuple(_gain(x, y, steps, a.name) for x, y in zip(a.shape, b.shape, strict=True))
    return replace(a, per_row=gains)


def _affine_operator(a: Operator, b: Operator, steps: int) -> Operator:
    """The operator with a twin `<name>_per_row` of each integer attribute that depends on the rows."""
    if a.attributes == b.attributes:
        return a
    attributes, others = dict(a.attributes), dict(b.attributes)
    for key, value in a.attributes:
        other = others.get(key)
        if value == other:
            continue
        if isinstance(value, int) and isinstance(other, int):
            attributes[key + _SUFFIX] = _gain(value, other, steps, a.name)
        elif isinstance(value, tuple) and isinstance(other, tuple) and all(isinstance(v, int) for v in value):
            attributes[key + _SUFFIX] = tuple(_gain(x, y, steps, a.name) for x, y in zip(value, other, strict=True))
    return replace(a, attributes=tuple(sorted(attributes.items())))


def _gain(a: int, b: int, steps: int, where: str) -> int:
    gain, rest = divmod(b - a, steps)
    if rest:
        raise BadInput(f"{where}: a size goes from {a} to {b} over {steps} rows, which is no whole number a row")
    return gain


def block_with_rows(block: Block, rows: int) -> Block:
    """The block fed with `rows` rows, its work by the rules.

    Raises:
        BadInput: it is one rank's share already; sizes of collectives and shards are set by who cut it.
    """
    if rows == block.rows:
        return block
    exchanging = any(o.kind in COLLECTIVE_KINDS for o in block.operators)
    if exchanging or any(t.distribution is not None for t in block.tensors):
        raise BadInput(
            f"block {block.name} is distributed for {block.rows} rows and cannot go to {rows}: "
            "set the rows of the whole block, then distribute it"
        )
    tensors = tuple(t.with_rows(block.rows, rows) for t in block.tensors)
    operators = tuple(_operator_with_rows(o, rows - block.rows) for o in block.operators)
    return apply(replace(block, rows=rows, tensors=tensors, operators=operators))


def _operator_with_rows(operator: Operator, more: int) -> Operator:
    attributes = dict(operator.attributes)
    grown = [key for key in attributes if key.endswith(_SUFFIX)]
    for twin in grown:
        key, gain = twin.removesuffix(_SUFFIX), attributes[twin]
        value = attributes[key]
        if isinstance(value, int) and isinstance(gain, int):
            attributes[key] = value + gain * more
        elif isinstance(value, tuple) and isinstance(gain, tuple):
            attributes[key] = tuple(v + g * more for v, g in zip(value, gain, strict=True))
    return replace(operator, attributes=tuple(sorted(attributes.items()))) if grown else operator


def with_rows(graph: DistributedGraph, rows: int) -> DistributedGraph:
    """The graph of micro-batches with `rows` rows.

    Raises:
        BadInput: `rows` is below 1.
    """
    if rows < 1:
        raise BadInput(f"a micro-batch of {rows} rows: it needs at least 1")
    if rows == graph.rows:
        return graph
    return replace(graph, rows=rows, blocks=tuple(block_with_rows(b, rows) for b in graph.blocks))
