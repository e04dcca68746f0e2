"""Drops activations in the forward pass and computes them again in the backward pass, element by element.

`full` runs a whole chain element again. `selective` runs only the methods that a sublayer names in its attribute
`selective_recompute` (attention cores); an element that names none is recomputed whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle import nn

from nebula.errors import BadInput
from nebula.plan.job import RECOMPUTE


def apply_policy(element: nn.Layer, policy: str) -> None:
    """Makes an element recompute what the policy says, in place.

    Raises:
        BadInput: the policy is unknown.
    """
    if policy not in RECOMPUTE:
        raise BadInput(f"recompute {policy!r} is none of {', '.join(RECOMPUTE)}")
    if policy == "none":
        return
    offered = [
        (layer, method)
        for layer in element.sublayers(include_self=True)
        for method in getattr(layer, "selective_recompute", ())
    ]
    if policy == "full" or not offered:
        # an element that keeps state names the layer inside that is a function of its inputs
        offered = [(getattr(element, "recompute_target", element), "forward")]
    for layer, method in offered:
        setattr(layer, method, recomputed(getattr(layer, method), layer))


def recomputed(function: Callable[..., Any], layer: nn.Layer) -> Callable[..., Any]:
    """The same function, which keeps only its inputs while the layer trains and a gradient flows into them."""

    def run(*inputs: Any) -> Any:
        if not layer.training or not paddle.is_grad_enabled() or not _needs_gradient(inputs):
            return function(*inputs)
        if len(inputs) == 1 and isinstance(inputs[0], tuple):
            # fleet refuses a tuple of which only some tensors need a gradient; spread, each counts by itself
            return _run(lambda *parts: function(parts), inputs[0])
        return _run(function, inputs)

    return run


def _run(function: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    """Recomputes what is new; an input that is handed through unchanged (a mask) stays the tensor it is.

    Paddle's PyLayer would make such an output need a gradient, and refuses a leaf as its own output.
    """
    from paddle.distributed.fleet.utils import recompute

    handed: dict[int, int] = {}

    def new_outputs(*parts: Any) -> Any:
        outputs = function(*parts)
        if not isinstance(outputs, tuple):
            return outputs
        places = {id(part): index for index, part in enumerate(parts)}
        handed.clear()
        handed.update({i: places[id(value)] for i, value in enumerate(outputs) if id(value) in places})
        fresh = tuple(value for i, value in enumerate(outputs) if i not in handed)
        return fresh if handed else outputs

    outputs = recompute(new_outputs, *inputs)
    if not handed:
        return outputs
    fresh = iter(outputs if isinstance(outputs, tuple) else (outputs,))
    count = len(handed) + (len(outputs) if isinstance(outputs, tuple) else 1)
    return tuple(inputs[handed[i]] if i in handed else next(fresh) for i in range(count))


def _needs_gradient(inputs: Any) -> bool:
    if isinstance(inputs, (tuple, list)):
        return any(_needs_gradient(value) for value in inputs)
    return isinstance(inputs, paddle.Tensor) and not inputs.stop_gradient
