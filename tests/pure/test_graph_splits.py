"""Heads that a tensor group does not divide stay whole on every rank, and results and gradients are the serial ones."""

import numpy as np
import pytest
from graph_cases import assert_backward_equals, assert_forward_equals, random_values

from nebula.errors import BadInput
from nebula.graph.distribution import Mesh
from nebula.graph.partition import tensor_parallel
from nebula.graph.splits import applicable, halves_whole
from nebula.graph.spmd.splits import annotate
from nebula.graph.values import Collective
from nebula.models.config import ErnieConfig, ModuleConfig
from nebula.models.describe import ernie_graph, graph
from nebula.models.splits import ERNIE_SPLITS

TITAN = graph("ernie-3.0-titan")
TASK = ModuleConfig(layers=1, hidden=6, heads=3, ffn=8)
LIKE_TITAN = ErnieConfig(
    universal=ModuleConfig(layers=1, hidden=8, heads=4, ffn=8),
    nlu=TASK,
    nlg=TASK,
    vocabulary=16,
    seq_len=4,
    memory_length=2,
    max_distance=2,
)
"""As Titan at tensor 8, but at 4: the heads of the universal module divide, those of the task modules do not."""


def shapes_of(block):
    return {t.name: t.shape for t in block.parameters}


def test_a_group_stays_whole_for_its_own_heads_alone():
    shapes = {
        "nlu.attention.bias.weight": (12, 9),
        "nlu.attention.qkv.weight": (24, 72),
        "nlu.attention.qkv.bias": (72,),
        "nlu.ffn.up.weight": (24, 96),
        "nlg.attention.bias.weight": (16, 9),
        "nlg.attention.qkv.weight": (32, 96),
        "norm.weight": (24,),
    }
    cut = applicable(ERNIE_SPLITS, shapes, 8)
    assert cut == {
        "nlu.ffn.up": "column",
        "nlg.attention.bias": "heads",
        "nlg.attention.qkv": "column",
    }
    assert applicable(ERNIE_SPLITS, shapes, 4).keys() == cut.keys() | {"nlu.attention.bias", "nlu.attention.qkv"}


def test_a_tensor_group_leaves_experts_alone():
    shapes = {"ffn.experts.up": (4, 8, 8), "ffn.experts.gate.weight": (4, 8, 8), "ffn.up.weight": (8, 8)}
    table = [("ffn.experts*", "experts"), ("ffn.up", "column")]
    assert applicable(table, shapes, 2) == {"ffn.up": "column"}


def test_rows_behind_whole_halves_stay_whole_too():
    table = {"*mlp.both": "halves", "*mlp.down": "row", "*query": "column", "*out": "row", "*attention": "counts"}
    paths = ["attention", "attention.query", "attention.out", "mlp", "mlp.both", "mlp.down"]
    assert halves_whole(table, paths) == {"*query": "column", "*out": "row", "*attention": "counts"}
    assert halves_whole({"*query": "column"}, paths) == {"*query": "column"}


@pytest.mark.parametrize(
    ("table", "paths", "name"),
    [
        ({"*both": "halves", "*": "column"}, ["mlp.both"], "mlp.both"),  # a later pattern takes its place
        ({"*both": "halves", "*down": "row"}, ["mlp.both", "mlp.down", "other.down"], "other.down"),
        ({"both": "halves", "gate": "column", "down": "row"}, ["both", "gate", "down"], "gate"),
    ],
)
def test_whole_halves_that_others_go_with_are_refused(table, paths, name):
    with pytest.raises(BadInput, match=f"stay whole here, which {name} does not go with; put them"):
        halves_whole(table, paths)


def test_an_unknown_kind_is_refused():
    with pytest.raises(BadInput, match="'diagonal' is none of column, halves, row, vocabulary, heads, counts, experts"):
        applicable([("ffn.*", "diagonal")], {"ffn.up.weight": (4, 4)}, 2)


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("block", TITAN.blocks, ids=[block.name for block in TITAN.blocks])
def test_titan_is_cut_among_eight_as_published(block, sequence):
    local = tensor_parallel(block, 8, TITAN.splits, sequence=sequence)
    cut = applicable(TITAN.splits, shapes_of(block), 8)
    for name, shape in shapes_of(local).items():
        eighth = np.prod(shape) * 8 == np.prod(shapes_of(block)[name])
        row_bias = name.endswith(".bias") and cut.get(name.removesuffix(".bias")) == "row"
        assert eighth == (name.rpartition(".")[0] in cut and not row_bias), name


def test_whole_heads_of_titan_need_neither_collectives_nor_sums():
    """Only the feed-forward parts of the two task modules communicate, as the second half of a Megatron layer."""
    local = tensor_parallel(TITAN.blocks[3], 8, TITAN.splits)
    works = [
        [w.kind for op in local.operators for w in getattr(op, way) if isinstance(w, Collective)]
        for way in ("forward", "backward")
    ]
    assert local.name == "TaskLayer"
    assert works == [["all_reduce"] * 2] * 2
    assert local.gradient_sums == ()


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("index", [1, 3], ids=["universal", "task"])
def test_blocks_with_whole_and_cut_heads_equal_the_serial_ones(index, sequence):
    whole = ernie_graph("like titan", LIKE_TITAN, "float32")
    block = whole.blocks[index]
    values = random_values(block, np.random.default_rng(0), below=16)
    annotations = annotate(block, 4, whole.splits, sequence=sequence)
    assert next(iter(annotations.values())).mesh == Mesh(shape=(4,), axes=("tensor",))
    assert_forward_equals(block, annotations, values)
    assert_backward_equals(block, annotations, values)
