"""Tracing real layers: what a block says of them, that it folds, and that nothing is spent or changed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import replace

import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec
from paddle.vision.models import resnet18

from nebula.graph.account import parameter_account
from nebula.graph.capture import About, capture, capture_whole
from nebula.graph.fold import canonical
from nebula.graph.kept import kept_bytes
from nebula.graph.rows import affine
from nebula.graph.rules import apply
from nebula.graph.rules.strides import with_copies
from nebula.graph.trace import trace
from nebula.graph.values import Role
from nebula.models.config import ErnieConfig
from nebula.models.describe import ernie_graph
from nebula.models.ernie import ErnieModel, tensor_split
from nebula.models.presets import preset
from nebula.models.splits import ERNIE_SPLITS
from nebula.models.traced import traced_ernie

SMALL = preset("ernie-3.0-small")
REMEMBERING = replace(SMALL, memory_length=16, dropout=0.1, biases=True)
CONFIGS = pytest.mark.parametrize("config", [SMALL, REMEMBERING], ids=["small", "with memory, dropout and biases"])


class Gpt(nn.Layer):
    """A causal model as people write them: not a list, and the mask goes to every layer."""

    def __init__(self, layers: int = 4, width: int = 16) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, width)
        self.layers = nn.LayerList(nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0) for _ in range(layers))
        self.head = nn.Linear(width, 50)

    def forward(self, ids):
        x = self.tokens(ids)
        mask = paddle.triu(paddle.full([ids.shape[1]] * 2, -1e9), 1)
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x)


def ids(config: ErnieConfig) -> InputSpec:
    return InputSpec([None, 2, config.seq_len], "int64")


def test_parameters_carry_the_names_and_sizes_of_the_layer() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32)
    block = capture([layer], [InputSpec([None, 8, 16], "float32")]).blocks[0]
    assert {t.name: t.shape for t in block.parameters} == {n: tuple(p.shape) for n, p in layer.named_parameters()}
    assert "self_attn.q_proj/matmul" in {op.name for op in block.operators}
    assert block.tensor("x0").role is Role.INPUT


def test_equal_layers_are_traced_once_and_unequal_ones_apart() -> None:
    layers = [nn.Linear(8, 8) for _ in range(20)] + [nn.Linear(8, 8, bias_attr=False), nn.ReLU(), nn.Linear(8, 8)]
    graph = capture(layers, [InputSpec([None, 8], "float32")])
    # the first computes no gradient of the data, so it is another block than its equals
    assert graph.layers == (0, *[1] * 19, 2, 3, 1)
    assert graph.block_of(0).backward_flops < graph.block_of(1).backward_flops


def test_equal_shapes_with_other_settings_are_other_blocks() -> None:
    layers = [nn.Dropout(0.1), nn.Dropout(0.2), nn.Dropout(0.1), nn.GELU(), nn.GELU(approximate=True)]
    assert capture([nn.Linear(8, 8), *layers], [InputSpec([None, 8], "float32")]).layers == (0, 1, 2, 1, 3, 4)


@CONFIGS
def test_described_ernie_equals_the_traced_one(config: ErnieConfig) -> None:
    found, written = traced_ernie("ernie", config), ernie_graph("ernie", config, "float32")
    assert (found.layers, found.layer_names, found.splits) == (written.layers, written.layer_names, written.splits)
    assert parameter_account(found) == parameter_account(written)
    for a, b in zip(found.blocks, written.blocks, strict=True):
        assert {t.name: t.shape for t in a.parameters} == {t.name: t.shape for t in b.parameters}
        assert a.forward_flops == pytest.approx(b.forward_flops, rel=0.01)
        assert a.backward_flops == pytest.approx(b.backward_flops, rel=0.01)
        assert a.saved_bytes == pytest.approx(b.saved_bytes, rel=0.01)
        assert sorted(op.kind for op in a.operators) == sorted(op.kind for op in b.operators)


def test_the_splits_of_the_description_are_those_of_the_layers() -> None:
    assert dict(ERNIE_SPLITS) == tensor_split(SMALL)


@CONFIGS
def test_a_whole_ernie_folds_to_the_graph_of_its_chain(config: ErnieConfig) -> None:
    model = ErnieModel(config)
    by_layer = capture(list(model.chain), [ids(config)])
    assert capture_whole(model, [ids(config)], About(layer_names=by_layer.layer_names)) == by_layer


def test_a_whole_mlp_folds_to_the_graph_of_its_chain() -> None:
    model = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(5)])
    spec = [InputSpec([None, 8], "float32")]
    by_layer = capture(list(model), spec)
    assert by_layer.layers == (0, 1, 1, 1, 1)
    assert capture_whole(model, spec, About(layer_names=by_layer.layer_names)) == by_layer


def test_the_layers_of_a_users_model_are_found_in_the_trace() -> None:
    spec = [InputSpec([None, 8], "int64")]
    found, whole = capture_whole(Gpt(), spec), capture([Gpt()], spec)
    assert found.layer_names == ("tokens", "layers.0", "layers.1", "layers.2", "layers.3", "head")
    assert found.layers == (0, 1, 1, 1, 2, 3)  # the last layer does not pass the mask on
    assert found.parameter_count == whole.parameter_count
    assert found.forward_flops == whole.forward_flops
    assert kept_bytes(found, 0, 6) == pytest.approx(whole.blocks[0].saved_bytes, rel=0.02)


def test_a_vision_model_is_cut_at_its_blocks() -> None:
    spec = [InputSpec([None, 3, 32, 32], "float32")]
    with paddle.LazyGuard():
        model = resnet18(num_classes=10)
    found, whole = capture_whole(model, spec), capture([model], spec)
    assert [n for n in found.layer_names if n.startswith("layer")] == [
        f"layer{i}.{j}" for i in range(1, 5) for j in (0, 1)
    ]
    assert found.forward_flops == whole.forward_flops
    assert kept_bytes(found, 0, len(found.layers)) == pytest.approx(whole.blocks[0].saved_bytes, rel=0.02)


def test_a_model_without_repeated_layers_is_one_block() -> None:
    graph = capture_whole(nn.TransformerEncoderLayer(16, 2, 32), [InputSpec([None, 8, 16], "float32")])
    assert (graph.layers, graph.layer_names) == ((0,), ("TransformerEncoderLayer",))


@pytest.mark.parametrize("rows", [1, 5])
def test_traces_at_two_row_counts_foretell_a_third(rows: int) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32)
    foretold = capture([layer], [InputSpec([None, 8, 16], "float32")], rows=rows).blocks[0]
    a, b = (canonical(trace(layer, [(InputSpec([n, 8, 16], "float32", "x0"), False)], n)) for n in (rows, rows + 1))
    assert foretold == apply(with_copies(affine(a, b)))


def test_layers_pass_on_tuples_and_the_second_input_stays_without_gradient() -> None:
    class Masked(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x, mask):
            return self.inner(x) * mask, mask

    graph = capture([Masked() for _ in range(3)], [InputSpec([None, 8], "float32"), InputSpec([None, 1], "float32")])
    assert graph.layers == (0, 1, 1)
    block = graph.blocks[1]
    assert [block.tensor(n).needs_gradient for n in block.inputs] == [True, False]
    assert block.outputs[1] == "x1"


def test_a_frozen_weight_is_no_parameter_and_a_batch_norm_has_buffers() -> None:
    linear = nn.Linear(8, 8)
    linear.weight.stop_gradient = True
    block = capture([nn.Sequential(nn.Linear(8, 8), linear)], [InputSpec([None, 8], "float32")]).blocks[0]
    assert {t.name for t in block.parameters} == {"0.weight", "0.bias", "1.bias"}
    assert block.tensor("1.weight").role is Role.BUFFER
    norm = capture([nn.BatchNorm1D(8)], [InputSpec([None, 8], "float32")]).blocks[0]
    assert {t.name for t in norm.tensors if t.role is Role.BUFFER} == {"_mean", "_variance"}
    assert {t.name for t in norm.parameters} == {"weight", "bias"}


def test_layers_are_left_as_they_were_found() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0)
    x = paddle.randn([2, 8, 16])
    before, state = layer(x).numpy(), {k: set(vars(sub)) for k, sub in layer.named_sublayers(include_self=True)}
    capture_whole(layer, [InputSpec([None, 8, 16], "float32")])
    assert {k: set(vars(sub)) for k, sub in layer.named_sublayers(include_self=True)} == state
    assert not any(sub._forward_pre_hooks or sub._forward_post_hooks for sub in layer.sublayers(include_self=True))
    assert (layer(x).numpy() == before).all()


def test_titan_is_traced_in_three_seconds_and_half_a_gigabyte() -> None:
    program = """
        import json, re, time
        import paddle  # its import is not what is measured

        def peak_bytes():
            # not ru_maxrss, which begins with that of the process that started this one
            return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

        before, start = peak_bytes(), time.process_time()
        from nebula.models.traced import traced_preset
        graph = traced_preset("ernie-3.0-titan")
        spent_s, grown = time.process_time() - start, peak_bytes() - before
        print(json.dumps([spent_s, grown, graph.parameter_count, len(graph.blocks)]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    seconds, grown_bytes, parameters, blocks = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"Titan traced in {seconds:.2f} s of processor time, {grown_bytes / 2**20:.0f} MiB")
    assert seconds < 3.0
    assert grown_bytes < 500e6
    assert (parameters, blocks) == (261_648_359_008, 5)
