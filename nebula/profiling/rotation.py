"""Runs a kernel as a training step meets it: on other operands each time, while earlier results are still alive."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import paddle

ROTATED_BYTES = 8 * 2**20
"""How much memory the operands of a case rotate through, in sets of at least one: more than a core's own cache."""

MOST_SETS = 64

Tensors = tuple[Any, ...]


class Rotation:
    """Runs a function on one set of operands after the other and keeps the last results alive."""

    def __init__(self, make: Callable[[], Tensors], set_bytes: float, run: Callable[..., Any]) -> None:
        count = int(min(MOST_SETS, max(1, ROTATED_BYTES // set_bytes)))
        self.sets = deque(make() for _ in range(count))
        self.results: deque[Any] = deque(maxlen=count)
        self.run = run

    def __call__(self, repeats: int) -> None:
        """Runs the function that many times."""
        for _ in range(repeats):
            self.sets.rotate(1)
            self.results.append(self.run(*self.sets[0]))


def random(shape: tuple[int, ...], dtype: str) -> Any:
    """A tensor that wants a gradient."""
    tensor = paddle.randn(shape, "float32").astype(dtype)
    tensor.stop_gradient = False
    return tensor


def gradient(outputs: list[Any], inputs: list[Any], given: list[Any]) -> Any:
    """The gradients of the inputs; the graph of the outputs stays."""
    return paddle.grad(outputs, inputs, given, retain_graph=True)
