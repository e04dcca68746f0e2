"""Measures what memory bounds through Paddle: kernels forward, their gradients and an update.

What a kernel moves is counted as the graph's rules and the cost of an update count it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F

from nebula.profiling.measurements import Move
from nebula.profiling.rotation import ROTATED_BYTES, Rotation, Tensors, gradient, random
from nebula.profiling.timing import Effort, medians

Seconds = Callable[[], float]

WIDTH, LENGTH, VOCABULARY = 512, 128, 4096
"""Last dims of what norms and activations, softmax, and cross-entropy work on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kernel and its gradient.

    Attributes:
        width: of the last dim.
        passes: over the tensor, forward and backward; 0: has none.
        forward: from the tensor to the result.
    """

    name: str
    width: int
    passes: tuple[int, int]
    forward: Callable[[Any], Any]


def kinds() -> tuple[Kind, ...]:
    """What a block of a Transformer runs beside its products, and the loss.

    The gradient of a cut into heads is a view, so only its copy forward is here.
    """
    norm = nn.LayerNorm(WIDTH)
    labels: dict[int, Any] = {}

    def loss(x: Any) -> Any:
        rows = int(x.shape[0])
        if rows not in labels:
            labels[rows] = paddle.zeros([rows, 1], "int64")
        return F.cross_entropy(x, labels[rows], reduction="none")

    def heads(x: Any) -> Any:
        rows = int(x.shape[0])
        return x.reshape([rows // 32, 32, 8, -1]).transpose([0, 2, 1, 3]).reshape([rows, -1])

    return (
        Kind(name="layer_norm", width=WIDTH, passes=(2, 3), forward=norm),
        Kind(name="gelu", width=WIDTH, passes=(2, 3), forward=F.gelu),
        Kind(name="softmax", width=LENGTH, passes=(2, 3), forward=F.softmax),
        Kind(name="add", width=WIDTH, passes=(3, 2), forward=lambda x: x + x.detach()),
        Kind(name="scale", width=WIDTH, passes=(2, 2), forward=lambda x: x * 0.5),
        Kind(name="split", width=WIDTH, passes=(2, 2), forward=lambda x: paddle.split(x, 2, axis=-1)),
        Kind(name="contiguous", width=WIDTH, passes=(2, 0), forward=heads),
        Kind(name="cross_entropy", width=VOCABULARY, passes=(2, 2), forward=loss),
    )


UPDATE_PASSES = 7
"""AdamW in fp32 reads gradient, weight and two moments and writes all but the gradient."""

SMALLEST_BYTES, LARGEST_BYTES = 2**18, 2**28


def sizes(bytes_per_s: float, effort: Effort, memory_bytes: float) -> tuple[int, ...]:
    """Sizes of tensors, each four times the one before, up to what a copy takes `effort.largest_s` for.

    At least three, unless they would not fit the device.
    """
    found, size = [SMALLEST_BYTES], 4 * SMALLEST_BYTES
    while (
        size <= LARGEST_BYTES
        and 64 * size <= memory_bytes
        and (len(found) < 3 or 4 * size < bytes_per_s * effort.largest_s / 8)
    ):
        found.append(size)
        size *= 4
    return tuple(found)


def copy_rate(seconds: Seconds, effort: Effort, memory_bytes: float) -> float:
    """Bytes per second of a plain copy, read and written, of 64 MiB where the device holds that."""
    size = int(min(2**26, memory_bytes // 16))
    copy = Rotation(lambda: (paddle.ones([size], "uint8"),), size, lambda x: x.clone())
    return 2.0 * size / medians([copy], seconds, effort)[0]


def smallest_kernel_s(seconds: Seconds, effort: Effort) -> float:
    """What a kernel on one element takes: its launch and 8 bytes."""
    return medians([Rotation(lambda: (paddle.ones([1]),), ROTATED_BYTES, lambda x: x * 0.5)], seconds, effort)[0]


def moves(tensor_bytes: tuple[int, ...]) -> tuple[list[Move], list[Rotation]]:
    """Every kernel at every size, its time left open, and what to time for it."""
    rows, cases = [], []
    for size in tensor_bytes:
        for row, case in (pair for kind in kinds() for pair in _both(kind, size)):
            rows.append(row)
            cases.append(case)
        rows.append(Move(kind="adamw", tensor_bytes=size, moved_bytes=UPDATE_PASSES * size, seconds=0.0))
        cases.append(_update(size))
    return rows, cases


def _both(kind: Kind, size: int) -> list[tuple[Move, Rotation]]:
    """A kernel and its gradient on tensors of so many bytes."""
    shape = (size // 4 // kind.width, kind.width)

    def operand() -> Tensors:
        return (random(shape, "float32"),)

    def with_output() -> Tensors:
        x = random(shape, "float32")
        y = kind.forward(x)
        outputs = list(y) if isinstance(y, list | tuple) else [y]
        return x, outputs, [paddle.ones_like(o) for o in outputs]

    def back(x: Any, outputs: list[Any], given: list[Any]) -> Any:
        return gradient(outputs, [x], given)

    def row(name: str, passes: int) -> Move:
        return Move(kind=name, tensor_bytes=size, moved_bytes=passes * size, seconds=0.0)

    found = [(row(kind.name, kind.passes[0]), Rotation(operand, 2 * size, kind.forward))]
    if kind.passes[1]:
        found.append((row(f"{kind.name}_grad", kind.passes[1]), Rotation(with_output, 4 * size, back)))
    return found


def _update(size: int) -> Rotation:
    """AdamW on a parameter of so many bytes."""

    def state() -> Tensors:
        parameter = paddle.create_parameter([size // 4 // WIDTH, WIDTH], "float32")
        parameter.grad = paddle.ones_like(parameter)
        return (paddle.optimizer.AdamW(1e-4, parameters=[parameter]),)

    return Rotation(state, 4 * size, lambda optimizer: optimizer.step())
