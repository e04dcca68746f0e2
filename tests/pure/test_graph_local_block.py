"""Conservation: what all ranks compute, keep, hold and exchange together is what the whole block does."""

from dataclasses import replace
from functools import cache

import pytest
from decoder_samples import GROUPED, LATENT, MIXED
from hypothesis import given
from hypothesis import strategies as st

from nebula.graph.context import context_parallel
from nebula.graph.experts import expert_parameters
from nebula.graph.local_block import local_block
from nebula.graph.rows import block_with_rows
from nebula.graph.values import Collective, Kernel
from nebula.models.decoders import DECODER_SPLITS
from nebula.models.describe import decoder_graph

CONFIGS = (
    GROUPED,
    replace(GROUPED, style="gpt", kv_heads=4),
    replace(GROUPED, latent=LATENT),
    MIXED,
    replace(GROUPED, causal=False),
)
MIRRORED = {"all_gather": "reduce_scatter", "reduce_scatter": "all_gather", "all_to_all": "all_to_all"}


@cache
def whole(config, layer, rows):
    return block_with_rows(decoder_graph("m", CONFIGS[config], "bfloat16").blocks[layer], rows)


BLOCKS = st.builds(whole, st.sampled_from(range(len(CONFIGS))), st.integers(0, 2), st.integers(1, 3))
HOW = st.sampled_from(["ring", "gather", "ulysses"])


@st.composite
def degrees(draw):
    """Degrees of all axes that fit each other and the blocks."""
    tensor, sequence = draw(st.sampled_from([(1, False), (2, True), (2, False)]))
    same = tensor > 1 and not sequence
    return {
        "tensor": tensor,
        "sequence": sequence,
        "splits": DECODER_SPLITS,
        "context": draw(st.sampled_from([1, 2, 4])),
        "how": draw(st.sampled_from(["ring", "gather"])),
        "expert": draw(st.sampled_from([1, 2, 8])),
        "expert_tensor": draw(st.sampled_from([1, tensor] if same else [1, 2])),
    }


def product_flops(block, *, without=()):
    """Of products and attention, forward and backward."""
    return sum(
        work.flops
        for op in block.operators
        for work in (*op.forward, *op.backward)
        if isinstance(work, Kernel) and (work.product or work.kind.startswith("attention"))
        if not op.name.startswith(tuple(without))
    )


@given(BLOCKS, degrees())
def test_products_of_all_ranks_are_those_of_the_whole_block(block, given_degrees):
    """Where a tensor group holds the same tokens each of its ranks runs the router and what compresses latents."""
    same = given_degrees["tensor"] > 1 and not given_degrees["sequence"]
    replicated = ("ffn.router", "attention.query_down", "attention.key_value_down") if same else ("nothing",)
    local = local_block(block, **given_degrees)
    ranks = given_degrees["tensor"] * given_degrees["context"]
    assert ranks * product_flops(local, without=replicated) == product_flops(block, without=replicated)


@given(BLOCKS, st.sampled_from([1, 2, 4]), HOW, st.sampled_from([1, 2, 4, 8]))
def test_context_and_expert_ranks_keep_together_what_one_keeps(block, context, how, expert):
    if how == "ulysses" and context == 4:
        context = 2
    local = local_block(block, context=context, how=how, expert=expert)
    assert context * local.saved_bytes == block.saved_bytes


@given(BLOCKS, degrees())
def test_the_shares_of_all_parameters_are_the_models(block, given_degrees):
    local = local_block(block, **given_degrees)
    experts = expert_parameters(local)
    dealt = given_degrees["expert"] * given_degrees["expert_tensor"]

    def shares(tensor):
        if tensor.name in experts:
            return dealt
        lies = tensor.distribution
        return 1 if lies is None else max(lies.degree(dim) for dim in range(len(tensor.shape)))

    assert sum(t.size * shares(t) for t in local.parameters) == block.parameter_count


@given(BLOCKS, degrees())
def test_what_is_sent_is_received_and_gradients_go_the_way_back(block, given_degrees):
    local = local_block(block, **given_degrees)
    for op in local.operators:
        forward, backward = ([w for w in d if isinstance(w, Collective)] for d in (op.forward, op.backward))
        if op.kind == "all_to_all":
            assert local.tensor(op.inputs[0]).bytes == local.tensor(op.outputs[0]).bytes
        if op.kind in ("all_to_all", "all_gather", "reduce_scatter") and backward and forward:
            assert [(MIRRORED[w.kind], w.axis, w.bytes) for w in forward] == [
                (w.kind, w.axis, w.bytes) for w in backward
            ]


@given(st.sampled_from(range(len(CONFIGS))), st.integers(1, 3), st.sampled_from([2, 4]))
def test_a_ring_and_a_gather_bring_the_same_bytes(config, rows, degree):
    """p - 1 times a shard of keys and values, or all of them but the own."""
    block = whole(config, 1, rows)
    ring, gather = (
        [w.bytes for op in context_parallel(block, degree, how).operators for w in op.forward if is_collective(w)]
        for how in ("ring", "gather")
    )
    assert (degree - 1) * sum(ring) == pytest.approx((degree - 1) / degree * sum(gather))


def is_collective(work):
    return isinstance(work, Collective)


@given(BLOCKS, HOW)
def test_one_rank_is_the_whole_block(block, how):
    assert local_block(block, splits=DECODER_SPLITS, how=how) is block
