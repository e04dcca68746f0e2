"""A context group shares the sequence: everything is cut along it, and attention exchanges what a rank lacks."""

from dataclasses import replace

import numpy as np
import pytest
from decoder_samples import GROUPED, LATENT
from graph_blocks import SPLITS, attention, flat_mlp, mlp, transformer, written
from graph_cases import assert_backward_equals, assert_forward_equals, random_values

from nebula.errors import BadInput
from nebula.graph.context import context_parallel, require_heads
from nebula.graph.distribution import Distribution, Mesh
from nebula.graph.partition import tensor_parallel
from nebula.graph.rows import block_with_rows
from nebula.graph.values import Collective, Kernel
from nebula.models.config import ErnieConfig, ModuleConfig
from nebula.models.describe import decoder_graph, ernie_graph

KEY_BYTES = 16 * 2 * 8 * 2  # of the whole sequence: positions, key heads, width, bytes of bfloat16


def blocks(config=GROUPED):
    return decoder_graph("m", config, "bfloat16").blocks


def works(block, direction, kind=object):
    return [w for op in block.operators for w in getattr(op, direction) if isinstance(w, kind)]


def sent(block, direction):
    return [(w.kind, w.axis, w.bytes) for w in works(block, direction, Collective)]


def core(block):
    return next(op for op in block.operators if op.kind == "attention")


def test_everything_is_cut_along_the_sequence_and_parameters_are_whole():
    embedding, layer, head = (context_parallel(b, 4) for b in blocks())
    assert [embedding.tensor(n).shape for n in (*embedding.inputs, *embedding.outputs)] == [(1, 4), (1, 4, 32)]
    assert [layer.tensor(n).shape for n in (*layer.inputs, *layer.outputs)] == [(1, 4, 32)] * 2
    assert [head.tensor(n).shape for n in head.inputs] == [(1, 4, 32), (1, 4)]
    for local, whole in zip((embedding, layer, head), blocks(), strict=True):
        assert local.parameters == whole.parameters
        assert dict(local.gradient_sums) == {t.name: ("context",) for t in whole.parameters}
    assert not any(t.shape[1:2] == (16,) for b in (embedding, layer, head) for t in b.tensors if t.role == "activation")


def test_a_ring_passes_keys_and_values_and_later_their_gradients():
    local = context_parallel(blocks()[1], 4)
    assert sent(local, "forward") == [("ring_exchange", "context", 2 * KEY_BYTES / 4)]
    assert sent(local, "backward") == [("ring_exchange", "context", 4 * KEY_BYTES / 4)]
    kernels = [w for w in core(local).forward if isinstance(w, Kernel)]
    assert [k.kind for k in kernels] == ["attention"] * 4 + ["add"] * 3
    assert len({k.flops for k in kernels[:4]}) == 1


def test_a_gather_brings_keys_and_values_and_scatters_their_gradients():
    local = context_parallel(blocks()[1], 4, "gather")
    assert sent(local, "forward") == [("all_gather", "context", KEY_BYTES)] * 2
    assert [kind for kind, _, _ in sent(local, "backward")] == ["all_gather"] * 2 + ["reduce_scatter"] * 2
    assert {size for _, _, size in sent(local, "backward")} == {KEY_BYTES}


def test_ulysses_exchanges_positions_for_heads_and_back():
    local = context_parallel(blocks()[1], 2, "ulysses")
    own = [KEY_BYTES, KEY_BYTES / 2, KEY_BYTES / 2]  # twice as many query heads as key heads
    assert sent(local, "forward") == [("all_to_all", "context", b) for b in (*own, own[0])]
    assert sent(local, "backward") == [("all_to_all", "context", b) for b in (own[0], *own)]


