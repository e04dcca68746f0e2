"""What a rank holds of a matrix that is two in one: saved it makes up the whole, and read back it is what it was."""

import itertools

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.checkpoint.boxes import Box, tile
from nebula.runtime.held import Held
from nebula.runtime.tensor import joined, slice_of


@pytest.fixture(autouse=True)
def on_the_cpu():
    paddle.set_device("cpu")


def held(whole: np.ndarray, dim: int, degree: int, rank: int, flat: tuple[int, int] | None) -> Held:
    local = slice_of(whole, dim, degree, rank, halves=True)
    offset = [0] * whole.ndim
    offset[dim] = local.shape[dim] // 2 * rank
    tensor = paddle.to_tensor(local if flat is None else local.reshape(-1)[slice(*flat)])
    return Held(key="w", tensor=tensor, shape=whole.shape, box=Box(tuple(offset), local.shape), flat=flat, seam=dim)


@given(
    rows=st.integers(1, 4),
    share=st.integers(1, 3),
    degree=st.integers(1, 4),
    shards=st.integers(0, 3),
    first=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_all_ranks_together_hold_the_whole_once_and_read_back_what_they_held(rows, share, degree, shards, first):
    shape, dim = ((2 * share * degree, rows), 0) if first else ((rows, 2 * share * degree), 1)
    whole = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    elements = whole.size // degree
    cuts = [elements * shard // shards for shard in range(shards + 1)] if shards else []
    ranges = list(itertools.pairwise(cuts)) or [None]
    every = [held(whole, dim, degree, rank, flat) for rank in range(degree) for flat in ranges]
    parts = [part for one in every for part in one.parts()]
    assert tile(shape, [part.box for part in parts])
    for part in parts:
        assert np.array_equal(part.array, whole[part.box.within(Box((0,) * len(shape), shape))])
    for one in every:
        before = one.tensor.numpy().copy()
        contents = [whole[box.within(Box((0,) * len(shape), shape))] for box in one.boxes]
        one.tensor.zero_()
        one.fill(contents)
        assert np.array_equal(one.tensor.numpy(), before)


@given(share=st.integers(1, 3), degree=st.integers(1, 4))
def test_slices_of_halves_join_to_the_whole(share, degree):
    whole = np.arange(4 * share * degree).reshape(2, -1)
    slices = [slice_of(whole, 1, degree, rank, halves=True) for rank in range(degree)]
    assert np.array_equal(joined(slices, 1, halves=True), whole)
