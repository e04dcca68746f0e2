"""Memory that two layers both keep counts once, whatever run of layers is asked for."""

from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
from graph_blocks import SPLITS, transformer

from nebula.graph.kept import block_bytes, kept_bytes, shared_before, shared_bytes
from nebula.graph.partition import tensor_parallel
from nebula.graph.values import Block, Operator
from nebula.models.describe import graph

SMALL = graph("ernie-3.0-small", dtype="float32")
BORDER_BYTES = 4 * 6 * 24 * 4


def everything_again(block: Block) -> tuple[Operator, ...]:
    return block.operators


def test_without_recomputation_a_block_keeps_what_its_operators_save():
    assert [block_bytes(b) for b in SMALL.blocks] == [b.saved_bytes for b in SMALL.blocks]


def test_recomputing_a_layer_keeps_its_input_alone():
    block = transformer()
    assert block_bytes(block, everything_again) == block.input_bytes == BORDER_BYTES


@pytest.mark.parametrize("again", [lambda _: (), everything_again], ids=["nothing again", "everything again"])
def test_prefix_sums_answer_every_run(again):
    kept = [block_bytes(SMALL.block_of(i), again) for i in range(len(SMALL.layers))]
    shared = shared_before(SMALL.blocks, SMALL.layers, again)
    sums, borders = [0, *accumulate(kept)], [0, *accumulate(shared)]
    for first in range(len(kept)):
        for last in range(first + 1, len(kept) + 1):
            found = sums[last] - sums[first] - (borders[last] - borders[first + 1])
            assert found == kept_bytes(SMALL, first, last, again)


def test_neighbours_share_what_one_returns_and_both_keep():
    """A layer that is recomputed drops its output, so the next one alone keeps it."""
    block = transformer()
    returned = next(op for op in block.operators if op.outputs[0] == block.outputs[0])
    keeps = [n for op in block.operators for n in op.saved]
    assert block.outputs[0] not in keeps
    assert returned.kind == "add"
    assert shared_bytes(block, block) == shared_bytes(block, block, everything_again) == 0
    saving = (replace(op, saved=op.outputs) if op is returned else op for op in block.operators)
    keeping = replace(block, operators=tuple(saving))
    assert shared_bytes(keeping, keeping) == BORDER_BYTES
    assert shared_bytes(keeping, keeping, everything_again) == 0


def test_the_first_layer_shares_nothing_and_no_layers_are_no_answer():
    assert shared_before(SMALL.blocks, ()) == ()
    assert shared_before(SMALL.blocks, (0,)) == (0,)
    assert len(shared_before(SMALL.blocks, SMALL.layers)) == len(list(pairwise(SMALL.layers))) + 1


def test_a_tensor_rank_shares_its_own_part():
    block = tensor_parallel(transformer(), 2, SPLITS, sequence=True)
    assert block_bytes(block, everything_again) == BORDER_BYTES // 2
