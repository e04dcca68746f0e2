"""A block at many rows from the same at one and two, against cutting it there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nebula.graph.partition import tensor_parallel
from nebula.graph.rows import block_with_rows
from nebula.graph.stretched import stretched
from nebula.models.describe import graph, names
from tests.pure.cost_samples import feed_forward, rectified


def priced(block):
    """All that a price depends on, numbers rounded to what floats keep."""

    def plain(work):
        if hasattr(work, "flops"):
            sizes = (work.flops, work.read_bytes, work.written_bytes)
            return (work.kind, work.dtype, *(float(f"{x:.12g}") for x in sizes), work.product, work.scores)
        return (work.kind, work.axis, float(f"{work.bytes:.12g}"))

    operators = [
        (op.name, op.kind, op.saved, tuple(map(plain, op.forward)), tuple(map(plain, op.backward)))
        for op in block.operators
    ]
    return block.rows, [(t.name, t.shape, t.dtype) for t in block.tensors], operators


@pytest.mark.parametrize("tensor", [1, 4])
@pytest.mark.parametrize("preset", names())
def test_every_block_of_the_presets_is_affine_in_its_rows(preset, tensor):
    model = graph(preset, dtype="bfloat16")
    for whole in model.blocks:

        def cut(rows, whole=whole):
            block = block_with_rows(whole, rows)
            return tensor_parallel(block, tensor, model.splits) if tensor > 1 else block

        for rows in (3, 8):
            found = stretched(cut(1), cut(2), rows)
            if any(op.kind == "embedding" for op in whole.operators):
                assert found is None
                continue
            assert found is not None
            assert priced(found) == priced(cut(rows)), whole.name


def test_blocks_that_differ_in_more_than_rows_are_not_stretched():
    assert stretched(feed_forward(1), rectified(2), 4) is None
    one, two = feed_forward(1), feed_forward(2)
    assert stretched(one, replace(two, operators=two.operators[:-1]), 4) is None
    assert priced(stretched(one, two, 5)) == priced(feed_forward(5))
