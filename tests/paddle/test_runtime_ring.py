"""Ring attention as far as one process can show: a ring of one rank, which meets its keys in two blocks."""

import math
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from nebula.runtime.ring import Ring, Softmax, weights_of
from nebula.runtime.sequence import Deal

ALONE = Deal(group=SimpleNamespace(nranks=1, rank=0, ranks=[0]), mirrored=True)
B, S, HEADS, WIDTH = 2, 8, 2, 4
LOWEST = float(np.finfo(np.float32).min)


@pytest.fixture(autouse=True)
def on_the_cpu():
    paddle.set_device("cpu")
    paddle.seed(3)


def scores_with(mask, dtype="float32"):
    """Scores as attention layers make them, the mask [S, S] added."""

    def scores(query, key, *, queries, keys):
        query, key = (t.transpose([0, 2, 1, 3]) for t in (query, key))
        seen = mask[queries.start : queries.stop, keys.start : keys.stop]
        return (paddle.matmul(query, key, transpose_y=True) + seen).astype(dtype)

    return scores


def around(query, key, value, scores):
    return Ring.apply(query, key, value, scores, (), ALONE).flatten(2)


def serial(query, key, value, scores):
    every = range(S)
    weights = F.softmax(scores(query, key, queries=every, keys=every).astype("float32"), axis=-1)
    return paddle.matmul(weights, value.transpose([0, 2, 1, 3])).transpose([0, 2, 1, 3]).flatten(2)


def output_and_gradients(attend, scores):
    rng = np.random.RandomState(0)
    tensors = [paddle.to_tensor(rng.randn(B, S, HEADS, WIDTH).astype("float32"), stop_gradient=False) for _ in "qkv"]
    out = attend(*tensors, scores)
    (out * paddle.to_tensor(rng.randn(*out.shape).astype("float32"))).sum().backward()
    return [out.numpy(), *(tensor.grad.numpy() for tensor in tensors)]


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient_and_the_others_theirs(frozen):
    found = {}
    for attend in (around, serial):
        tensors = [paddle.cos(paddle.arange(B * S * HEADS * WIDTH) * (1.0 + i)) for i in range(3)]
        tensors = [tensor.reshape([B, S, HEADS, WIDTH]) for tensor in tensors]
        for index, tensor in enumerate(tensors):
            tensor.stop_gradient = index == frozen
        attend(*tensors, scores_with(mask_of(-1e9, []))).square().sum().backward()
        assert tensors[frozen].grad is None
        found[attend] = [tensor.grad.numpy() for index, tensor in enumerate(tensors) if index != frozen]
    for ring, wanted in zip(found[around], found[serial], strict=True):
        np.testing.assert_allclose(ring, wanted, atol=2e-6)


def mask_of(hidden, rows):
    """A causal mask that also hides whole rows."""
    mask = np.triu(np.full([S, S], hidden, dtype=np.float32), 1)
    mask[rows] = hidden
    return paddle.to_tensor(mask)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("hidden", [-1e4, -1e9, -1e30, -1e35, LOWEST / 2])
def test_rows_that_a_mask_hides_whole_train_as_under_a_serial_softmax(hidden, dtype):
    scores = scores_with(mask_of(hidden, [0, 3, 7]), dtype)
    for found, wanted in zip(output_and_gradients(around, scores), output_and_gradients(serial, scores), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_scores_of_fp16_that_overflow_count_as_hidden():
    """-1e9 is -inf there; every row still sees itself."""
    scores = scores_with(mask_of(-1e9, []), "float16")
    for found, wanted in zip(output_and_gradients(around, scores), output_and_gradients(serial, scores), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_query_whose_scores_are_all_minus_infinity_gets_zeros_and_passes_no_gradient(dtype):
    unseen, seen = [0, 3, 7], [1, 2, 4, 5, 6]
    found = output_and_gradients(around, scores_with(mask_of(-math.inf, unseen), dtype))
    assert all(np.isfinite(array).all() for array in found)
    out, of_query, _, of_value = found
    assert (out[:, unseen] == 0).all()
    assert (of_query[:, unseen] == 0).all()
    wanted = output_and_gradients(serial, scores_with(mask_of(-math.inf, []), dtype))
    np.testing.assert_allclose(out[:, seen], wanted[0][:, seen], atol=2e-6)
    np.testing.assert_allclose(of_query[:, seen], wanted[1][:, seen], atol=2e-6)
    assert abs(of_value[:, 7]).max() < 1e-30  # of a key that the last query alone sees, which sees nothing


@pytest.mark.parametrize("lowest", [-1e9, -1e30, LOWEST])
def test_what_is_kept_for_the_backward_gives_the_weights_of_the_forward(lowest):
    """A sum of eight weights is no longer there in the logarithm beside a score of -1e9."""
    scored = paddle.full([1, 1, 2, 8], lowest)
    sums = Softmax(paddle.zeros([1, 2, 1, WIDTH]), WIDTH)
    for block in paddle.split(scored, 2, axis=-1):
        sums.add(block, paddle.ones([1, 1, 4, WIDTH]))
    np.testing.assert_array_equal(weights_of(scored, sums.statistics()).numpy(), np.full([1, 1, 2, 8], 1 / 8))
    np.testing.assert_array_equal(sums.mixed().numpy(), np.ones([1, 1, 2, WIDTH]))
