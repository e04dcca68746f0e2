"""A block at any number of rows equals the block built at that number."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.errors import BadInput
from nebula.graph.builder import BlockBuilder
from nebula.graph.identity import graph_hash
from nebula.graph.rows import affine, block_with_rows, with_rows
from nebula.graph.rules import apply
from nebula.graph.rules.strides import with_copies
from nebula.graph.values import Block
from nebula.models.describe import graph


def attention(rows: int) -> Block:
    """Rows also stand in the middle of shapes, in slice bounds and in the sizes of a split."""
    b = BlockBuilder("Attention", rows=rows, dtype="float32")
    x = b.input((2 * rows, 6, 8))
    halves = b.unbind(b.reshape(x, (rows, 2, 6, 8)), 1)
    flat = b.reshape(b.stack(halves, 0), (2 * rows * 6, 8))
    first, rest = b.split(b.linear("qkv", flat, 8), (rows * 6, rows * 6), 0)
    tail = b.operate("slice", (rest,), (6, 8), axes=(0,), starts=(6 * rows - 6,), ends=(6 * rows,), decrease_axis=())[0]
    scores = b.softmax(b.matmul(b.reshape(first, (rows, 6, 8)), b.reshape(tail, (1, 6, 8)), transpose_y=True))
    return b.build(b.dropout(scores, 0.1))


def described_at(rows: int, other: int) -> Block:
    return apply(with_copies(affine(attention(rows), attention(other))))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_two_row_counts_foretell_any_other(first: int, step: int, target: int) -> None:
    block = described_at(first, first + step)
    assert block_with_rows(block, target) == described_at(target, target + 1)


@given(st.integers(1, 6), st.integers(1, 6))
@settings(deadline=None, max_examples=5)
def test_going_to_other_rows_and_back_changes_nothing(there: int, back: int) -> None:
    small = graph("ernie-3.0-small", dtype="float32")
    assert with_rows(with_rows(small, there), back) == with_rows(small, back)


def test_work_grows_with_rows_and_parameters_do_not() -> None:
    one = graph("ernie-3.0-small")
    three = with_rows(one, 3)
    assert three.parameter_count == one.parameter_count
    assert 2.9 < three.forward_flops / one.forward_flops <= 3.0
    assert three.rows == 3
    assert {b.rows for b in three.blocks} == {3}


def test_no_rows_and_shapes_that_are_not_affine_are_refused() -> None:
    with pytest.raises(BadInput, match="0 rows"):
        with_rows(graph("ernie-3.0-small"), 0)

    def capacity(rows: int) -> Block:
        b = BlockBuilder("Expert", rows=rows, dtype="float32")
        return b.build(b.operate("full", (), (rows * rows // 2,), value=0.0)[0])

    with pytest.raises(BadInput, match="no whole number a row"):
        affine(capacity(2), capacity(5))

    def branching(rows: int) -> Block:
        b = BlockBuilder("Branch", rows=rows, dtype="float32")
        x = b.input((rows, 4))
        return b.build(b.unary("gelu" if rows > 2 else "relu", x))

    with pytest.raises(BadInput, match="must not branch on the batch size"):
        affine(branching(2), branching(3))


def test_the_hash_tells_models_lengths_and_dtypes_apart() -> None:
    graphs = [
        graph("ernie-3.0-small"),
        graph("ernie-3.0-small", seq_len=32),
        graph("ernie-3.0-small", dtype="float32"),
        graph("llama3-8b"),
    ]
    hashes = [graph_hash(g) for g in graphs]
    assert len(set(hashes)) == 4
    assert all(len(h) == 12 and set(h) <= set("0123456789abcdef") for h in hashes)
    assert graph_hash(graph("ernie-3.0-small")) == hashes[0]
