"""What each operator kind launches and keeps: laws over all kinds, and hand-worked examples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.graph.builder import BlockBuilder, described
from nebula.graph.rules import RULES, apply
from nebula.graph.rules.strides import contiguous_strides, reshaped, with_copies
from nebula.graph.values import Block, Kernel, Operator, Product, Role, Tensor
from nebula.models.describe import graph, names

BLOCKS = [block for name in names() for block in graph(name, dtype="float32").blocks]


def kernels(block: Block) -> list[Kernel]:
    return [k for op in block.operators for k in (*op.forward, *op.backward) if isinstance(k, Kernel)]


def builder(rows: int = 2) -> BlockBuilder:
    return BlockBuilder("Example", rows=rows, dtype="float32")


def finished(b: BlockBuilder, *outputs: str) -> Block:
    return apply(with_copies(b.build(*outputs)))


def operator(block: Block, kind: str) -> Operator:
    (found,) = [op for op in block.operators if op.kind == kind]
    return found


def launches(block: Block) -> list[str]:
    return [k.kind for op in reversed(block.operators) for k in op.backward if isinstance(k, Kernel)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
def test_applying_rules_twice_changes_nothing(block: Block) -> None:
    assert apply(block) == block
    assert with_copies(block) == block


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
def test_no_kernel_is_free_and_none_is_assumed(block: Block) -> None:
    assert all(k.read_bytes + k.written_bytes > 0 for k in kernels(block))
    assert not [op.kind for op in block.operators if op.kind not in RULES or op.attribute("assumed")]


def test_linear_has_a_product_per_gradient_and_a_sum_for_its_bias() -> None:
    b = builder()
    x = b.input((2, 8, 16))
    block = finished(b, b.linear("up", x, 32))
    product, bias = operator(block, "matmul"), operator(block, "add")
    assert [k.product for k in product.forward if isinstance(k, Kernel)] == [Product(1, 16, 32, 16)]
    assert [k.product for k in product.backward if isinstance(k, Kernel)] == [
        Product(1, 16, 16, 32),
        Product(1, 16, 32, 16),
    ]
    (reduction,) = bias.backward
    assert isinstance(reduction, Kernel)
    assert (reduction.read_bytes, reduction.written_bytes) == (2 * 8 * 32 * 4, 32 * 4)
    assert product.saved == ("x0", "up.weight")
    assert bias.saved == ()


def test_a_linear_on_data_computes_no_gradient_of_it() -> None:
    b = builder()
    x = b.input((2, 8, 16), needs_gradient=False)
    block = finished(b, b.linear("up", x, 32, bias=False))
    (gradient,) = operator(block, "matmul").backward
    assert isinstance(gradient, Kernel)
    assert gradient.product == Product(1, 16, 32, 16)
    assert gradient.written_bytes == 16 * 32 * 4


def test_what_needs_no_gradient_keeps_and_launches_nothing_backward() -> None:
    b = builder()
    x = b.input((2, 8), "int64", needs_gradient=False)
    mask = b.unary("tril", b.operate("full", (), (8, 8), value=1.0)[0], diagonal=0)
    y = b.embedding("tokens", x, 10, 4)
    block = finished(b, b.softmax(mask), y)
    assert operator(block, "softmax").saved == ()
    assert operator(block, "tril").backward == ()
    assert operator(block, "embedding").saved == ("x0",)
    assert not block.tensor("softmax").needs_gradient


def test_gradients_that_meet_are_added_but_for_the_last_user() -> None:
    b = builder()
    x = b.input((2, 8))
    block = finished(b, b.binary("add", b.unary("gelu", x), b.unary("tanh", x)))
    assert launches(block) == ["add_grad", "tanh_grad", "gelu_grad", "add"]
    passed_on = finished(b, b.unary("relu", x), x)
    assert launches(passed_on)[-1] == "add"  # what comes back from outside meets the one computed here


def test_views_share_memory_and_strided_readers_copy() -> None:
    b = builder()
    x = b.input((2, 8, 4))
    y = b.unary("gelu", b.transpose(x, (0, 2, 1)))
    block = finished(b, y)
    assert block.tensor("transpose").alias_of == "x0"
    assert [op.kind for op in block.operators] == ["transpose", "contiguous", "gelu"]
    assert operator(block, "gelu").saved == ("gelu:contiguous0",)
    assert block.saved_bytes == 2 * 8 * 4 * 4


def test_products_keep_a_strided_operand_as_the_view_and_copy_it_again() -> None:
    b = builder()
    x = b.input((2, 8, 4))
    y = b.input((2, 8, 6))
    block = finished(b, b.matmul(b.transpose(x, (0, 2, 1)), y))
    assert operator(block, "matmul").saved == ("transpose", "x1")
    assert launches(block).count("contiguous") == 2  # the kept view, and the gradient on its way back
    assert block.saved_bytes == (2 * 8 * 4 + 2 * 8 * 6) * 4


def test_dropout_keeps_its_mask_of_bytes_and_softmax_its_output() -> None:
    b = builder()
    x = b.input((2, 8))
    block = finished(b, b.dropout(b.softmax(x), 0.1))
    assert operator(block, "dropout").saved == ("dropout:1",)
    assert operator(block, "softmax").saved == ("softmax",)
    assert block.saved_bytes == 16 + 16 * 4


def test_a_frozen_weight_gets_no_gradient() -> None:
    b = builder()
    x = b.input((2, 8, 16))
    block = b.build(b.linear("up", x, 32, bias=False))
    frozen = tuple(
        replace(t, role=Role.BUFFER, needs_gradient=False) if t.name == "up.weight" else t for t in block.tensors
    )
    (gradient,) = operator(apply(replace(block, tensors=frozen)), "matmul").backward
    assert isinstance(gradient, Kernel)
    assert gradient.product == Product(1, 16, 16, 32)


def test_an_unknown_kind_is_counted_by_bytes_and_says_so() -> None:
    x = Tensor(name="x0", shape=(4, 4), dtype="float32", role=Role.INPUT, needs_gradient=True)
    y = Tensor(name="y", shape=(4, 4), dtype="float32")
    strange = Operator(name="y", kind="my_own_kernel", inputs=("x0",), outputs=("y",))
    block = apply(Block(name="B", rows=1, tensors=(x, y), operators=(strange,), inputs=("x0",), outputs=("y",)))
    (op,) = block.operators
    assert op.attribute("assumed") is True
    assert sum(k.read_bytes + k.written_bytes for k in op.forward if isinstance(k, Kernel)) == 2 * 64
    assert op.backward
    assert op.saved == ("x0", "y")


def test_fused_attention_halves_the_products_under_a_causal_mask_and_keeps_no_scores() -> None:
    def block(causal: bool) -> Block:
        b = builder()
        query = b.input((2, 64, 4, 16))
        lse = b.like((2, 4, 64), "float32")
        out = b.operate("attention", (query, query, query), (2, 64, 4, 16), lse, causal=causal, absent=("mask",))[0]
        return finished(b, out)

    whole, half = block(False), block(True)
    assert whole.forward_flops == 2 * 2 * (2 * 4) * 64 * 64 * 16
    assert half.forward_flops * 2 == whole.forward_flops
    assert whole.backward_flops >= 2.5 * whole.forward_flops
    assert whole.saved_bytes == (2 * 2 * 64 * 4 * 16 + 2 * 4 * 64) * 4


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_reshape_of_a_tensor_in_order_is_a_view_in_order(shape: list[int], random) -> None:  # type: ignore[no-untyped-def]
    factors = [f for d in shape for f in {1: [1], 2: [2], 3: [3], 4: [2, 2]}[d]]
    target: list[int] = []
    for factor in factors:
        if target and random.random() < 0.5:
            target[-1] *= factor
        else:
            target.append(factor)
    assert reshaped(shape, contiguous_strides(shape), target) == contiguous_strides(target)


@settings(deadline=None)
@given(st.permutations([0, 1, 2]), st.sampled_from([(24,), (6, 4), (2, 12), (2, 3, 4), (4, 3, 2)]))
def test_strides_of_a_reshape_address_the_same_elements_as_numpy(perm: list[int], target: tuple[int, ...]) -> None:
    x = np.arange(24).reshape(2, 3, 4).transpose(perm)
    strides = tuple(s // x.itemsize for s in x.strides)
    found = reshaped(x.shape, strides, target)
    wanted = x.reshape(target)
    shared = np.shares_memory(x, wanted)
    assert (found is not None) == shared
    if found is not None:
        assert found == tuple(s // wanted.itemsize for s in wanted.strides)


def test_rows_scale_products_and_not_parameters() -> None:
    def build(rows: int) -> Block:
        b = BlockBuilder("Ffn", rows=rows, dtype="float32")
        return b.build(b.linear("down", b.unary("gelu", b.linear("up", b.input((rows, 8)), 32)), 8))

    block = described(build)
    assert block.tensor("gelu").per_row == (1, 0)
    assert block.tensor("up.weight").per_row == ()
