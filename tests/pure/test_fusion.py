"""What fusion launches: kernels by hand with their bytes, and what it must conserve on any block."""

from __future__ import annotations

from collections.abc import Callable
from graphlib import TopologicalSorter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cost_model.fusion import fused, regions, separate
from nebula.cost_model.siblings import operand_gradients
from nebula.graph.builder import BlockBuilder, described
from nebula.graph.local_block import local_block
from nebula.graph.rows import block_with_rows
from nebula.graph.rules import apply
from nebula.graph.values import Block, Collective, Kernel, Product
from nebula.models.decoders import DECODER_SPLITS
from nebula.models.describe_decoder import DecoderBlocks
from tests.pure.decoder_samples import GROUPED, MIXED

SIZE = 2  # bytes of an element of bfloat16


def block(write: Callable[..., str], *shapes: tuple[int, ...]) -> Block:
    """One row of what `write(builder, *inputs)` computes from inputs [1, *shape]."""

    def build(rows: int) -> Block:
        b = BlockBuilder("B", rows=rows, dtype="bfloat16")
        inputs = [b.input((rows, *shape)) for shape in shapes]
        return b.build(write(b, *inputs))

    return block_with_rows(described(build), 1)


def kernels(of: Block, direction: str = "forward") -> list[Kernel]:
    return [w for op in of.operators for w in getattr(op, direction) if isinstance(w, Kernel)]


def moved(of: Block, direction: str, kind: str) -> tuple[float, float]:
    """Bytes read and written by the only kernel of that kind."""
    (found,) = [k for k in kernels(of, direction) if k.kind == kind]
    return found.read_bytes, found.written_bytes


def test_scale_mask_and_softmax_are_one_kernel_that_reads_and_writes_the_scores_once() -> None:
    def write(b: BlockBuilder, x: str) -> str:
        mask = b.unary("triu", b.operate("full", (), (16, 16), value=-1e4)[0], diagonal=1)
        return b.softmax(b.binary("add", b.scale(x, 0.5), mask))

    done = fused(block(write, (4, 16, 16)), compiled=False)
    scores = 4 * 16 * 16 * SIZE
    (forward,), (backward,) = kernels(done), kernels(done, "backward")
    assert (forward.kind, forward.read_bytes, forward.written_bytes) == ("fused_softmax", scores, scores)
    assert (backward.kind, backward.read_bytes, backward.written_bytes) == ("fused_softmax_grad", 2 * scores, scores)


def test_bias_and_gelu_are_one_kernel_whose_backward_works_the_sum_out_again() -> None:
    done = fused(block(lambda b, x: b.unary("gelu", b.linear("up", x, 32)), (8, 16)), compiled=False)
    inner, bias = 8 * 32 * SIZE, 32 * SIZE
    assert [k.kind for k in kernels(done)] == ["matmul", "fused_gelu"]
    assert moved(done, "forward", "fused_gelu") == (inner + bias, inner)
    assert moved(done, "backward", "fused_gelu_grad") == (inner + inner, inner + bias)


def test_bias_dropout_and_residual_sum_are_one_kernel_that_hands_the_gradient_of_the_sum_on() -> None:
    def write(b: BlockBuilder, x: str, residual: str) -> str:
        return b.binary("add", residual, b.dropout(b.linear("out", x, 16), 0.1))

    done = fused(block(write, (8, 16), (8, 16)), compiled=False)
    size, bias, mask = 8 * 16 * SIZE, 16 * SIZE, 8 * 16
    assert moved(done, "forward", "fused_add") == (2 * size + bias, size + mask)
    assert moved(done, "backward", "fused_add_grad") == (mask + size, size + bias)


@pytest.mark.parametrize("tokens", [8, 16, 32])
def test_query_key_and_value_are_one_product(tokens: int) -> None:
    hidden, narrow = 16, 4

    def write(b: BlockBuilder, x: str) -> str:
        parts = (b.linear(path, x, n, bias=False) for path, n in (("q", hidden), ("k", narrow), ("v", narrow)))
        return b.concat(list(parts), 2)

    done = fused(block(write, (tokens, hidden)), compiled=False)
    columns = hidden + 2 * narrow
    (forward,) = [k for k in kernels(done) if k.product]
    of_input, of_weight = (k for k in kernels(done, "backward") if k.product)
    x, weight, out = (SIZE * n for n in (tokens * hidden, hidden * columns, tokens * columns))
    assert forward.product == Product(1, tokens, columns, hidden)
    assert of_input.product == Product(1, tokens, hidden, columns)
    assert of_weight.product == Product(1, hidden, columns, tokens)
    assert [(k.read_bytes, k.written_bytes) for k in (forward, of_input, of_weight)] == [
        (x + weight, out),
        (weight + out, x),
        (x + out, weight),
    ]
    assert not [k for k in kernels(done, "backward") if k.kind == "add"]


