"""A traced ERNIE, run in numpy whole and cut for tensor parallelism, gives the loss that its Paddle layers give."""

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from nebula.graph.capture import About, capture
from nebula.graph.interpret import gather, run, run_partitioned
from nebula.graph.interpret_ranks import SimulatedRanks
from nebula.graph.partition import tensor_parallel
from nebula.models import ernie, objectives
from nebula.models.config import ErnieConfig, ModuleConfig

MODULE = ModuleConfig(layers=1, hidden=16, heads=4, ffn=32)
CONFIG = ErnieConfig(universal=MODULE, nlu=MODULE, nlg=MODULE, vocabulary=32, seq_len=8, max_distance=4)
ROWS = 2


@pytest.fixture(scope="module")
def model():
    paddle.seed(3)
    return ernie.chain(CONFIG)


@pytest.fixture(scope="module")
def graph(model):
    spec = InputSpec([None, 2, CONFIG.seq_len], "int64")
    splits = tuple(ernie.tensor_split(CONFIG).items())
    return capture(model, [spec], About(splits=splits), loss=objectives.loss, labels=spec, rows=ROWS)


def ids_and_labels():
    rng = np.random.default_rng(0)
    return (rng.integers(0, CONFIG.vocabulary, (ROWS, 2, CONFIG.seq_len)) for _ in range(2))


def weights(block, layer):
    held = {name: value.numpy().astype(np.float64) for name, value in layer.state_dict().items()}
    return {t.name: held[t.name.removeprefix("layer.")] for t in block.parameters}


def through(graph, model, each):
    """The loss that comes out behind all layers; `each` runs one block."""
    x, labels = ids_and_labels()
    for index, layer in enumerate(model):
        block = graph.block_of(index)
        last = index == len(model) - 1
        fed = dict(zip(block.inputs, (x, labels) if last else (x,), strict=True))
        x = each(block, fed | weights(block, layer))
    return float(x)


@pytest.fixture(scope="module")
def loss(model):
    ids, labels = map(paddle.to_tensor, ids_and_labels())
    for layer in model:
        ids = layer(ids)
    return float(objectives.loss(ids, labels))


def test_the_whole_blocks_give_the_layers_loss(graph, model, loss):
    assert through(graph, model, lambda block, values: run(block, values)[block.outputs[0]]) == pytest.approx(
        loss, rel=1e-5
    )


@pytest.mark.parametrize(("degree", "sequence"), [(2, False), (4, False), (4, True)])
def test_the_cut_blocks_give_the_layers_loss(graph, model, loss, degree, sequence):
    def each(block, values):
        local = tensor_parallel(block, degree, graph.splits, sequence=sequence)
        state = run_partitioned(local, values, SimulatedRanks(local.tensors[0].distribution.mesh))
        return gather(local, block.outputs[0], state[block.outputs[0]])

    assert through(graph, model, each) == pytest.approx(loss, rel=1e-5)
