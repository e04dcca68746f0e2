"""Completion keeps annotations, spreads them as parallelism knows them, and says what it cannot use."""

import random

import pytest
from graph_blocks import experts, mlp, transformer
from graph_cases import MESHES, random_annotations

from nebula.errors import BadInput
from nebula.graph.completion import complete
from nebula.graph.distribution import Distribution, Mesh, uneven_dim

TENSOR = Mesh(shape=(2,), axes=("tensor",))
BLOCKS = (mlp(), transformer(), experts())


@pytest.mark.parametrize("seed", range(24))
def test_annotations_stay_and_every_dim_is_cut_evenly(seed):
    """That completion is at its fixed point is asserted on the 200 annotations of test_graph_interpret."""
    block = BLOCKS[seed % len(BLOCKS)]
    annotations = random_annotations(random.Random(seed), block)
    once = complete(block, annotations)
    assert all(once.tensor(name).distribution == lies for name, lies in annotations.items())
    for tensor in once.tensors:
        assert uneven_dim(tensor.shape, tensor.distribution) is None


def test_a_cut_of_the_rows_reaches_every_activation():
    mesh = Mesh(shape=(4,), axes=("data",))
    block = complete(transformer(), {"x0": Distribution(mesh=mesh, dims_mapping=(0, -1, -1))})
    for tensor in block.tensors:
        rows = 0 if tensor.per_row else -1
        assert tensor.distribution.dims_mapping[:1] == (rows,), tensor.name


def test_a_column_cut_travels_to_the_row_cut_and_leaves_partial_sums():
    up = Distribution(mesh=TENSOR, dims_mapping=(-1, 0))
    block = complete(mlp(), {"ffn.up.weight": up})
    lies = {t.name: t.distribution for t in block.tensors}
    assert lies["ffn.up.bias"].dims_mapping == (0,)
    assert lies["gelu"].dims_mapping == (-1, -1, 0)
    assert lies["ffn.down.weight"].dims_mapping == (0, -1)
    assert lies["ffn.down/matmul"].partial == {0}
    assert lies["ffn.down/add"].replicated


def test_what_leaves_the_block_is_never_partial():
    for seed in range(40):
        block = BLOCKS[seed % len(BLOCKS)]
        annotations = random_annotations(random.Random(seed), block)
        if block.outputs[0] not in annotations:
            assert not complete(block, annotations).tensor(block.outputs[0]).distribution.partial


def test_a_name_that_does_not_exist_is_answered_with_the_closest():
    with pytest.raises(BadInput, match=r"ffn\.up\.wieght.*did you mean ffn\.up\.weight\?"):
        complete(mlp(), {"ffn.up.wieght": Distribution(mesh=TENSOR, dims_mapping=(-1, 0))})


def test_no_annotation_is_refused():
    with pytest.raises(BadInput, match="no annotated tensor"):
        complete(mlp(), {})


def test_two_meshes_are_refused():
    one, other = (Distribution(mesh=m, dims_mapping=(-1, -1, -1)) for m in MESHES[:2])
    with pytest.raises(BadInput, match="one mesh per block"):
        complete(mlp(), {"x0": one, "add": other})


def test_an_uneven_annotation_names_tensor_dim_and_degree():
    lies = Distribution(mesh=Mesh(shape=(5,), axes=("tensor",)), dims_mapping=(-1, 0))
    with pytest.raises(BadInput, match=r"ffn\.up\.weight: dim 1 of size 48 .* 5 shards"):
        complete(mlp(), {"ffn.up.weight": lies})
