"""Measures matrix products through Paddle, forward and as the two products of their gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import paddle

from nebula.profiling.measurements import Product
from nebula.profiling.rotation import ROTATED_BYTES, Rotation, Tensors, gradient, random
from nebula.profiling.timing import Effort, medians

Seconds = Callable[[], float]


def shapes(scale: int) -> Iterator[tuple[int, int, int, int, bool]]:
    """Batch, m, k, n and whether both sides have the batch: those of a Transformer layer, and of its attention."""
    for tokens in (256, 1024):
        for hidden in (128, 256, 512):
            for k, n in ((hidden, hidden), (hidden, 4 * hidden), (4 * hidden, hidden)):
                yield 1, tokens * scale, k * scale, n * scale, False
    for batch, length in ((16, 48), (64, 96), (16, 128)):
        yield batch * scale, length * scale, 64, length * scale, True
        yield batch * scale, length * scale, length * scale, 64, True


def products(dtypes: tuple[str, ...], scale: int) -> tuple[list[Product], list[Rotation]]:
    """Products forward and in their gradients, their times left open, and what to time for each."""
    rows = [
        _product(dtype, *shape, backward=backward)
        for dtype in dtypes
        for shape in shapes(scale)
        for backward in (False, True)
    ]
    return rows, [_case(row) for row in rows]


def scale_of(dtype: str, seconds: Seconds, effort: Effort, memory_bytes: float) -> int:
    """The power of two by which dims grow until the largest product takes `effort.largest_s`, within the memory."""
    probe = _product(dtype, 1, 512, 512, 512, False, backward=False)
    rate = probe.flops / medians([_case(probe)], seconds, replace(effort, rounds=3))[0]
    scale = 1
    while True:
        rows = [_product(dtype, *shape, backward=False) for shape in shapes(2 * scale)]
        # every case holds the memory it rotates through
        held_bytes = 2 * sum(max(ROTATED_BYTES, 2 * row.moved_bytes) for row in rows)
        if max(row.flops for row in rows) > rate * effort.largest_s or held_bytes > memory_bytes / 2:
            return scale
        scale *= 2


def _product(dtype: str, batch: int, m: int, k: int, n: int, batched: bool, *, backward: bool) -> Product:
    width = 4 if dtype == "float32" else 2
    right = batch if batched else 1
    moved = float(width * (batch * m * k + right * k * n + batch * m * n))
    times = 2 if backward else 1
    return Product(
        dtype=dtype,
        batch=batch,
        m=m,
        k=k,
        n=n,
        batched=batched,
        backward=backward,
        flops=times * 2.0 * batch * m * k * n,
        moved_bytes=times * moved,
        kernels=times,
        seconds=0.0,
    )


def _case(row: Product) -> Rotation:
    left = (row.batch, row.m, row.k) if row.batched else (row.batch * row.m, row.k)
    right = (row.batch, row.k, row.n) if row.batched else (row.k, row.n)

    def operands() -> Tensors:
        return random(left, row.dtype), random(right, row.dtype)

    def with_output() -> Tensors:
        x, w = operands()
        y = paddle.matmul(x, w)
        return x, w, y, paddle.ones_like(y)

    set_bytes = row.moved_bytes / row.kernels
    if not row.backward:
        return Rotation(operands, set_bytes, paddle.matmul)
    return Rotation(with_output, 2 * set_bytes, lambda x, w, y, g: gradient([y], [x, w], [g]))
