"""Measures whole training steps of small language models beside what the cost model counts of their traced graphs.

Kernels timed alone have their operands in caches or none; in a step most lie in between. So the bandwidth that a step
attains is told by steps: of models that differ in width, length and rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.static import InputSpec

from nebula.cluster.values import DeviceType
from nebula.cost_model.compute import product_seconds
from nebula.cost_model.sharding import update_seconds
from nebula.graph.capture import capture
from nebula.graph.values import DistributedGraph, Kernel
from nebula.plan.values import Job, Sharding
from nebula.profiling.measurements import Alike, Reference
from nebula.profiling.timing import Effort, medians

BLOCKS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A model and its batch."""

    hidden: int
    heads: int
    length: int
    rows: int
    vocabulary: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{BLOCKS} blocks of width {self.hidden}, {self.rows} rows of {self.length} tokens of {self.vocabulary}"


TINY = Size(hidden=16, heads=2, length=8, rows=1, vocabulary=64)
"""A model whose step is nothing but launches."""


def sizes(scale: int) -> tuple[Size, ...]:
    """Four models, two with a vocabulary that makes logits the largest tensor; a faster device gets wider ones.

    An allocator may give large tensors fresh pages in every step, which small ones do not show.
    """
    return (
        Size(hidden=128 * scale, heads=2 * scale, length=64, rows=16 * scale, vocabulary=16384),
        Size(hidden=192 * scale, heads=4 * scale, length=96, rows=8 * scale, vocabulary=12288),
        Size(hidden=384 * scale, heads=6 * scale, length=128, rows=4 * scale, vocabulary=4096),
        Size(hidden=320 * scale, heads=4 * scale, length=48, rows=16 * scale, vocabulary=4096),
    )


class Block(nn.Layer):
    """Attention and feed-forward, each behind a norm and added to what came in."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        h = size.hidden
        self.size = size
        self.norm, self.ffn_norm = nn.LayerNorm(h), nn.LayerNorm(h)
        self.query_key_value, self.out = nn.Linear(h, 3 * h, bias_attr=False), nn.Linear(h, h, bias_attr=False)
        self.up, self.down = nn.Linear(h, 4 * h, bias_attr=False), nn.Linear(4 * h, h, bias_attr=False)

    def forward(self, x: Any) -> Any:
        """[rows, length, hidden] -> the same."""
        x = x + self.out(self.attention(self.norm(x)))
        return x + self.down(F.gelu(self.up(self.ffn_norm(x))))

    def attention(self, x: Any) -> Any:
        """Unfused, over all positions."""
        rows, length, hidden = x.shape
        width = hidden // self.size.heads
        parts = paddle.split(self.query_key_value(x).reshape([rows, length, self.size.heads, 3 * width]), 3, axis=-1)
        q, k, v = (part.transpose([0, 2, 1, 3]) for part in parts)
        shares = F.softmax(paddle.matmul(q * width**-0.5, k, transpose_y=True), axis=-1)
        return paddle.matmul(shares, v).transpose([0, 2, 1, 3]).reshape([rows, length, hidden])


def chain(size: Size) -> list[nn.Layer]:
    """Embedding, blocks, projection to the vocabulary."""
    head = nn.Sequential(nn.LayerNorm(size.hidden), nn.Linear(size.hidden, size.vocabulary, bias_attr=False))
    return [nn.Embedding(size.vocabulary, size.hidden), *(Block(size) for _ in range(BLOCKS)), head]


def loss(outputs: Any, labels: Any) -> Any:
    """Mean cross-entropy."""
    return F.cross_entropy(outputs, labels.unsqueeze(-1))


def references(scale: int, device: str) -> tuple[list[Reference], list[Callable[[int], None]]]:
    """A step of every size, counted, its time left open, and what to time for it."""
    rows = [counted(size) for size in sizes(scale)]
    paddle.set_device(device)
    return rows, [_step(size) for size in sizes(scale)]


def kernel_seconds(seconds: Callable[[], float], effort: Effort, device: str) -> float:
    """Fixed cost of one kernel in a training step, with what Paddle and Python do around it: TINY's, by the count."""
    kernels = counted(TINY).kernels
    paddle.set_device(device)
    return medians([_step(TINY)], seconds, effort)[0] / kernels


def counted(size: Size) -> Reference:
    """What the cost model counts of a step, its time left open."""
    paddle.set_device("cpu")
    with paddle.LazyGuard():
        layers = chain(size)
    ids = InputSpec([None, size.length], "int64", "ids")
    labels = InputSpec([None, size.length], "int64", "labels")
    graph = capture(layers, [ids], loss=loss, labels=labels, rows=size.rows)
    return counts(graph, size.name)


def counts(graph: DistributedGraph, name: str) -> Reference:
    """The sums over a step of a graph, forward, backward and update."""
    kernels = [
        work
        for index in graph.layers
        for operator in graph.blocks[index].operators
        for work in (*operator.forward, *operator.backward)
        if isinstance(work, Kernel)
    ]
    products = [k for k in kernels if product_seconds(k, UNIT)]
    alike = Counter((float(k.flops), float(k.read_bytes + k.written_bytes)) for k in products)
    moved = sum(k.read_bytes + k.written_bytes for k in kernels if not product_seconds(k, UNIT))
    parameters = [t for index in graph.layers for t in graph.blocks[index].parameters if t.needs_gradient]
    update = (sum(float(t.size) for t in parameters), float(len(parameters)))
    return Reference(
        name=name,
        products=tuple(Alike(flops=f, moved_bytes=b, count=n) for (f, b), n in alike.items()),
        moved_bytes=moved + _update(update, UNIT),
        kernels=len(kernels) + _update(update, replace(UNIT, memory_bytes_per_s=1e30, kernel_s=1.0)),
        seconds=0.0,
    )


UNIT = DeviceType(
    name="unit",
    kind="cpu",
    peak_flops={"float32": 1.0},
    memory_bytes=1.0,
    memory_bytes_per_s=1.0,
    kernel_s=0.0,
    product_efficiency=1.0,
    memory_efficiency=1.0,
)
"""A device whose seconds count: bytes at 1 B/s, kernels at 1 s each where bytes cost nothing."""


def _update(parameters: tuple[float, float], device: DeviceType) -> float:
    job = Job(global_batch=1, precision="fp32")
    return update_seconds(*parameters, sharding=Sharding(), job=job, device=device)


def _step(size: Size) -> Callable[[int], None]:
    """A function that makes so many training steps."""
    model = nn.Sequential(*chain(size))
    clip = nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters(), grad_clip=clip)
    ids = paddle.randint(0, size.vocabulary, [size.rows, size.length])

    def step(repeats: int) -> None:
        for _ in range(repeats):
            loss(model(ids), ids).backward()
            optimizer.step()
            optimizer.clear_grad(set_to_zero=False)

    return step
