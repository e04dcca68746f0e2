"""A block at any number of rows from the same block at two: all its sizes and all its work are affine in the rows.

Cutting a block for a mesh is dear, and what it costs at other rows follows from two cuts. What is stretched is good for
prices: shapes, kernels, collectives. Attributes stay those of the first block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nebula.graph.values import Block, Collective, Kernel, Operator, Product, Scores, Tensor, Work

MOST_CUT = 2
"""Up to so many rows a block is cut; for more it follows from the cuts at one row and at so many."""

BENT = frozenset({"embedding"})
"""Kinds whose work is not affine in the rows: a table is read once at most, however many rows look it up."""


def stretched(one: Block, two: Block, rows: int) -> Block | None:
    """The block at `rows` rows; None where the two do not tell.

    Args:
        one: at some rows.
        two: the same at others.
        rows: at which it is wanted.
    """
    if [t.name for t in one.tensors] != [t.name for t in two.tensors] or len(one.operators) != len(two.operators):
        return None
    share = (rows - one.rows) / (two.rows - one.rows)
    operators = [_operator(a, b, share) for a, b in zip(one.operators, two.operators, strict=True)]
    if None in operators:
        return None
    return replace(
        one,
        rows=rows,
        tensors=tuple(_tensor(a, b, share) for a, b in zip(one.tensors, two.tensors, strict=True)),
        operators=tuple(op for op in operators if op is not None),
    )


def _between(a: float, b: float, share: float) -> float:
    return a + (b - a) * share


def _tensor(a: Tensor, b: Tensor, share: float) -> Tensor:
    if a.shape == b.shape:
        return a
    return a.shaped(tuple([round(_between(x, y, share)) for x, y in zip(a.shape, b.shape, strict=True)]))


def _operator(a: Operator, b: Operator, share: float) -> Operator | None:
    if a.name != b.name or a.kind != b.kind or a.saved != b.saved or a.kind in BENT:
        return None
    if a.forward == b.forward and a.backward == b.backward:
        return a
    sides = [_works(x, y, share) for x, y in ((a.forward, b.forward), (a.backward, b.backward))]
    forward, backward = sides
    return None if forward is None or backward is None else a.working(forward, backward)


def _works(a: tuple[Work, ...], b: tuple[Work, ...], share: float) -> tuple[Work, ...] | None:
    if len(a) != len(b) or any(type(x) is not type(y) or x.kind != y.kind for x, y in zip(a, b, strict=True)):
        return None
    return tuple(_work(x, y, share) for x, y in zip(a, b, strict=True))


def _work(a: Work, b: Work, share: float) -> Work:
    if a == b:
        return a
    if isinstance(a, Collective):
        assert isinstance(b, Collective)
        return Collective(kind=a.kind, axis=a.axis, bytes=_between(a.bytes, b.bytes, share))
    assert isinstance(b, Kernel)
    return Kernel(
        kind=a.kind,
        dtype=a.dtype,
        flops=_between(a.flops, b.flops, share),
        read_bytes=_between(a.read_bytes, b.read_bytes, share),
        written_bytes=_between(a.written_bytes, b.written_bytes, share),
        product=Product(*_sizes(a.product, b.product, share)) if a.product and b.product else None,
        scores=Scores(*_sizes(a.scores, b.scores, share)) if a.scores and b.scores else None,
    )


def _sizes(a: tuple[int, ...], b: tuple[int, ...], share: float) -> Iterator[int]:
    return (round(_between(x, y, share)) for x, y in zip(a, b, strict=True))
