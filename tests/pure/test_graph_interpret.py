"""200 random annotations of MLP, attention and mixture of experts: completion at its fixed point, cut, run, joined."""

import random

import numpy as np
import pytest
from graph_blocks import experts, mlp, transformer
from graph_cases import assert_backward_equals, assert_forward_equals, random_annotations, random_values

from nebula.errors import BadInput
from nebula.graph.completion import complete
from nebula.graph.interpret import run
from nebula.graph.values import Block, Operator, Role, Tensor

BLOCKS = (mlp(), transformer(), transformer(fused="apart"), experts())
SMALL = (mlp(2, 4, 6), transformer(2, 4, 8, 4), experts(2, 4, 4, 4, 4))


@pytest.fixture(scope="module")
def runs():
    values = [random_values(block, np.random.default_rng(0)) for block in BLOCKS]
    return [(block, v, run(block, v)) for block, v in zip(BLOCKS, values, strict=True)]


@pytest.mark.parametrize("seed", range(200))
def test_completion_is_a_fixed_point_and_the_partitioned_block_equals_the_whole(runs, seed):
    block, values, serial = runs[seed % len(runs)]
    annotations = random_annotations(random.Random(seed), block)
    once = complete(block, annotations)
    assert complete(once, {}) == complete(once, annotations) == once
    assert_forward_equals(block, annotations, values, serial)


@pytest.mark.parametrize("seed", range(9))
def test_gradients_of_partitioned_block_equal_whole(seed):
    block = SMALL[seed % len(SMALL)]
    values = random_values(block, np.random.default_rng(0))
    assert_backward_equals(block, random_annotations(random.Random(seed), block), values)


def test_a_layer_norm_computes_what_its_formula_says():
    block = mlp(2, 3, 4)
    values = random_values(block, np.random.default_rng(0))
    values |= {"ffn.down.weight": np.zeros((16, 4)), "ffn.down.bias": np.zeros(4)}
    x = values["x0"]
    right = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    out = run(block, values)[block.outputs[0]]
    np.testing.assert_allclose(out, right * values["norm.weight"] + values["norm.bias"], atol=1e-12)


def test_a_kind_without_interpretation_is_refused():
    tensors = tuple(
        Tensor(name=n, shape=(2,), dtype="float32", role=r) for n, r in (("x", Role.INPUT), ("y", Role.ACTIVATION))
    )
    operator = Operator(name="op", kind="fft", inputs=("x",), outputs=("y",))
    block = Block(name="b", rows=1, tensors=tensors, operators=(operator,), inputs=("x",), outputs=("y",))
    with pytest.raises(BadInput, match="'fft' has no interpretation"):
        run(block, {"x": np.zeros(2)})
