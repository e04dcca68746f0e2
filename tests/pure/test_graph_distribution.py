"""Shards of a tensor tile it, whatever the cut; uneven cuts are refused with their equation."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.errors import BadInput
from nebula.graph.distribution import Distribution, Mesh, distribution, held, require_even, uneven_dim


@st.composite
def lying(draw):
    """A mesh, a shape and a distribution that fits."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    mesh = Mesh(shape=tuple(sizes), axes=("data", "context", "tensor")[: len(sizes)])
    rank = draw(st.integers(1, 3))
    axes = draw(st.permutations([*range(len(sizes)), *[-1] * rank]))[:rank]
    cuts = [(a, draw(st.integers(1, 3)) if a >= 0 else 1) for a in axes]
    shape = tuple((mesh.shape[a] if a >= 0 else 1) * n * draw(st.integers(1, 2)) for a, n in cuts)
    return shape, distribution(mesh, cuts)


@given(lying())
def test_shards_tile_the_tensor(drawn):
    shape, lies = drawn
    times = dict.fromkeys(range(math.prod(shape)), 0)
    for rank in range(lies.mesh.size):
        indices = held(shape, lies, rank)
        assert tuple(map(len, indices)) == lies.local_shape(shape)
        flat = [0]
        for n, index in zip(shape, indices, strict=True):
            flat = [f * n + i for f in flat for i in index]
        for element in flat:
            times[element] += 1
    shards = math.prod(lies.degree(dim) for dim in range(len(shape)))
    assert set(times.values()) == {lies.mesh.size // shards}


@given(lying())
def test_groups_along_an_axis_part_the_mesh(drawn):
    mesh = drawn[1].mesh
    for axis in range(len(mesh.shape)):
        groups = {mesh.group(rank, axis) for rank in range(mesh.size)}
        assert sorted(r for group in groups for r in group) == list(range(mesh.size))
        for group in groups:
            assert [mesh.coordinate(r, axis) for r in group] == list(range(mesh.shape[axis]))


def test_an_uneven_cut_is_refused_with_its_numbers():
    mesh = Mesh(shape=(4,), axes=("tensor",))
    lies = Distribution(mesh=mesh, dims_mapping=(-1, 0))
    assert uneven_dim((3, 10), lies) == 1
    with pytest.raises(BadInput, match=r"ffn\.up\.weight: dim 1 of size 10 .* 4 shards .*'tensor' \(10 % 4 = 2\)"):
        require_even("ffn.up.weight", (3, 10), lies)


def test_a_mapping_of_another_rank_is_refused():
    mesh = Mesh(shape=(2,), axes=("data",))
    with pytest.raises(BadInput, match="has 3 dims"):
        require_even("x", (2, 2, 2), Distribution(mesh=mesh, dims_mapping=(0,)))
