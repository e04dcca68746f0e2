"""What passes of a layer take: kernels in their dtype, gradients of weights told from others, the host, the loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cluster.catalogue import device_type, names
from nebula.cost_model.execution import Execution, Recompute
from nebula.cost_model.layer import BACKWARD_HOST
from nebula.cost_model.passes import NOTHING, computed_again, layer_passes
from nebula.cost_model.products import TOGETHER, alone, rested
from nebula.graph.builder import BlockBuilder, described
from nebula.graph.local_block import local_block
from nebula.graph.rows import block_with_rows
from nebula.graph.values import Block
from nebula.models.decoders import DECODER_SPLITS
from nebula.models.describe_decoder import DecoderBlocks
from tests.pure.cost_samples import device
from tests.pure.decoder_samples import GROUPED, MIXED

NARROW = device(peak_flops={"float32": 1e12, "bfloat16": 1e12, "float8_e4m3fn": 2e12}, kernel_s=0.0)
BARE = Execution(host_kernel_s=0.0, fused_pointwise=False)
LAYER = block_with_rows(DecoderBlocks(config=GROUPED, dtype="bfloat16").layer(), 1)
HEAD = block_with_rows(DecoderBlocks(config=GROUPED, dtype="bfloat16").head(), 1)
SCORES = block_with_rows(DecoderBlocks(config=replace(GROUPED, fused_attention=False), dtype="bfloat16").layer(), 1)


def linear(tokens: int, hidden: int, columns: int) -> Block:
    def build(rows: int) -> Block:
        b = BlockBuilder("Linear", rows=rows, dtype="bfloat16")
        return b.build(b.linear("up", b.input((rows, tokens, hidden)), columns, bias=False))

    return block_with_rows(described(build), 1)


@pytest.mark.parametrize("tokens", [32, 64, 128])
@pytest.mark.parametrize("name", ["emulated", "A100-80GB-SXM"])
def test_the_gradient_of_the_weight_is_told_from_that_of_the_input(tokens: int, name: str) -> None:
    kind = device(kernel_s=0.0) if name == "emulated" else device_type(name)
    back = layer_passes(linear(tokens, 64, 64), kind, BARE).backward
    assert 0 < back.weight_products_s < back.products_s
    if tokens == 64:
        assert back.weight_products_s == pytest.approx(back.products_s / 2)


def test_half_of_the_products_of_experts_give_gradients_of_weights() -> None:
    whole = block_with_rows(DecoderBlocks(config=MIXED, dtype="bfloat16").layer(mixed=True), 1)
    fast = device(memory_bytes_per_s=1e18, kernel_s=0.0)
    back = layer_passes(whole, fast, BARE).backward
    assert back.weight_products_s == pytest.approx(back.products_s / 2)


def test_a_narrow_product_reads_narrow_operands_that_a_cast_before_it_writes() -> None:
    tokens, hidden, columns = 64, 32, 16
    found = layer_passes(linear(tokens, hidden, columns), NARROW, replace(BARE, product_dtype="float8_e4m3fn"))
    x, weight, out = 2 * tokens * hidden, 2 * hidden * columns, 2 * tokens * columns
    memory, work = NARROW.memory_bytes_per_s, 2 * tokens * hidden * columns / 2e12

    def product(read: float, written: float) -> float:
        return max(work, (read / 2 + written) / memory)

    casts = {"forward": 2 * x / memory, "backward": 2 * out / memory}
    assert found.forward.kernels_s == pytest.approx(casts["forward"] + product(x + weight, out))
    assert found.backward.kernels_s == pytest.approx(
        casts["backward"] + product(weight + out, x) + product(x + out, weight)
    )
    assert found.forward.products_s == pytest.approx(product(x + weight, out))


def test_the_gradient_that_joined_products_cast_is_as_wide_as_all_of_them() -> None:
    def build(rows: int) -> Block:
        b = BlockBuilder("Two", rows=rows, dtype="bfloat16")
        x = b.input((rows, 64, 32))
        return b.build(b.concat([b.linear(path, x, 16, bias=False) for path in ("gate", "up")], 2))

    joined = block_with_rows(described(build), 1)
    products = replace(joined, operators=tuple(op for op in joined.operators if op.kind == "matmul"))
    found = layer_passes(products, NARROW, replace(BARE, fused_pointwise=True, product_dtype="float8_e4m3fn")).backward
    out = 2 * 64 * (16 + 16)
    assert found.kernels_s - found.products_s == pytest.approx(2 * out / NARROW.memory_bytes_per_s)


def test_the_projection_to_the_vocabulary_stays_wide() -> None:
    wide, narrow = (layer_passes(HEAD, NARROW, replace(BARE, product_dtype=d)) for d in ("bfloat16", "float8_e4m3fn"))
    assert wide == narrow


@pytest.mark.parametrize(
    ("loss", "compiled", "tensor", "forward", "backward"),
    [
        ("kernel", False, 1, 1, 1),
        ("composed", False, 1, 1, 2),
        ("in place", False, 1, 1, 1),
        ("composed", True, 1, 1, 1),
        ("kernel", False, 2, 4, 2),
        ("steps", False, 1, 4, 2),
        ("steps", True, 1, 1, 1),
        ("in place", False, 2, 1, 1),
    ],
)
def test_how_often_the_loss_passes_over_its_logits(loss, compiled, tensor, forward, backward) -> None:
    head = local_block(HEAD, tensor=tensor, splits=DECODER_SPLITS)
    only = replace(head, operators=tuple(op for op in head.operators if op.kind == "cross_entropy"))
    found = layer_passes(only, NARROW, replace(BARE, loss=loss, compiled=compiled))
    (op,) = only.operators
    once = [
        sum(k.read_bytes + k.written_bytes for k in work if hasattr(k, "flops")) for work in (op.forward, op.backward)
    ]
    assert found.forward.kernels_s == pytest.approx(forward * once[0] / NARROW.memory_bytes_per_s)
    assert found.backward.kernels_s == pytest.approx(backward * once[1] / NARROW.memory_bytes_per_s)


def test_what_is_computed_again() -> None:
    def kinds(block: Block, what: str) -> list[str]:
        return [op.kind for op in computed_again(block, Execution(recompute=Recompute(what=what)))]

    assert kinds(LAYER, "none") == []
    assert kinds(LAYER, "layer") == [op.kind for op in LAYER.operators]
    assert kinds(LAYER, "core") == ["attention"]
    core = kinds(SCORES, "core")
    assert (core.count("matmul"), "softmax" in core, "layer_norm" in core) == (2, True, False)
    # of query, key, value, out, gate, up and down the second, fourth and sixth
    again = computed_again(LAYER, Execution(recompute=Recompute(what="products")))
    weights = [op.inputs[1] for op in again if op.kind == "matmul"]
    assert weights == ["attention.key.weight", "attention.out.weight", "ffn.up.weight"]
    assert "attention" not in [op.kind for op in again]
    assert kinds(HEAD, "layer") == []


def test_embeddings_are_never_computed_again() -> None:
    embedding = block_with_rows(DecoderBlocks(config=GROUPED, dtype="bfloat16").embedding(), 1)
    found = layer_passes(embedding, NARROW, replace(BARE, recompute=Recompute(what="layer")))
    assert found.again == NOTHING


def test_a_slow_host_is_waited_for_and_a_compiler_does_without_it() -> None:
    slow = replace(BARE, host_kernel_s=1.0)
    found = layer_passes(linear(8, 8, 8), NARROW, slow)
    assert (found.forward.kernels_s, found.backward.kernels_s) == (1.0, pytest.approx(2 * BACKWARD_HOST))
    compiled = layer_passes(linear(8, 8, 8), NARROW, replace(slow, compiled=True, fused_pointwise=True))
    assert compiled.forward.kernels_s < 1e-3


def test_a_host_that_waits_for_each_kernel_adds_its_launches() -> None:
    block, host_s = linear(4096, 1024, 1024), 1e-3
    alone = layer_passes(block, NARROW, BARE)
    ahead = layer_passes(block, NARROW, replace(BARE, host_kernel_s=host_s))
    waiting = layer_passes(block, NARROW, replace(BARE, host_kernel_s=host_s, blocking=True))
    assert ahead.forward.kernels_s == max(host_s, alone.forward.kernels_s)
    assert waiting.forward.kernels_s == pytest.approx(host_s + alone.forward.kernels_s)
    assert waiting.backward.kernels_s == pytest.approx(2 * BACKWARD_HOST * host_s + alone.backward.kernels_s)
    # nothing else runs meanwhile
    assert (waiting.forward.idle_s, waiting.backward.idle_s) == (0.0, 0.0)


def test_a_norm_in_pieces_is_five_kernels_and_slower() -> None:
    def seconds(fused_norm: bool, host_s: float) -> float:
        execution = replace(BARE, fused_norm=fused_norm, host_kernel_s=host_s)
        return layer_passes(LAYER, NARROW, execution).forward.kernels_s

    assert seconds(False, 1.0) - seconds(True, 1.0) == 2 * 4
    assert seconds(False, 0.0) > seconds(True, 0.0)


@pytest.mark.parametrize("what", ["none", "core", "products", "layer"])
@pytest.mark.parametrize("name", [n for n in names() if n in ("V100-16GB-SXM2", "H100-80GB-SXM", "Ascend-910B", "cpu")])
def test_what_is_computed_again_takes_at_most_a_forward(what: str, name: str) -> None:
    found = layer_passes(SCORES, device_type(name), replace(BARE, recompute=Recompute(what=what)))
    assert found.again.kernels_s <= found.forward.kernels_s * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["memory_bytes_per_s", "peak", "kernel_s", "product_efficiency"]),
    st.floats(1, 10),
    st.sampled_from([LAYER, SCORES, HEAD]),
    st.sampled_from(["H100-80GB-SXM", "Ascend-910B"]),
)
def test_a_better_device_is_never_slower(field: str, factor: float, block: Block, name: str) -> None:
    plain = device_type(name)
    match field:
        case "peak":
            better = replace(plain, peak_flops={k: v * factor for k, v in plain.peak_flops.items()})
        case "kernel_s":
            better = replace(plain, kernel_s=plain.kernel_s / factor)
        case "product_efficiency":
            better = replace(plain, product_efficiency=min(1.0, plain.product_efficiency * factor))
        case _:
            better = replace(plain, memory_bytes_per_s=plain.memory_bytes_per_s * factor)
    before, after = (layer_passes(block, d, BARE) for d in (plain, better))
    for way in ("forward", "backward", "again"):
        assert getattr(after, way).kernels_s <= getattr(before, way).kernels_s * (1 + 1e-9)


@given(st.floats(1e-6, 10), st.floats(1, 100), st.sampled_from([n for n in names() if device_type(n).shaped]))
def test_a_device_that_rested_is_quick_at_first_and_ends_at_its_sustained_rate(
    busy_s: float, longer: float, name: str
) -> None:
    plain = device_type(name)
    short, long = (rested(plain, s).product_efficiency for s in (busy_s, busy_s * longer))
    assert plain.product_efficiency <= long <= short <= max(1.0, plain.product_efficiency)
    assert rested(plain, 1e9).product_efficiency == pytest.approx(plain.product_efficiency)


def test_a_device_alone_sustains_more_but_not_more_than_its_peak() -> None:
    assert alone(device(product_efficiency=0.74)).product_efficiency == pytest.approx(0.74 / TOGETHER)
    assert alone(device(product_efficiency=0.99)).product_efficiency == 1.0