def test_gate_and_up_are_one_product_and_swiglu_stays_a_kernel() -> None:
    def write(b: BlockBuilder, x: str) -> str:
        gate, up = (b.linear(path, x, 32, bias=False) for path in ("gate", "up"))
        return b.operate("swiglu", (gate, up), b.shape(gate))[0]

    done = fused(block(write, (8, 16)), compiled=False)
    inner = 8 * 32 * SIZE
    assert [k.kind for k in kernels(done)] == ["matmul", "swiglu"]
    assert moved(done, "forward", "swiglu") == (2 * inner, inner)


def test_biases_of_gate_and_up_join_the_kernel_of_both() -> None:
    def write(b: BlockBuilder, x: str) -> str:
        gate, up = (b.linear(path, x, 32) for path in ("gate", "up"))
        return b.operate("swiglu", (gate, up), b.shape(gate))[0]

    done = fused(block(write, (8, 16)), compiled=False)
    inner, bias = 8 * 32 * SIZE, 32 * SIZE
    assert moved(done, "forward", "fused_swiglu") == (2 * inner + 2 * bias, inner)


def test_a_view_inside_a_region_costs_nothing() -> None:
    def write(b: BlockBuilder, x: str) -> str:
        return b.unary("gelu", b.reshape(b.scale(x, 2.0), (b.rows, 4, 32)))

    done = fused(block(write, (8, 16)), compiled=False)
    size = 8 * 16 * SIZE
    assert moved(done, "forward", "fused_gelu") == (size, size)


def test_the_lower_part_of_an_activation_is_no_mask() -> None:
    done = fused(block(lambda b, x: b.unary("tril", x, diagonal=0), (16, 16)), compiled=False)
    assert sum(k.read_bytes for k in kernels(done)) == 16 * 16 * SIZE


def test_a_gradient_of_someone_else_is_still_added_to_that_of_siblings() -> None:
    def write(b: BlockBuilder, x: str) -> str:
        gate, up = (b.linear(path, x, 16, bias=False) for path in ("gate", "up"))
        return b.concat([gate, up, b.operate("sin", (x,), b.shape(x))[0]], 2)

    whole = block(write, (8, 16))
    sums = [
        len([k for k in kernels(of, "backward") if k.kind == "add"]) for of in (whole, fused(whole, compiled=False))
    ]
    assert sums == [2, 1]


def test_two_neighbours_that_wait_for_each_other_are_one_region() -> None:
    def write(b: BlockBuilder, x: str, y: str) -> str:
        one, two = b.unary("silu", x), b.unary("relu", y)
        return b.binary("add", two, b.binary("multiply", one, two))

    (members,) = regions(block(write, (8,), (8,)), compiled=False)
    assert [op.kind for op in members] == ["silu", "relu", "multiply", "add"]


def test_a_compiler_goes_on_behind_a_softmax_and_joins_norms() -> None:
    def write(b: BlockBuilder, x: str) -> str:
        return b.layer_norm("norm", b.scale(b.softmax(b.scale(x, 2.0)), 3.0))

    whole = block(write, (8, 16))
    assert [len(r) for r in regions(whole, compiled=False)] == [2, 1]
    assert [len(r) for r in regions(whole, compiled=True)] == [4]


def test_eager_stacks_add_a_bias_in_its_product_and_hand_gradients_of_sums_on() -> None:
    def write(b: BlockBuilder, x: str, residual: str) -> str:
        return b.binary("add", residual, b.unary("gelu", b.linear("up", x, 16)))

    done = separate(block(write, (8, 16), (8, 16)))
    assert [k.kind for k in kernels(done)] == ["matmul", "gelu", "add"]
    assert [k.kind for k in kernels(done, "backward")].count("add_grad") == 1


