"""Layers of the executor exchange product by product, and copy what moves of a sequence."""

from collections import Counter
from dataclasses import replace

from nebula.cost_model.exchange_kernels import copies_bytes, exchanging
from nebula.graph.context import context_parallel
from nebula.graph.local_block import undealt_block
from nebula.graph.rows import block_with_rows
from nebula.graph.values import Collective, Kernel
from nebula.models.describe import decoder_graph
from tests.pure.decoder_samples import GROUPED

GRAPH = decoder_graph("d", replace(GROUPED, fused_attention=False, fused_norms=False, kv_heads=4), "float32")
WHOLE_BYTES = 16 * 32 * 4
"""Of the activations of a row, in float32."""


def cut(rows=1, *, sequence=True, index=1):
    block = block_with_rows(GRAPH.blocks[index], rows)
    return undealt_block(block, tensor=2, splits=GRAPH.splits, sequence=sequence)


def wires(block, direction):
    return Counter(w.kind for op in block.operators for w in getattr(op, direction) if isinstance(w, Collective))


def kernels(block, kind):
    works = [w for op in block.operators for w in (*op.forward, *op.backward) if isinstance(w, Kernel)]
    return [w.written_bytes for w in works if w.kind == kind]


def test_each_projection_gathers_its_input_and_sums_its_own_gradient():
    block = cut()
    assert wires(block, "forward") == {"all_gather": 2, "reduce_scatter": 2}
    done = exchanging(block)
    assert wires(done, "forward") == {"all_gather": 5, "reduce_scatter": 2}  # query, key, value; gate, up
    assert wires(done, "backward") == {"all_gather": 2, "reduce_scatter": 5}


def test_without_a_cut_sequence_each_projection_sums_its_own_gradient():
    block = cut(sequence=False)
    assert wires(block, "backward") == {"all_reduce": 2}
    assert wires(exchanging(block), "backward") == {"all_reduce": 5}


def test_gradients_of_what_is_gathered_are_added_once_they_are_shares():
    before, after = (Counter(kernels(block, "add")) for block in (cut(), exchanging(cut())))
    assert before[WHOLE_BYTES] - after[WHOLE_BYTES] == 3
    assert after[WHOLE_BYTES // 2] - before[WHOLE_BYTES // 2] == 3
    assert sum(before.values()) == sum(after.values())


def test_parts_of_several_rows_are_copied_in_order_and_what_is_scattered_into_parts():
    one, two = (
        len(kernels(exchanging(cut(rows)), "contiguous")) - len(kernels(cut(rows), "contiguous")) for rows in (1, 2)
    )
    assert one == 2 + 5  # whatever is scattered
    assert two == one + 5 + 2  # and whatever is gathered


def test_heads_that_are_exchanged_for_positions_are_copied_before_and_after():
    block = context_parallel(GRAPH.blocks[1], 2, "ulysses")
    sent = wires(block, "forward")["all_to_all"] + wires(block, "backward")["all_to_all"]
    assert len(kernels(exchanging(block), "contiguous")) == len(kernels(block, "contiguous")) + 2 * sent


def test_a_layer_that_exchanges_nothing_stays_as_it_is():
    assert exchanging(GRAPH.blocks[1]).operators == GRAPH.blocks[1].operators


def test_products_cut_by_their_outputs_keep_copies_of_one_input():
    """Queries, keys and values three, gate and up two, of which the first is the input itself; shares are gathered."""
    block = cut(sequence=False)
    assert copies_bytes(block, block.operators) == 3 * WHOLE_BYTES
    assert copies_bytes(block, ()) == 0
    shared = cut()
    assert copies_bytes(shared, shared.operators) == 0
