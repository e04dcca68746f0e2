"""A ring over written-out scores is priced by its meetings: what each scores, what travels and what is waited for."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nebula.cost_model.activations import activations
from nebula.cost_model.communication import Fabric, collective
from nebula.cost_model.eager import eager_execution
from nebula.cost_model.layer import recomputed
from nebula.graph.attention_core import written_cores
from nebula.graph.context import context_parallel
from nebula.graph.local_block import undealt_block
from nebula.graph.ring import KIND, with_rings
from nebula.graph.rows import block_with_rows
from nebula.graph.values import Collective, Kernel
from nebula.models.config import ErnieConfig, ModuleConfig
from nebula.models.describe import decoder_graph, ernie_graph
from tests.pure.cost_samples import cluster, device
from tests.pure.decoder_samples import GROUPED

MODULE = ModuleConfig(layers=1, hidden=24, heads=4, ffn=48)
ERNIE = ErnieConfig(universal=MODULE, nlu=MODULE, nlg=MODULE, vocabulary=48, seq_len=16, max_distance=16, biases=False)
DECODER = replace(GROUPED, fused_attention=False, fused_norms=False, kv_heads=4)
ROWS, RANKS = 3, 2
RUN_BYTES = ROWS * (16 // (2 * RANKS)) * 24 * 4
"""Of a run of queries, keys or values of a half of ERNIE, in float32."""


def ring(whole, *, tensor=1, splits=()):
    whole = block_with_rows(whole, ROWS)
    local = context_parallel(whole, RANKS, "gather")
    local = undealt_block(local, tensor=tensor, splits=splits, sequence=tensor > 1)
    return with_rings(local, whole, RANKS)


def rings(block):
    return [op for op in block.operators if op.kind == KIND]


def layer(config=ERNIE):
    return ernie_graph("e", config, "float32").blocks[1]


def kinds(works):
    return Counter(w.kind for w in works if isinstance(w, Kernel))


def test_the_cores_of_a_layer_are_found_with_what_they_read():
    around, back = written_cores(layer())
    assert not around.causal
    assert back.causal
    assert len({around.query, around.key, around.value, back.query, back.key, back.value}) == 6
    (own,) = written_cores(decoder_graph("d", DECODER, "float32").blocks[1])
    assert own.causal
    assert not written_cores(decoder_graph("d", GROUPED, "float32").blocks[1])  # fused: no scores are written


@pytest.mark.parametrize("tensor", [1, 2])
def test_every_run_of_queries_meets_every_run_of_keys_that_it_may_see(tensor):
    graph = ernie_graph("e", ERNIE, "float32")
    around, back = rings(ring(graph.blocks[1], tensor=tensor, splits=graph.splits))
    for op, met in ((around, 2 * 2 * RANKS), (back, 2 * RANKS + 1)):
        assert kinds(op.forward)["matmul"] == 2 * met  # scores, and values mixed by them
        assert kinds(op.backward)["matmul"] == 3 * met  # scores again, gradients of values and of weights
        assert kinds(op.backward)["matmul_grad"] == 2 * met
        flops = sum(w.flops for w in op.forward if isinstance(w, Kernel) and w.kind == "matmul")
        assert flops == met * 2 * 2 * ROWS * (16 // (2 * RANKS)) ** 2 * 24 / tensor


def test_a_mask_that_is_added_by_itself_is_left_out_where_nothing_is_hidden():
    (op,) = rings(ring(decoder_graph("d", DECODER, "float32").blocks[1]))
    assert kinds(op.forward)["triu"] == 2
    around, back = rings(ring(layer()))
    assert kinds(around.forward)["triu"] == 0
    assert kinds(back.forward)["triu"] == 2 * RANKS + 1  # here it is joined with the bias first


def test_keys_and_values_travel_beside_the_work_and_their_gradients_are_waited_for():
    op, _ = rings(ring(layer()))
    sent = [[(w.kind, w.bytes) for w in side if isinstance(w, Collective)] for side in (op.forward, op.backward)]
    passed = [("ring_exchange", 2 * RUN_BYTES)] * 2
    assert sent == [passed, [*passed, *[("ring_return", 2 * RUN_BYTES)] * 2]]


def test_gradients_come_back_in_one_turn_more():
    (four,), _ = Fabric(cluster(1, 4)).distinct(np.arange(4)[None])
    passed, returned = (collective(kind, four).seconds(1e6) for kind in ("ring_exchange", "ring_return"))
    assert returned == pytest.approx(passed * 4 / 3)


def test_no_scores_are_kept():
    """Kept are queries, keys, values, their mix and two numbers for each query and head."""
    whole = layer()
    execution = eager_execution("float32", "adamw", [device()])
    gathered = context_parallel(block_with_rows(whole, ROWS), RANKS, "gather")
    assert activations(ring(whole), execution).kept < activations(gathered, execution).kept
    for op in rings(ring(whole)):
        assert {*op.inputs[:3], *op.outputs} == set(op.saved)


def test_what_is_written_otherwise_has_no_price_of_its_own():
    """A sequence that the ring's runs do not divide."""
    odd = replace(ERNIE, seq_len=6, max_distance=6)
    assert ring(layer(odd)) is None


def test_selective_recomputation_adds_nothing_to_a_ring():
    assert recomputed(ring(layer()), "selective") == ()
    assert recomputed(ring(layer()), "full")
