"""Is a method in which tokens meet the softmax of what scores them, and nothing else?

`ring` and `gather` put that softmax in its place, so that dropout of the weights, sinks, gates or a mask that the
method alone knows would be left out without a word. The method is run once, on a few positions, before it is replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional

from nebula.errors import BadInput
from nebula.runtime.random_state import draws

Mixing = Callable[..., paddle.Tensor]

HEADS, POSITIONS = 2, 1
"""Dims of [b, s, heads, d]."""
FEW = 8
"""Positions on which a method is tried."""
NEAR, NEAR_IN_16_BITS = 1e-2, 3e-2
"""How far the two may lie apart, beside the greatest number."""


def checked_first(shared: Mixing, own: Mixing, scores: Mixing, layer: nn.Layer, told: str, ranks: int) -> Mixing:
    """The method that ranks share, before whose first use in a training the layer's own one is looked at.

    Args:
        own: the method itself, of `layer`.
        scores: the method that scores what it mixes.
        told: way and method, as an error tells them.
        ranks: that share the sequence.
    """
    seen = False

    def run(*given: Any) -> paddle.Tensor:
        nonlocal seen
        if layer.training and not seen:
            fault = _fault(own, scores, layer, given, ranks)
            if fault:
                raise BadInput(
                    f"context parallelism by {told} {fault}, which this way would leave out: set `exchange` of the "
                    "plan's stages to ulysses, which calls the method"
                )
            seen = True
        return shared(*given)

    return run


def weighed(scored: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
    """Values [b, k, heads, d] by the softmax of scores [b, more heads, s, k] -> [b, s, more heads * d]."""
    each = scored.shape[1] // value.shape[HEADS]
    value = value if each == 1 else paddle.repeat_interleave(value, each, axis=HEADS)
    mixed = paddle.matmul(functional.softmax(scored, axis=-1), value.transpose([0, 2, 1, 3]))
    return mixed.transpose([0, 2, 1, 3]).flatten(2)


@paddle.no_grad()
def _fault(own: Mixing, scores: Mixing, layer: nn.Layer, given: Sequence[Any], ranks: int) -> str:
    """What the method does more, or an empty text."""
    rest = given[3:]
    for tensors in _samples(given[:3], ranks):
        try:
            random, far = _tried(own, scores, tensors, rest)
        except Exception:  # this shape does not go with the rest, or is too large
            continue
        if random:
            return "draws random numbers (dropout of weights?)"
        return "does more than weigh values by the softmax of its scores" if far else ""
    drops = any(getattr(part, "p", 0) for part in layer.sublayers() if type(part).__name__.endswith("Dropout"))
    return "cannot be tried by itself, and its layer has a dropout" if drops else ""


def _tried(own: Mixing, scores: Mixing, tensors: Sequence[paddle.Tensor], rest: Sequence[Any]) -> tuple[bool, bool]:
    """Whether the method draws random numbers, and whether it is far from the softmax of its scores."""
    found: list[paddle.Tensor] = []
    random = draws(lambda: found.append(own(*tensors, *rest)))
    query, key, value = tensors
    scored = scores(query, key, *rest, queries=range(query.shape[POSITIONS]), keys=range(key.shape[POSITIONS]))
    return random, not _near(found[0], weighed(scored, value))


def _samples(tensors: Sequence[paddle.Tensor], ranks: int) -> Iterator[list[paddle.Tensor]]:
    """Queries, keys and values of a few positions; then such as go with masks of the whole sequence."""
    yield [tensor[:1, :FEW] for tensor in tensors]
    yield [_waves([t.shape[0], t.shape[POSITIONS] * ranks, *t.shape[HEADS:]], t.dtype) for t in tensors]


def _waves(shape: Sequence[int], dtype: Any) -> paddle.Tensor:
    """Numbers between -1 and 1 that draw nothing."""
    return paddle.cos(paddle.arange(math.prod(shape), dtype="float32")).reshape(shape).astype(dtype)


def _near(found: Any, wanted: paddle.Tensor) -> bool:
    """Whether the two are one but for rounding."""
    if list(found.shape) != list(wanted.shape):
        return False
    near = NEAR if found.dtype == wanted.dtype == paddle.float32 else NEAR_IN_16_BITS
    found, wanted = found.astype("float32"), wanted.astype("float32")
    far = float((found - wanted).abs().max())
    return not far > near * max(1e-6, float(wanted.abs().max()))  # nothing is said of what is not a number
