"""Described decoders: published parameter counts, kept bytes by hand, windows, mixtures of experts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nebula.errors import BadInput
from nebula.graph.experts import expert_parallel
from nebula.graph.partition import tensor_parallel
from nebula.graph.rows import block_with_rows
from nebula.graph.values import Collective, Kernel
from nebula.models.decoders import DecoderConfig
from nebula.models.decoders_parts import Experts, LatentAttention
from nebula.models.describe import decoder_graph

SMALL = DecoderConfig(
    style="gpt", layers=2, hidden=256, heads=8, kv_heads=8, ffn=1024, vocabulary=1024, seq_len=128, dropout=0.1
)
LATENT = LatentAttention(query_rank=1536, key_value_rank=512, plain=128, rotary=64, value=128)
MIXED = replace(SMALL, style="llama", dropout=0.0, experts=Experts(count=8, top_k=2, ffn=512, shared=1, dense_layers=1))


def layer(config: DecoderConfig, index: int = 0):
    graph = decoder_graph("m", config, "bfloat16")
    return graph.block_of(1 + index)


def kernels(block, *kinds):
    return [
        k for op in block.operators for k in (*op.forward, *op.backward) if isinstance(k, Kernel) and k.kind in kinds
    ]


def test_deepseek_v3_has_its_published_parameters() -> None:
    """671 B in all (DeepSeek-V3 technical report, arXiv 2412.19437, section 4.2)."""
    config = DecoderConfig(
        style="llama",
        layers=61,
        hidden=7168,
        heads=128,
        kv_heads=128,
        ffn=18_432,
        vocabulary=129_280,
        seq_len=4096,
        latent=LATENT,
        experts=Experts(count=256, top_k=8, ffn=2048, shared=1, dense_layers=3),
    )
    graph = decoder_graph("deepseek-v3", config, "bfloat16")
    assert graph.parameter_count / 1e9 == pytest.approx(671.03, abs=0.01)
    assert len(graph.blocks) == 4


def test_nemotron_has_its_published_parameters() -> None:
    """12.5 B without and 15.6 B with both embeddings (Nemotron-4 15B, arXiv 2402.16819, section 2.1)."""
    config = DecoderConfig(
        style="nemotron", layers=32, hidden=6144, heads=48, kv_heads=8, ffn=24_576, vocabulary=256_000, seq_len=4096
    )
    count = decoder_graph("n", config, "bfloat16").parameter_count
    assert (count - 2 * 256_000 * 6144) / 1e9 == pytest.approx(12.5, abs=0.05)


def test_a_layer_with_scores_keeps_what_the_formula_says() -> None:
    """s b h (34 + 5 a s / h) bytes in 16 bits (Korthikanti et al., arXiv 2205.05198, equation 1), statistics apart."""
    config = replace(SMALL, fused_attention=False)
    kept = layer(config).saved_bytes / (config.seq_len * config.hidden)
    assert kept == pytest.approx(34 + 5 * config.heads * config.seq_len / config.hidden, abs=0.1)


@pytest.mark.parametrize("sequence", [False, True])
def test_tensor_parallel_divides_what_is_kept_by_the_formula(sequence: bool) -> None:
    """Equations 2 and 4 of the same paper: 10 + 24/t + 5as/(ht), or everything over t with the sequence cut."""
    config = replace(SMALL, fused_attention=False)
    local = tensor_parallel(layer(config), 4, decoder_graph("m", config, "bfloat16").splits, sequence=sequence)
    kept = local.saved_bytes / (config.seq_len * config.hidden)
    scores = 5 * config.heads * config.seq_len / config.hidden
    if sequence:
        # the gathered inputs of two products are kept whole here, which the paper gathers again in the backward
        assert kept == pytest.approx((34 + scores) / 4 + 2 * 2 * 3 / 4, abs=0.1)
    else:
        assert kept == pytest.approx(10 + 24 / 4 + scores / 4, abs=0.1)


def test_shared_keys_are_multiplied_as_often_as_there_are_queries() -> None:
    plain = layer(replace(SMALL, style="llama", dropout=0.0, fused_attention=False))
    shared = layer(replace(SMALL, style="llama", dropout=0.0, fused_attention=False, kv_heads=2))
    scores = [k.product.flops for k in kernels(plain, "matmul") if k.product.batch > 1]
    assert [k.product.flops for k in kernels(shared, "matmul") if k.product.batch > 1] == scores
    assert shared.parameter_count < plain.parameter_count


def test_a_window_and_a_missing_mask_change_the_work_of_attention_alone() -> None:
    full, causal, narrow = (
        layer(replace(SMALL, dropout=0.0, **more)) for more in ({"causal": False}, {}, {"window": 32})
    )
    work = [kernels(b, "attention")[0].flops for b in (full, causal, narrow)]
    assert work[1] == work[0] / 2
    assert work[2] / work[0] == pytest.approx((32 - 32 * 32 / (2 * 128)) / 128)
    assert causal.forward_flops - narrow.forward_flops == work[1] - work[2]


def test_every_second_layer_can_have_the_window() -> None:
    graph = decoder_graph("m", replace(SMALL, layers=4, window=32, window_every=2), "bfloat16")
    assert graph.layers == (0, 1, 2, 1, 2, 3)
    assert len(decoder_graph("m", replace(SMALL, window=4096), "bfloat16").blocks) == 3


def test_latent_attention_splits_over_ranks() -> None:
    config = replace(SMALL, style="llama", dropout=0.0, latent=LATENT)
    graph = decoder_graph("m", config, "bfloat16")
    whole = graph.block_of(1)
    local = tensor_parallel(whole, 4, graph.splits)
    for block, heads in ((whole, 8), (local, 2)):
        core = next(op for op in block.operators if op.kind == "attention")
        query, key, value, out = (block.tensor(n).shape for n in (*core.inputs, core.outputs[0]))
        assert query == key == (1, 128, heads, 192)
        assert value == out == (1, 128, heads, 128)


def test_latent_attention_under_sequence_parallelism_gathers_what_all_heads_share() -> None:
    """Compressed queries, compressed keys and values, and the rotated part of the keys; no heads change ranks."""
    config = replace(SMALL, style="llama", dropout=0.0, latent=LATENT)
    graph = decoder_graph("m", config, "bfloat16")
    local = tensor_parallel(graph.block_of(1), 2, graph.splits, sequence=True)
    sent = [w for op in local.operators for w in op.forward if isinstance(w, Collective)]
    assert [w.bytes for w in sent[:3]] == [2 * 128 * width for width in (1536, 512, 64)]
    assert [w.kind for w in sent] == ["all_gather"] * 3 + ["reduce_scatter", "all_gather", "reduce_scatter"]


def test_logits_in_fp32_take_twice_the_memory() -> None:
    half = decoder_graph("m", SMALL, "bfloat16").blocks[-1]
    wide = decoder_graph("m", replace(SMALL, float_logits=True), "bfloat16").blocks[-1]
    logits = 128 * 1024
    assert wide.saved_bytes - half.saved_bytes == 2 * logits


def test_experts_do_the_work_of_the_tokens_that_they_see() -> None:
    dense, mixed = layer(MIXED, 0), layer(MIXED, 1)
    grouped = kernels(mixed, "grouped_matmul")
    assert {k.product.batch for k in grouped} == {8}
    assert sum(k.flops for k in grouped) == 2 * 3 * 128 * 2 * 256 * 512
    assert not kernels(dense, "grouped_matmul")
    skewed = layer(replace(MIXED, experts=replace(MIXED.experts, imbalance=1.5)), 1)
    assert sum(k.flops for k in kernels(skewed, "grouped_matmul")) == 1.5 * sum(k.flops for k in grouped)


def test_experts_over_ranks_keep_the_work_and_divide_the_weights() -> None:
    whole = block_with_rows(layer(MIXED, 1), 4)
    local = expert_parallel(whole, 4)
    assert local.forward_flops == whole.forward_flops
    weights = 8 * 3 * 256 * 512
    assert whole.parameter_count - local.parameter_count == weights * 3 / 4
    sent = [w for op in local.operators for w in (*op.forward, *op.backward) if isinstance(w, Collective)]
    assert [w.kind for w in sent] == ["all_to_all"] * 4
    assert {w.bytes for w in sent} == {4 * 128 * 2 * 256 * 2}
    assert expert_parallel(whole, 1) is whole
    assert expert_parallel(layer(SMALL), 4) == layer(SMALL)


def test_parts_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadInput, match="8 experts % 3 = 2"):
        expert_parallel(layer(MIXED, 1), 3)
    with pytest.raises(BadInput, match="top_k 9 of 8 experts"):
        Experts(count=8, top_k=9)
    with pytest.raises(BadInput, match="the busiest rank has at least the mean"):
        Experts(imbalance=0.5)
    with pytest.raises(BadInput, match="rotary 0"):
        LatentAttention(key_value_rank=512, plain=128, value=128)
