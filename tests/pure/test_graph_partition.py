"""Each axis brings the collectives that its parallelism is known for; local shapes, rows and work follow the cut."""

from dataclasses import replace

import numpy as np
import pytest
from graph_blocks import SPLITS, attention, experts, mlp, transformer, two_readers
from graph_cases import assert_backward_equals, assert_forward_equals, random_values

from nebula.errors import BadInput
from nebula.graph.completion import complete
from nebula.graph.distribution import Distribution, Mesh
from nebula.graph.partition import partition, tensor_parallel
from nebula.graph.rows import block_with_rows
from nebula.graph.values import Collective, Kernel


def lies(mesh, *mapping):
    return Distribution(mesh=mesh, dims_mapping=mapping)


def one(name, size=2):
    return Mesh(shape=(size,), axes=(name,))


def kinds(block, direction):
    return [w.kind for op in block.operators for w in getattr(op, direction) if isinstance(w, Collective)]


def test_data_parallelism_communicates_nothing_and_reports_every_parameter():
    block = transformer()
    local = partition(complete(block, {"x0": lies(one("data"), 0, -1, -1)}))
    assert kinds(local, "forward") == kinds(local, "backward") == []
    assert dict(local.gradient_sums) == {t.name: ("data",) for t in block.parameters}
    assert local.rows == block.rows // 2


def test_experts_exchange_tokens_by_all_to_all_both_ways():
    """GShard's layout: tokens cut by group, experts by expert, along the same axis."""
    mesh = one("expert", 4)
    weights = {name: lies(mesh, 0, -1, -1) for name in ("experts.up", "experts.down")}
    annotations = {"x0": lies(mesh, 0, -1, -1), **weights}
    local = partition(complete(experts(), annotations))
    assert kinds(local, "forward") == kinds(local, "backward") == ["all_to_all"] * 2
    assert dict(local.gradient_sums) == {"gate.weight": ("expert",)}
    assert local.tensor("experts.up").shape == (1, 8, 12)
    small = experts(4, 2, 4, 4, 4)
    values = random_values(small, np.random.default_rng(0))
    assert_forward_equals(small, annotations, values)
    assert_backward_equals(small, annotations, values)


def test_a_context_cut_meets_attention_with_all_to_all():
    """Causal attention cannot be cut along the queries: heads are cut instead (Jacobs et al. 2023, Ulysses)."""
    mesh = one("context")
    annotations = {"x0": lies(mesh, -1, 0, -1)}
    block = attention()
    local = partition(complete(block, annotations))
    assert kinds(local, "forward") == kinds(local, "backward") == ["all_to_all"] * 4
    assert local.rows == block.rows
    values = random_values(block, np.random.default_rng(0))
    assert_forward_equals(block, annotations, values)
    assert_backward_equals(block, annotations, values)


def test_data_and_tensor_axes_do_not_mix():
    mesh = Mesh(shape=(2, 3), axes=("data", "tensor"))
    annotations = {
        "x0": lies(mesh, 0, -1, -1),
        "attention.qkv.weight": lies(mesh, -1, 1),
        "attention.out.weight": lies(mesh, 1, -1),
        "ffn.up.weight": lies(mesh, -1, 1),
        "ffn.down.weight": lies(mesh, 1, -1),
    }
    local = partition(complete(transformer(), annotations))
    works = [w for op in local.operators for w in (*op.forward, *op.backward) if isinstance(w, Collective)]
    assert [(w.kind, w.axis, w.bytes) for w in works] == [("all_reduce", "tensor", 2 * 6 * 24 * 4)] * 4
    assert {axes for _, axes in local.gradient_sums} == {("data",)}
    assert {name for name, _ in local.gradient_sums} == {t.name for t in local.parameters}


COLUMN_AND_ROW = {"ffn.up.weight": (-1, 0), "ffn.down.weight": (0, -1)}
AXES = {
    "data": (mlp(2, 4, 4), {"x0": (0, -1, -1)}),
    "tensor": (mlp(2, 4, 4), COLUMN_AND_ROW),
    "sequence": (mlp(2, 4, 4), {"x0": (-1, 0, -1), **COLUMN_AND_ROW}),
    "context": (transformer(2, 4, 8, 4), {"x0": (-1, 0, -1)}),
    "expert": (experts(2, 2, 4, 4, 4), {"x0": (0, -1, -1), "experts.up": (0, -1, -1), "experts.down": (0, -1, -1)}),
    "sharding": (mlp(2, 4, 4), {"x0": (0, -1, -1), "ffn.up.weight": (0, -1), "norm.weight": (0,)}),
}


@pytest.mark.parametrize("axis", AXES)
def test_each_axis_gives_the_results_and_gradients_of_the_whole_block(axis):
    block, mappings = AXES[axis]
    annotations = {name: lies(one(axis), *mapping) for name, mapping in mappings.items()}
    values = random_values(block, np.random.default_rng(0))
    assert_forward_equals(block, annotations, values)
    assert_backward_equals(block, annotations, values)


def test_two_uses_of_a_resharded_tensor_share_one_collective():
    block = transformer(fused="apart")
    local = tensor_parallel(block, 2, SPLITS, sequence=True)
    gathered = [op for op in local.operators if op.kind == "all_gather"]
    readers = [sum(op.outputs[0] in other.inputs for other in local.operators) for op in gathered]
    assert readers == [3, 1]


def test_a_scan_and_a_cut_product_share_the_gather():
    """The scan works redundantly and its gradient is whole, the product's is partial: one gather, one scatter."""
    mesh, block = one("tensor"), two_readers()
    annotations = {"x0": lies(mesh, -1, 0, -1), "ffn.up.weight": lies(mesh, -1, 0)}
    local = partition(complete(block, annotations))
    assert kinds(local, "forward").count("all_gather") == 1
    values = random_values(block, np.random.default_rng(0))
    assert_forward_equals(block, annotations, values)
    assert_backward_equals(block, annotations, values)


def test_a_parameter_cut_where_the_work_is_not_is_gathered_and_its_gradient_scattered():
    mesh = one("sharding")
    annotations = {"x0": lies(mesh, 0, -1, -1), "norm.weight": lies(mesh, 0)}
    local = partition(complete(mlp(), annotations))
    assert kinds(local, "forward") == ["all_gather"]
    assert kinds(local, "backward") == ["reduce_scatter"]


def test_work_of_all_operators_is_that_of_local_shapes():
    local = tensor_parallel(transformer(), 2, SPLITS)
    for op in local.operators:
        for kernel in op.forward:
            if isinstance(kernel, Kernel) and kernel.product is not None:
                product = kernel.product
                assert product.batch * product.m * product.n == local.tensor(op.outputs[0]).size


def test_the_rows_of_a_distributed_block_are_not_changed():
    """Its collectives and shards hold for the rows that it was cut at."""
    block = transformer()
    for distributed in (complete(block, {"x0": lies(one("data"), 0, -1, -1)}), tensor_parallel(block, 2, SPLITS)):
        assert block_with_rows(distributed, distributed.rows) is distributed
        with pytest.raises(BadInput, match="distributed for 4 rows and cannot go to 7"):
            block_with_rows(distributed, 7)


def test_a_block_without_distributions_that_fit_is_refused():
    block = complete(mlp(), {"x0": lies(one("data"), 0, -1, -1)})
    tensors = tuple(replace(t, shape=(3, 6, 12)) if t.name == "x0" else t for t in block.tensors)
    with pytest.raises(BadInput, match=r"tensor x0: dim 0 of size 3 cannot be cut into 2 shards along axis 'data'"):
        partition(replace(block, tensors=tensors))
