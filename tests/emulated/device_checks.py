"""A program for one emulated device: it computes there and on the CPU, and prints what came out as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from nebula.emulator import clock

DEVICE = "sim_npu:0"
HIDDEN, WORDS, BATCH, LENGTH, HEADS = 32, 50, 2, 8, 2


class Block(nn.Layer):
    """Attention and feed-forward, both behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.LayerList([nn.LayerNorm(HIDDEN) for _ in range(2)])
        self.qkv, self.out = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.wide, self.narrow = nn.Linear(HIDDEN, 4 * HIDDEN), nn.Linear(4 * HIDDEN, HIDDEN)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        shape = [BATCH, LENGTH, 3, HEADS, HIDDEN // HEADS]
        q, k, v = self.qkv(self.norms[0](x)).reshape(shape).transpose([2, 0, 3, 1, 4]).unbind(0)
        mask = paddle.triu(paddle.full([LENGTH, LENGTH], -1e9), 1)
        weights = F.softmax(paddle.matmul(q, k, transpose_y=True) * (HIDDEN // HEADS) ** -0.5 + mask, -1)
        x = x + self.out(paddle.matmul(weights, v).transpose([0, 2, 1, 3]).reshape(x.shape))
        return x + self.narrow(F.gelu(self.wide(self.norms[1](x))))


class Transformer(nn.Layer):
    """Two blocks between an embedding and a projection to the words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, HIDDEN), nn.Embedding(LENGTH, HIDDEN)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(HIDDEN, WORDS)

    def forward(self, tokens: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.blocks(self.words(tokens) + self.places(paddle.arange(LENGTH))))


def train(device: str, start: dict[str, np.ndarray], steps: int) -> dict[str, Any]:
    """Losses and final weights, digit for digit, of a few AdamW steps from given weights."""
    paddle.set_device(device)
    model = Transformer()
    model.set_state_dict(start)
    clip = nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters(), weight_decay=0.1, grad_clip=clip)
    tokens = paddle.to_tensor(np.random.RandomState(0).randint(0, WORDS, (BATCH, LENGTH)))
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(tokens).reshape([-1, WORDS]), tokens.reshape([-1]))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss).hex())
    return {"losses": losses, "weights": [p.numpy().astype("float64").sum().hex() for p in model.parameters()]}


def training() -> dict[str, Any]:
    paddle.set_device("cpu")
    paddle.seed(1)
    start = {name: value.numpy() for name, value in Transformer().state_dict().items()}
    host = train("cpu", start, 5)
    begin = clock.virtual_seconds()
    device = train(DEVICE, start, 5)
    return {"cpu": host, "device": device, "virtual_s": (clock.virtual_seconds() - begin).hex()}


def tensor(*shape: int, need_grad: bool = True, dtype: str = "float32") -> paddle.Tensor:
    made = paddle.ones(shape).astype(dtype)
    made.stop_gradient = not need_grad
    return made


def events_of(work: Callable[[], Any]) -> list[dict[str, Any]]:
    """The kernels that some work ran; autograd's copy of the gradient that it is given is not of interest."""
    clock.drain()
    clock.record(True)
    work()
    clock.record(False)
    kernels = [e for e in clock.drain() if e.kind is clock.EventKind.KERNEL and e.name != "copy"]
    return [{"name": e.name, "seconds": e.end_s - e.start_s, "bytes": e.moved_bytes, "flops": e.flops} for e in kernels]


def backward_of(output: paddle.Tensor) -> Callable[[], Any]:
    gradient = paddle.ones_like(output)
    return lambda: paddle.autograd.backward([output], [gradient])


def prices() -> dict[str, Any]:
    """What single operators are charged; the test knows what they should be."""
    paddle.set_device(DEVICE)
    x, w, frozen = tensor(4, 6, 32), tensor(32, 16), tensor(4, 6, 32, need_grad=False)
    q, k = tensor(2, 3, 8, 16), tensor(2, 1, 8, 16)
    image, filters = tensor(2, 3, 10, 10), tensor(8, 3, 3, 3)
    grouped = tensor(6, 1, 3, 3)
    table, ids = tensor(1000, 32), paddle.to_tensor([[1, 2, 3]])
    wide, bias = tensor(64, 2048), tensor(2048)
    lstm = nn.LSTM(32, 16)
    return {
        "plain": events_of(lambda: paddle.matmul(x, w)),
        "plain_grad": events_of(backward_of(paddle.matmul(x, w))),
        "frozen_grad": events_of(backward_of(paddle.matmul(frozen, w))),
        "broadcast_transposed": events_of(lambda: paddle.matmul(q, k, transpose_y=True)),
        "vector": events_of(lambda: paddle.mv(tensor(64, 2048), tensor(2048)))[-1:],
        "linear": events_of(lambda: F.linear(tensor(5, 64), wide, bias))[-2:],
        "einsum": events_of(lambda: paddle.einsum("bsh,hk->bsk", x, w)),
        "einsum_grad": events_of(backward_of(paddle.einsum("bsh,hk->bsk", x, w))),
        "einsum_dots": events_of(lambda: paddle.einsum("...qd,...kd->...qk", q, k)),
        "recurrent": events_of(lambda: lstm(tensor(4, 7, 32)))[-1:],
        "conv": events_of(lambda: F.conv2d(image, filters)),
        "conv_grad": events_of(backward_of(F.conv2d(image, filters))),
        "conv_grouped": events_of(lambda: F.conv2d(tensor(1, 6, 5, 5), grouped, groups=6))[-1:],
        "conv_transposed": events_of(lambda: F.conv2d_transpose(image, tensor(3, 8, 3, 3)))[-1:],
        "lookup": events_of(lambda: F.embedding(ids, table)),
        "lookup_grad": events_of(backward_of(F.embedding(ids, table))),
        "sum": events_of(lambda: wide + wide),
        "sum_grad": events_of(backward_of(wide * 2.0 + bias)),
        "views": events_of(lambda: wide.reshape([32, 4096]).transpose([1, 0])[3:9]),
        "moved": events_of(lambda: wide.transpose([1, 0]).reshape([-1])),
    }


def aliases() -> dict[str, list[float]]:
    """In-place operators that write through a view."""
    paddle.set_device(DEVICE)
    one = paddle.ones([2])
    whole = {name: paddle.zeros([4]) for name in ("slice", "reshape", "_slice", "detach", "shared")}
    whole["slice"][1:3].add_(one)
    whole["reshape"].view([2, 2]).add_(paddle.ones([2, 2]))
    whole["_slice"]._slice(1, 3).add_(one)
    whole["detach"].detach().add_(paddle.ones([4]))
    other = paddle.zeros([4])
    whole["shared"]._share_buffer_to(other)
    other.add_(paddle.ones([4]))
    return {name: value.tolist() for name, value in whole.items()}


def places() -> list[str]:
    """Where outputs lie that Paddle's own fall-back leaves on the host."""
    paddle.set_device(DEVICE)
    table = tensor(10, 4)
    F.embedding(paddle.to_tensor([1, 2]), table).sum().backward()
    return [str(table.grad.place), str(paddle.rand([2]).clip_(0, 1).place)]


def memory() -> dict[str, Any]:
    """Fills the device to its limit and beyond."""
    paddle.set_device(DEVICE)
    paddle.device.empty_cache()
    before = clock.current_bytes(0)
    kept = [paddle.zeros([2**20]) for _ in range(4)]
    grown = clock.current_bytes(0) - before
    try:
        kept.append(paddle.zeros([2**24]))
        raised = ""
    except MemoryError as error:
        raised = str(error)
    del kept
    again = float(paddle.ones([2**20]).sum())
    return {"grown": grown, "raised": raised, "again": again, "peak": clock.peak_bytes(0, reset=True)}


def log() -> dict[str, Any]:
    paddle.set_device(DEVICE)
    clock.drain()
    clock.record(True)
    clock.mark("forward 0")
    x = paddle.full([1024], 2.0)
    clock.mark("forward 0 done")
    float(x.sum())
    clock.record(False)
    x = x + x
    events = clock.drain()
    return {
        "events": [[e.kind.name, e.name, e.start_s, e.end_s, e.stream] for e in events],
        "left": len(clock.drain()),
    }


CHECKS = {f.__name__: f for f in (training, prices, aliases, places, memory, log)}

if __name__ == "__main__":
    print(json.dumps({name: CHECKS[name]() for name in sys.argv[1:] or CHECKS}))