UNARY = ("gelu", "relu", "scale", "softmax", "dropout", "sin", "linear", "reshape", "layer_norm")
BINARY = ("add", "multiply", "matmul")


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """A block of operators that read any earlier result, square so that all shapes fit."""
    steps = draw(
        st.lists(
            st.tuples(st.sampled_from(UNARY + BINARY), st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=9
        )
    )

    def build(rows: int) -> Block:
        b = BlockBuilder("Any", rows=rows, dtype="bfloat16")
        made = [b.input((rows, 4, 4)), b.input((rows, 4, 4))]
        for at, (kind, first, second) in enumerate(steps):
            x, y = made[first % len(made)], made[second % len(made)]
            match kind:
                case "add" | "multiply":
                    made.append(b.binary(kind, x, y))
                case "matmul":
                    made.append(b.matmul(x, y))
                case "linear":
                    made.append(b.linear(f"l{at}", x, 4, bias=bool(second % 2)))
                case "layer_norm":
                    made.append(b.layer_norm(f"n{at}", x))
                case "reshape":
                    made.append(b.reshape(x, b.shape(x)))
                case "scale" | "softmax":
                    made.append(b.scale(x, 2.0) if kind == "scale" else b.softmax(x))
                case "dropout":
                    made.append(b.dropout(x, 0.1))
                case _:
                    made.append(b.operate(kind, (x,), b.shape(x))[0])
        return b.build(made[-1])

    return described(build)


def layers() -> list[Block]:
    """Layers with collectives of every axis."""
    wholes = [DecoderBlocks(config=c, dtype="bfloat16").layer(mixed=m) for c, m in ((GROUPED, False), (MIXED, True))]
    cuts = ({}, {"tensor": 2, "sequence": True}, {"tensor": 2}, {"context": 2})
    found = [local_block(whole, splits=DECODER_SPLITS, **cut) for whole in wholes for cut in cuts]
    return [*found, local_block(wholes[1], splits=DECODER_SPLITS, tensor=2, sequence=True, expert=2, expert_tensor=2)]


def product_flops(of: Block, direction: str) -> float:
    return sum(k.product.flops for k in kernels(of, direction) if k.product)


def collectives(of: Block, direction: str) -> list[Collective]:
    return [w for op in of.operators for w in getattr(op, direction) if isinstance(w, Collective)]


def assert_conserved(whole: Block, done: Block) -> None:
    for direction in ("forward", "backward"):
        assert product_flops(done, direction) == product_flops(whole, direction)
        assert collectives(done, direction) == collectives(whole, direction)
        assert len(kernels(done, direction)) <= len(kernels(whole, direction))
    assert sum(k.flops for k in kernels(done)) <= sum(k.flops for k in kernels(whole))
    assert sum(k.read_bytes + k.written_bytes for k in kernels(done)) <= sum(
        k.read_bytes + k.written_bytes for k in kernels(whole)
    )


@settings(max_examples=12, deadline=None)
@given(blocks(), st.booleans())
def test_products_keep_their_flops_and_nothing_moves_more(whole: Block, compiled: bool) -> None:
    assert_conserved(whole, fused(whole, compiled))
    assert_conserved(whole, separate(whole))


@pytest.mark.parametrize("whole", layers(), ids=lambda b: b.name)
@pytest.mark.parametrize("compiled", [False, True])
def test_layers_keep_the_flops_of_products_and_their_collectives(whole: Block, compiled: bool) -> None:
    assert_conserved(whole, fused(whole, compiled))
    assert_conserved(whole, separate(whole))


@settings(max_examples=12, deadline=None)
@given(blocks(), st.booleans())
def test_fusing_twice_is_fusing_once(whole: Block, compiled: bool) -> None:
    once = fused(whole, compiled)
    assert fused(once, compiled) == once
    assert separate(separate(whole)) == separate(whole)


@settings(max_examples=12, deadline=None)
@given(blocks(), st.booleans())
def test_regions_hold_no_product_and_wait_for_each_other_in_one_direction(whole: Block, compiled: bool) -> None:
    place = {op.name: op.name for op in whole.operators}
    for members in regions(whole, compiled):
        assert not [op for op in members if any(k.product for k in op.forward if isinstance(k, Kernel))]
        assert all(place[op.name] == op.name for op in members), "an operator is in one region"
        place.update({op.name: f"region of {members[0].name}" for op in members})
    made: dict[str, str] = {}
    for op in whole.operators:
        # a view is with whoever makes what it shows
        shown = made.get(whole.tensor(op.outputs[0]).alias_of) if op.inputs else None
        place[op.name] = shown or place[op.name]
        made.update(dict.fromkeys(op.outputs, place[op.name]))
    waits: dict[str, set[str]] = {}
    for op in whole.operators:
        needed = {made[n] for n in op.inputs if n in made} - {place[op.name]}
        waits.setdefault(place[op.name], set()).update(needed)
    TopologicalSorter(waits).prepare()


@settings(max_examples=12, deadline=None)
@given(blocks())
def test_kinds_that_nobody_knows_keep_their_kernels(whole: Block) -> None:
    done = fused(whole, compiled=True)
    strange = [(a, b) for a, b in zip(whole.operators, done.operators, strict=True) if a.kind == "sin"]
    assert all(a == b for a, b in strange)


def test_gradients_are_told_by_their_place_not_by_their_shape() -> None:
    whole = block(lambda b, x: b.linear("square", x, 16, bias=False), (16, 16))
    (product,) = whole.operators
    of_input, of_weight = operand_gradients(product, whole.by_name)
    assert (of_input, of_weight) == product.backward
    ids = BlockBuilder("Frozen", rows=1, dtype="bfloat16")
    x = ids.input((1, 16, 16), needs_gradient=False)
    frozen = apply(ids.build(ids.linear("square", x, 16, bias=False)))
    assert operand_gradients(frozen.operators[0], frozen.by_name) == (None, frozen.operators[0].backward[0])
