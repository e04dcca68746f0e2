"""Measures on the emulated device what each of some Layers keeps and computes, beside what their graphs predict.

Measured: bytes that Paddle's allocator has handed out after the forward, graph alive, less those before it (parameters
and the input); the output is among them. Predicted: nebula.graph.kept.kept_bytes, which the planner uses, the input
apart, and the output. FLOPs and bytes moved are those of the kernels that the device has recorded, of both passes; the
copy in which Paddle takes over the gradient that the worker starts the backward with is left out.
"""

from __future__ import annotations

import gc
import json

import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.static import InputSpec
from paddle.vision.models import mobilenet_v2, resnet18

from nebula.emulator import clock
from nebula.graph.capture import capture
from nebula.graph.kept import kept_bytes
from nebula.graph.values import Block, DistributedGraph, Kernel
from nebula.models.ernie import chain
from nebula.models.presets import preset


class GptLike(nn.Layer):
    """Embeddings, two pre-norm layers under a causal mask, head."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(100, width)
        self.layers = nn.LayerList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.1, normalize_before=True) for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 100)

    def forward(self, ids):
        x = self.tokens(ids)
        mask = paddle.triu(paddle.full([ids.shape[1]] * 2, -1e9), 1)
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(self.norm(x))


class LlamaLike(nn.Layer):
    """RMS norm by hand, grouped key-value heads, rotation, gated feed-forward."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.gain = self.create_parameter([width])
        self.query = nn.Linear(width, width, bias_attr=False)
        self.key = nn.Linear(width, width // 2, bias_attr=False)
        self.value = nn.Linear(width, width // 2, bias_attr=False)
        self.out = nn.Linear(width, width, bias_attr=False)
        self.gate, self.up, self.down = (nn.Linear(*s) for s in ((width, 128), (width, 128), (128, width)))

    def norm(self, x):
        return x * paddle.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain

    def rotated(self, x):
        a, b = x.chunk(2, axis=-1)
        angle = paddle.ones([1, x.shape[1], 1, x.shape[3] // 2])
        return paddle.concat([a * angle - b * angle, b * angle + a * angle], -1)

    def forward(self, x):
        rows, length, width = x.shape
        y = self.norm(x)
        query = self.rotated(self.query(y).reshape([rows, length, self.heads, -1]))
        key = self.rotated(self.key(y).reshape([rows, length, self.heads // 2, -1])).repeat_interleave(2, axis=2)
        value = self.value(y).reshape([rows, length, self.heads // 2, -1]).repeat_interleave(2, axis=2)
        query, key, value = (t.transpose([0, 2, 1, 3]) for t in (query, key, value))
        weights = F.softmax(paddle.matmul(query, key, transpose_y=True) * 0.25)
        x = x + self.out(paddle.matmul(weights, value).transpose([0, 2, 1, 3]).reshape([rows, length, width]))
        y = self.norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Experts(nn.Layer):
    """A mixture of experts that computes every expert for every token and weighs two."""

    def __init__(self, width: int = 32, experts: int = 4) -> None:
        super().__init__()
        self.experts = experts
        self.gate = nn.Linear(width, experts)
        self.up = self.create_parameter([experts, width, 4 * width])
        self.down = self.create_parameter([experts, 4 * width, width])

    def forward(self, x):
        rows, length, width = x.shape
        tokens = x.reshape([-1, width])
        score, place = paddle.topk(F.softmax(self.gate(tokens)), 2)
        weight = (F.one_hot(place, self.experts) * score.unsqueeze(-1)).sum(1)
        spread = tokens.unsqueeze(0).expand([self.experts, *tokens.shape])
        y = paddle.matmul(F.silu(paddle.matmul(spread, self.up)), self.down)
        return (y * weight.transpose([1, 0]).unsqueeze(-1)).sum(0).reshape([rows, length, width])


class VisionTransformer(nn.Layer):
    """Patches by convolution, a class token, two encoder layers, head."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv2D(3, width, 8, stride=8)
        self.token = self.create_parameter([1, 1, width])
        self.layers = nn.LayerList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, activation="gelu") for _ in range(2)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose([0, 2, 1])
        x = paddle.concat([self.token.expand([x.shape[0], 1, x.shape[2]]), x], axis=1)
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])


class Recurrent(nn.Layer):
    """Two LSTM layers and a projection of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.LSTM(32, 48, num_layers=2)
        self.out = nn.Linear(48, 10)

    def forward(self, x):
        return self.out(self.steps(x)[0])


def _mlp() -> nn.Layer:
    return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 64))


CASES = {
    "mlp with dropout": lambda: ([_mlp()], [64, 64], "float32"),
    "encoder layer": lambda: ([nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1)], [4, 32, 64], "float32"),
    "gpt": lambda: ([GptLike()], [4, 32], "int64"),
    "llama": lambda: ([LlamaLike(), LlamaLike()], [4, 32, 64], "float32"),
    "experts": lambda: ([Experts()], [4, 32, 32], "float32"),
    "small ernie": lambda: (chain(preset("ernie-3.0-small")), [2, 2, 64], "int64"),
    "resnet18": lambda: ([resnet18(num_classes=10)], [2, 3, 64, 64], "float32"),
    "mobilenet": lambda: ([mobilenet_v2(num_classes=10, scale=0.25)], [2, 3, 64, 64], "float32"),
    "vision transformer": lambda: ([VisionTransformer()], [4, 3, 32, 32], "float32"),
    "lstm": lambda: ([Recurrent()], [8, 16, 32], "float32"),
}
"""Name -> its chain, and the shape and dtype of its input."""


def allocated() -> int:
    gc.collect()
    return paddle.base.core.device_memory_stat_current_value("Allocated", 0)


def forward(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def measured(layers, shape: list[int], dtype: str) -> int:
    x = paddle.randn(shape) if dtype == "float32" else paddle.randint(0, 60, shape, dtype=dtype)
    forward(layers, x)  # what is made once (caches, statistics) is there before
    before = allocated()
    y = forward(layers, x)
    held = allocated() - before
    assert not y.stop_gradient
    return held


def predicted(graph: DistributedGraph) -> int:
    """What the planner counts for all layers of one stage, the input apart, and the output where nobody keeps it."""
    first, last = graph.block_of(0), graph.block_of(-1)
    chain_bytes = kept_bytes(graph, 0, len(graph.layers))
    given = {_owner(first, n) for op in first.operators for n in op.saved} & set(first.inputs)
    returned = _owner(last, last.outputs[0])
    held = {_owner(last, n) for op in last.operators for n in op.saved}
    output_bytes = 0 if returned in held else last.tensor(returned).bytes
    return chain_bytes + output_bytes - sum(first.tensor(n).bytes for n in given)


def _owner(block: Block, name: str) -> str:
    while block.tensor(name).alias_of:
        name = block.tensor(name).alias_of
    return name


def launched(layers, shape: list[int], dtype: str) -> list[tuple[float, float]]:
    """FLOPs of products and bytes moved, forward and backward, as the device recorded them."""
    x = paddle.randn(shape) if dtype == "float32" else paddle.randint(0, 60, shape, dtype=dtype)
    clock.record(True)
    clock.drain()
    y = forward(layers, x)
    passes = [clock.drain()]
    start = paddle.ones_like(y)
    clock.drain()
    paddle.autograd.backward([y], [start])
    passes.append([e for e in clock.drain() if e.kind is clock.EventKind.KERNEL and e.name != "copy"])
    return [(sum(e.flops for e in events), sum(e.moved_bytes for e in events)) for events in passes]


def foretold(graph: DistributedGraph) -> list[tuple[float, float]]:
    """The same, of the graph."""
    operators = [op for layer in graph.layers for op in graph.blocks[layer].operators]
    passes = [[k for op in operators for k in op.forward], [k for op in operators for k in op.backward]]
    sums = []
    for kernels in passes:
        works = [k for k in kernels if isinstance(k, Kernel)]
        flops = sum(k.flops for k in works if k.product or k.kind.startswith("rnn"))
        sums.append((flops, sum(k.read_bytes + k.written_bytes for k in works)))
    return sums


def main() -> None:
    paddle.set_device("sim_npu:0")
    answer = {}
    for name, make in CASES.items():
        layers, shape, dtype = make()
        held = measured(layers, shape, dtype)
        graph = capture(layers, [InputSpec([None, *shape[1:]], dtype)], rows=shape[0])
        assumed = sorted({op.kind for b in graph.blocks for op in b.operators if op.attribute("assumed")})
        answer[name] = {"measured": held, "predicted": predicted(graph), "assumed": assumed}
        answer[name] |= {"launched": launched(layers, shape, dtype), "foretold": foretold(graph)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