def test_ulysses_exchanges_heads_of_attention_whose_scores_are_written_out():
    whole = transformer(places=8)
    local = context_parallel(whole, 2, "ulysses")
    own = 4 * 8 * 24 * 4 / 2  # rows, positions, hidden, bytes of fp32, of one of two ranks
    assert sent(local, "forward") == [("all_to_all", "context", own)] * 4
    assert sorted(sent(local, "backward")) == [("all_to_all", "context", own)] * 4
    scores = next(op for op in local.operators if op.kind == "softmax")
    rows, heads, *square = whole.tensor(scores.inputs[0]).shape
    assert local.tensor(scores.inputs[0]).shape == (rows, heads // 2, *square)
    with pytest.raises(
        BadInput, match=rf"{heads} heads cannot be exchanged among 8 ranks \({heads} % 8 = {heads % 8}\)"
    ):
        context_parallel(whole, 8, "ulysses")


@pytest.mark.parametrize("how", ["ring", "gather", "ulysses"])
def test_a_tensor_group_divides_what_the_context_group_exchanges(how):
    layer = blocks(replace(GROUPED, kv_heads=4))[1]
    alone = context_parallel(layer, 2, how)
    both = tensor_parallel(alone, 2, (("attention.*", "column"),), sequence=True)
    halved = [(kind, axis, size / 2) for kind, axis, size in sent(alone, "forward")]
    assert [s for s in sent(both, "forward") if s[1] == "context"] == halved
    assert both.tensor(both.inputs[0]).shape == (1, 4, 32)
    assert dict(both.gradient_sums)["attention_norm.weight"] == ("context", "tensor")


def test_collectives_of_unfused_attention_shrink_with_a_tensor_group():
    alone = context_parallel(transformer(places=8), 2, "gather")
    both = tensor_parallel(alone, 2, SPLITS)
    assert sent(alone, "forward") == [("all_gather", "context", 4 * 8 * 24 * 4)] * 2
    assert [s for s in sent(both, "forward") if s[1] == "context"] == [("all_gather", "context", 4 * 8 * 24 * 2)] * 2


def test_ranks_with_part_of_the_queries_compute_the_same_scores():
    """Unfused causal attention, its mask cut by queries; in numpy, with the gradients."""
    block = decoder_graph("m", replace(GROUPED, seq_len=4, fused_attention=False), "float32").blocks[1]
    mesh = Mesh(shape=(2,), axes=("context",))
    annotations = {"x0": Distribution(mesh=mesh, dims_mapping=(-1, 0, -1))}
    values = random_values(block, np.random.default_rng(0))
    local = assert_forward_equals(block, annotations, values)
    assert_backward_equals(block, annotations, values)
    mask = next(op for op in local.operators if op.kind == "triu")
    assert local.tensor(mask.inputs[0]).shape == (2, 4)


def test_latent_attention_exchanges_its_heads():
    """Keys and values leave the compressed width on each rank, as in Megatron-LM."""
    local = context_parallel(blocks(replace(GROUPED, latent=LATENT))[1], 2)
    assert sent(local, "forward") == [("ring_exchange", "context", 8 * 4 * (12 + 6) * 2)]


def test_a_window_sees_as_much_as_without_a_context_group():
    whole = blocks(replace(GROUPED, window=4))[1]
    assert 4 * context_parallel(whole, 4).forward_flops == pytest.approx(whole.forward_flops, rel=0.02)


def test_the_layers_of_ernie_are_shared_by_gathering():
    module = ModuleConfig(layers=1, hidden=24, heads=4, ffn=48)
    config = ErnieConfig(universal=module, nlu=module, nlg=module, vocabulary=48, seq_len=16, memory_length=8)
    for block in ernie_graph("e", config, "float32").blocks:
        local = context_parallel(block, 2, "gather")
        assert all(16 not in local.tensor(n).shape for n in (*local.inputs, *local.outputs))
    with pytest.raises(BadInput, match="needed whole outside of a fused attention, which how='ring' cannot share"):
        context_parallel(ernie_graph("e", config, "float32").blocks[1], 2)


def test_positions_are_found_where_rows_are_merged_or_second():
    assert context_parallel(flat_mlp(rows=4, places=6), 3).tensor("x0").shape == (8, 12)
    turned = written("Turned", 3, lambda b: b.linear("ffn.up", b.input((6, b.rows, 12)), 12))
    assert context_parallel(turned, 2).tensor("x0").shape == (3, 3, 12)
    heads = written("Core", 2, lambda b: _bare_attention(b, b.input((b.rows, 8, 4, 2))))
    assert context_parallel(heads, 2).tensor("x0").shape == (2, 4, 4, 2)


def _bare_attention(b, x):
    return b.operate("attention", (x, x, x), b.shape(x), (b.rows, 4, 8), causal=True)[0]


def test_what_cannot_be_told_or_divided_is_refused():
    images = written("Images", 2, lambda b: b.unary("gelu", b.input((b.rows, 3, 8, 8)), approximate=False))
    with pytest.raises(BadInput, match=r"input x0 of shape \[2, 3, 8, 8\]: any of the dims \[1, 2\] may be the seq"):
        context_parallel(images, 2)
    pooled = written("Pooled", 2, lambda b: b.linear("ffn.up", b.input((b.rows, 8)), 4))
    with pytest.raises(BadInput, match="block Pooled has no input with a sequence"):
        context_parallel(pooled, 2)
    with pytest.raises(BadInput, match=r"of 8 positions cannot be dealt to 8 ranks in 16 equal chunks \(8 % 16 = 8\)"):
        context_parallel(attention(), 8)
    with pytest.raises(BadInput, match=r"x0: dim 1 of size 6 cannot be cut into 4 shards"):
        context_parallel(mlp(), 4)
    with pytest.raises(BadInput, match=r"its 4 key heads on a rank cannot be exchanged among 8 ranks \(4 % 8 = 4\)"):
        context_parallel(attention(places=16), 8, "ulysses")
    with pytest.raises(BadInput, match="context parallelism 'rings' is unknown: did you mean 'ring'"):
        context_parallel(mlp(), 2, "rings")
    with pytest.raises(BadInput, match="is distributed already: cut it along the sequence first"):
        context_parallel(tensor_parallel(mlp(), 2, SPLITS), 2)


def test_rows_are_set_before_the_sequence_is_gathered():
    """A ring is worked out anew for other rows; a gather was sized for those that it was cut at."""
    layer = blocks()[1]
    assert block_with_rows(context_parallel(layer, 2), 3) == context_parallel(block_with_rows(layer, 3), 2)
    with pytest.raises(BadInput, match="set the rows of the whole block, then distribute it"):
        block_with_rows(context_parallel(transformer(places=8), 2, "gather"), 3)


def test_heads_are_exchanged_among_all_ranks_that_share_them():
    whole = transformer(places=8)
    heads = whole.tensor(next(op for op in whole.operators if op.kind == "softmax").inputs[0]).shape[1]
    require_heads(whole, heads)
    with pytest.raises(BadInput, match=rf"{heads} heads cannot be exchanged among {2 * heads} ranks"):
        require_heads(whole, 2 * heads)  # tensor 2 x context HEADS, of which each by itself divides them
