"""Tensor parallelism of a Transformer is Megatron's: the same cuts, the same collectives, the same results."""

import time

import numpy as np
import pytest
from graph_blocks import SPLITS, embedding, head, transformer
from graph_cases import random_values

from nebula.errors import BadInput
from nebula.graph.interpret import gather, run, run_partitioned
from nebula.graph.interpret_ranks import SimulatedRanks
from nebula.graph.partition import tensor_parallel
from nebula.graph.values import Collective

FUSED = ("by head", "side by side", "stacked", "apart")
LAYER_BYTES = 4 * 6 * 24 * 4


def collectives(block):
    forward = [w for op in block.operators for w in op.forward if isinstance(w, Collective)]
    backward = [w for op in reversed(block.operators) for w in op.backward if isinstance(w, Collective)]
    return forward, backward


def kinds(works):
    return [w.kind for w in works]


@pytest.mark.parametrize("fused", FUSED)
def test_a_layer_has_two_all_reduces_forward_and_two_backward(fused):
    forward, backward = collectives(tensor_parallel(transformer(fused=fused), 2, SPLITS))
    assert kinds(forward) == kinds(backward) == ["all_reduce"] * 2
    assert all(w.axis == "tensor" and w.bytes == LAYER_BYTES for w in (*forward, *backward))


@pytest.mark.parametrize("fused", FUSED)
def test_sequence_parallelism_pairs_gathers_with_scatters(fused):
    block = tensor_parallel(transformer(fused=fused), 2, SPLITS, sequence=True)
    forward, backward = collectives(block)
    assert kinds(forward) == kinds(backward) == ["all_gather", "reduce_scatter"] * 2
    assert all(w.bytes == LAYER_BYTES for w in (*forward, *backward))


def test_sequence_parallelism_cuts_norms_and_residuals():
    block = tensor_parallel(transformer(), 2, SPLITS, sequence=True)
    norms = [op for op in block.operators if op.kind == "layer_norm"]
    assert all(block.tensor(op.inputs[0]).shape == (4, 3, 24) for op in norms)
    assert block.tensor(block.outputs[0]).shape == block.tensor("x0").shape == (4, 3, 24)


def test_sequence_parallelism_reports_the_gradients_to_sum():
    block = tensor_parallel(transformer(), 2, SPLITS, sequence=True)
    whole = {"norm1.weight", "norm1.bias", "attention.out.bias", "norm2.weight", "norm2.bias", "ffn.down.bias"}
    assert dict(block.gradient_sums) == dict.fromkeys(whole, ("tensor",))
    assert tensor_parallel(transformer(), 2, SPLITS).gradient_sums == ()


def test_parameters_of_products_are_divided_and_the_others_whole():
    block = tensor_parallel(transformer(), 3, SPLITS)
    shapes = {t.name: t.shape for t in block.parameters}
    assert shapes["attention.qkv.weight"] == (24, 24)
    assert shapes["attention.qkv.bias"] == (24,)
    assert shapes["attention.out.weight"] == (8, 24)
    assert shapes["attention.out.bias"] == (24,)
    assert shapes["ffn.up.weight"] == (24, 32)
    assert shapes["ffn.down.weight"] == (32, 24)
    assert shapes["norm1.weight"] == (24,)


def test_work_of_products_is_divided():
    whole, local = (tensor_parallel(transformer(), d, SPLITS) for d in (1, 2))
    assert local.rows == whole.rows
    products = {
        block is local: [k.product for op in block.operators for k in op.forward if getattr(k, "product", None)]
        for block in (local, tensor_parallel(transformer(), 3, SPLITS))
    }
    assert products[True]
    assert products[False]
    flops = {two: sum(p.flops for p in found) for two, found in products.items()}
    assert flops[True] * 2 == flops[False] * 3


def test_a_cut_vocabulary_has_one_all_reduce():
    block = tensor_parallel(embedding(), 2, SPLITS)
    forward, backward = collectives(block)
    assert kinds(forward) == ["all_reduce"]
    assert backward == []
    assert block.tensor("words.weight").shape == (12, 8)


def test_a_cut_vocabulary_scatters_along_the_sequence():
    block = tensor_parallel(embedding(), 2, SPLITS, sequence=True)
    forward, backward = collectives(block)
    assert (kinds(forward), kinds(backward)) == (["reduce_scatter"], ["all_gather"])
    assert block.tensor(block.outputs[0]).shape == (4, 3, 8)


def test_the_loss_exchanges_three_small_numbers_a_token():
    forward, backward = collectives(tensor_parallel(head(), 2, SPLITS))
    assert kinds(forward) == ["all_reduce"] * 3
    assert {w.bytes for w in forward} == {4 * 6 * 4}
    assert kinds(backward) == ["all_reduce"]


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize(
    "build", [transformer, embedding, head, *(lambda f=f: transformer(fused=f) for f in FUSED[1:])]
)
def test_the_ranks_results_are_the_whole_blocks(build, sequence):
    block = build()
    local = tensor_parallel(block, 2, SPLITS, sequence=sequence)
    values = random_values(block, np.random.default_rng(0), below=6)
    serial = run(block, values)
    mesh = local.tensors[0].distribution.mesh
    state = run_partitioned(local, values, SimulatedRanks(mesh))
    for name in block.outputs:
        np.testing.assert_allclose(gather(local, name, state[name]), serial[name], 1e-9, 1e-9)


def test_heads_that_the_degree_does_not_divide_are_refused():
    for fused in FUSED:
        with pytest.raises(BadInput, match=r"its 6 heads cannot be cut among 4 ranks \(6 % 4 = 2\)"):
            tensor_parallel(transformer(fused=fused), 4, SPLITS)


def test_a_vocabulary_that_the_degree_does_not_divide_is_refused():
    with pytest.raises(BadInput, match=r"words\.weight: dim 0 of size 24 .* 5 shards"):
        tensor_parallel(embedding(), 5, SPLITS)


def test_an_unknown_split_is_refused():
    with pytest.raises(BadInput, match="'diagonal' is none of column"):
        tensor_parallel(transformer(), 2, (("ffn.up", "diagonal"),))


def test_one_rank_keeps_the_block():
    block = transformer()
    assert tensor_parallel(block, 1, SPLITS) is block


def test_a_block_is_cut_in_20_ms():
    block = transformer(rows=1, places=128, hidden=256, heads=4)
    took_s = []
    for degree in (2, 4, 2, 4, 2, 4):
        start = time.process_time()
        tensor_parallel(block, degree, SPLITS)
        took_s.append(time.process_time() - start)
    assert min(took_s) < 0.02
