"""What layers keep under an execution: the published formulas, what is computed again, what degrees and rows do."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cost_model.activations import Activations, activations
from nebula.cost_model.execution import Execution, Recompute
from nebula.graph.experts import expert_parallel
from nebula.graph.partition import tensor_parallel
from nebula.graph.rows import block_with_rows
from nebula.graph.values import Block
from nebula.models.decoders import DECODER_SPLITS, DecoderConfig
from nebula.models.decoders_parts import Experts
from nebula.models.describe_decoder import DecoderBlocks

S, H, A, V = 64, 128, 8, 512
UNFUSED = Execution(dropout=0.1)
STATISTICS = 4 * 4 * S
"""Mean and variance of two norms, float32, which the formulas leave out."""

SIZES = {"layers": 2, "hidden": H, "heads": A, "vocabulary": V, "seq_len": S}
GPT = DecoderConfig(style="gpt", kv_heads=A, ffn=4 * H, fused_attention=False, dropout=0.1, **SIZES)
LLAMA = DecoderConfig(style="llama", kv_heads=A // 2, ffn=3 * H, **SIZES)
MIXTURE = replace(LLAMA, experts=Experts(count=4, top_k=2, ffn=H))


@lru_cache(maxsize=256)
def block(config: DecoderConfig, what: str = "layer", rows: int = 1, tensor: int = 1, sequence: bool = False) -> Block:
    blocks = DecoderBlocks(config=config, dtype="bfloat16")
    made = {
        "layer": blocks.layer,
        "mixed": lambda: blocks.layer(mixed=True),
        "head": blocks.head,
        "embedding": blocks.embedding,
    }[what]()
    return tensor_parallel(block_with_rows(made, rows), tensor, DECODER_SPLITS, sequence=sequence)


def layer(config: DecoderConfig = GPT, what: str = "none", execution: Execution = UNFUSED, **cut) -> Activations:
    return activations(block(config, **cut), replace(execution, recompute=Recompute(what=what)))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    ("tensor", "sequence", "hidden", "scores"),
    [(1, False, 34.0, 5.0), (4, False, 10 + 24 / 4, 5 / 4), (4, True, 34 / 4, 5 / 4)],
)
def test_a_gpt_layer_keeps_what_korthikanti_et_al_count(
    rows: int, tensor: int, sequence: bool, hidden: float, scores: float
) -> None:
    """Equations 1, 2 and 4: s b h (10 + 24/t + 5 a s / (h t)), and all of it over t with sequence parallelism."""
    statistics = rows * STATISTICS / (tensor if sequence else 1)
    found = layer(rows=rows, tensor=tensor, sequence=sequence)
    assert found.kept == rows * S * (hidden * H + scores * A * S) + statistics
    core = layer(what="core", rows=rows, tensor=tensor, sequence=sequence)
    assert core.kept == rows * S * hidden * H + statistics
    assert core.restored == rows * S * scores * A * S


def test_a_layer_that_is_computed_again_keeps_its_input() -> None:
    found = layer(what="layer")
    assert found.kept == 2 * S * H
    assert found.kept + found.restored == layer().kept
    assert activations(block(GPT), replace(UNFUSED, recompute=Recompute(what="layer", every=2)), again=False) == layer()


def test_every_second_product_and_attention_are_kept() -> None:
    """Of query, key, value, out, gate, up, down the odd ones: query, value, gate and down."""
    found = layer(LLAMA, "products")
    statistics = 4 * A * S
    products = S * (H + H / 2 + 3 * H + H)
    assert found.kept == 2 * (S * H + products + S * H) + statistics


def test_fused_attention_keeps_no_scores_and_swiglu_both_its_inputs() -> None:
    found = layer(LLAMA)
    statistics = 4 * A * S + 2 * 4 * S
    # two inputs of norms, two outputs of them, query and out, key and value, gate, up and their product
    assert found.kept == 2 * S * (2 * H + 2 * H + 2 * H + H + 3 * 3 * H) + statistics


def test_a_norm_in_pieces_keeps_six_bytes_more_of_each_element() -> None:
    pieces = replace(UNFUSED, fused_norm=False)
    assert layer(execution=pieces).kept - layer().kept == 2 * 6 * S * H


def test_experts_keep_a_copy_of_each_token_for_each_expert_that_sees_it() -> None:
    whole = block(MIXTURE, "mixed")
    found, dense = activations(whole, UNFUSED), layer(LLAMA)
    copies = 2 * S * 2  # bytes of one element of each of the top 2
    inner = copies * (H + 3 * H + H)  # permuted; gate, up and their product; what comes out
    router = 2 * S * 4 + 8 * S * 2 + 2 * S * 2 + 4 * S * 2  # scores, choices, weights, places
    assert found.kept == dense.kept - 2 * S * 9 * H + inner + router
    # tokens that were sent lie there beside those that came, weights apart nothing changes
    assert found.kept <= activations(expert_parallel(whole, 2), UNFUSED).kept <= found.kept + 2 * copies * H


@pytest.mark.parametrize(
    ("loss", "tensor", "bytes_each"),
    [("kernel", 1, 10), ("kernel", 4, 10), ("composed", 1, 14), ("composed", 4, 18), ("in place", 1, 2)],
)
def test_the_logits_by_how_the_loss_is_computed(loss: str, tensor: int, bytes_each: int) -> None:
    config = replace(GPT, float_logits=True)
    found = activations(block(config, "head", tensor=tensor), replace(UNFUSED, loss=loss))
    assert found.logits == bytes_each * S * V / tensor
    assert found.kept < found.logits
    assert layer().logits == 0.0


def test_narrow_logits_need_no_float32() -> None:
    assert activations(block(GPT, "head"), replace(UNFUSED, float_logits=False)).logits == 3 * 2 * S * V


def test_embedding_and_loss_keep_what_they_keep_though_they_are_computed_again() -> None:
    again = replace(UNFUSED, recompute=Recompute(what="layer"))
    for what in ("embedding", "head"):
        assert activations(block(GPT, what), again) == replace(activations(block(GPT, what), UNFUSED), again=True)


POLICIES = st.sampled_from(["none", "core", "products", "layer"])
CONFIGS = st.sampled_from([GPT, LLAMA])


@given(CONFIGS, st.sampled_from(["core", "layer"]), st.sampled_from([1, 2, 4]), st.booleans(), st.sampled_from([1, 3]))
def test_recompute_never_keeps_more(config: DecoderConfig, what: str, tensor: int, sequence: bool, rows: int) -> None:
    cut = {"rows": rows, "tensor": tensor, "sequence": sequence}
    none, less = layer(config, **cut), layer(config, what, **cut)
    assert less.kept <= none.kept
    assert less.kept + less.restored == pytest.approx(none.kept)


@given(CONFIGS, POLICIES, st.booleans(), st.sampled_from([1, 3]))
def test_activations_fall_with_the_tensor_degree_and_grow_with_the_rows(
    config: DecoderConfig, what: str, sequence: bool, rows: int
) -> None:
    cuts = [layer(config, what, rows=rows, tensor=tensor, sequence=sequence) for tensor in (1, 4)]
    assert cuts[0].kept >= cuts[1].kept
    assert cuts[0].restored >= cuts[1].restored
    more = layer(config, what, rows=rows + 2, sequence=sequence)
    assert more.kept == pytest.approx(cuts[0].kept * (rows + 2) / rows)


@given(POLICIES, st.sampled_from([2, 4]))
def test_a_shared_sequence_is_cut_and_keeps_the_output_of_attention_twice(what: str, parts: int) -> None:
    execution = Execution(recompute=Recompute(what=what))
    whole, part = (activations(block(LLAMA), execution, parts=p) for p in (1, parts))
    twice = 0.0 if what == "layer" else 2 * S * H
    assert part.kept * parts == whole.kept + twice
