"""Backwards in two halves, as zero-bubble schedules want them: gradients of inputs now, those of weights later.

The weights of Linear layers and of experts are nearly all of a model's; the gradients of the others (norms, embeddings,
biases of attention) are small and come with the first half.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import paddle
from paddle import nn
from paddle.autograd import PyLayer
from paddle.nn import functional

from nebula.models.experts import GroupedLinear


class Later:
    """Work on weight gradients that waits for its turn; `keeps` says whether it does."""

    def __init__(self) -> None:
        self.keeps = False
        self._waiting: list[Callable[[], None]] = []

    def add(self, work: Callable[[], None]) -> None:
        """Keeps the work, or does it at once."""
        if self.keeps:
            self._waiting.append(work)
        else:
            work()

    def collected(self) -> list[Callable[[], None]]:
        """Takes everything that waits."""
        waiting, self._waiting = self._waiting, []
        return waiting


def split_backward(elements: Iterable[nn.Layer], later: Later, dtype: str = "") -> None:
    """Makes the Linear layers of elements, tensor-parallel ones and experts too, hand gradients of weights to `later`.

    A Linear with a forward of its own, or whose weight is computed from others, keeps its backward whole.

    Args:
        dtype: in which paddle.amp lets them compute; empty: in that of their input.
    """

    def linear(x: Any, weight: Any, bias: Any = None, name: Any = None) -> Any:
        del name
        computed = any(tensor is not None and not tensor.is_leaf for tensor in (weight, bias))
        if computed or (x.stop_gradient and weight.stop_gradient):
            return functional.linear(x, weight, bias)
        # what is kept for the second half has the dtype of the product, as what autograd keeps has
        return _Linear.apply(x.astype(weight.dtype) if dtype and x.dtype != weight.dtype else x, weight, bias, later)

    def defer(weight: paddle.Tensor, gradient: Callable[[], paddle.Tensor]) -> None:
        later.add(functools.partial(_make, weight, gradient))

    for element in elements:
        for layer in element.sublayers(include_self=True):
            if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
                layer.forward = _forward(linear, layer)
            elif isinstance(getattr(layer, "later", None), Later):  # gathers what it keeps a share of
                layer.later = later
            elif getattr(layer, "linear", None) is functional.linear:  # fleet's parallel layers call it by this name
                layer.linear = linear
            elif isinstance(layer, GroupedLinear):
                layer.defer = defer


def _forward(linear: Callable[..., Any], layer: nn.Linear) -> Callable[[Any], Any]:
    return lambda x: linear(x, layer.weight, layer.bias)


class _Linear(PyLayer):
    """x W + b, whose backward returns the gradient of x alone."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: Any, later: Later) -> paddle.Tensor:
        """Shapes [..., in], [in, out], [out]."""
        ctx.save_for_backward(x, weight, bias)
        ctx.later = later
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        """The gradient of x; those of W and b go to `later`."""
        x, weight, bias = ctx.saved_tensor()

        ctx.later.add(lambda: add_gradients(weight, bias, lambda: x, gradient))
        back = None if x.stop_gradient else paddle.matmul(gradient, weight, transpose_y=True)
        return (back, None) if bias is None else (back, None, None)


@paddle.no_grad()
def add_gradients(
    weight: paddle.Tensor, bias: paddle.Tensor | None, inputs: Callable[[], paddle.Tensor], gradient: paddle.Tensor
) -> None:
    """Adds the gradients of a Linear's weights, of its inputs [..., in] and the gradient of its outputs [..., out]."""
    rows = gradient.reshape([-1, gradient.shape[-1]])
    if not weight.stop_gradient:
        _add(weight, paddle.matmul(inputs().reshape([-1, weight.shape[0]]), rows, transpose_x=True))
    if bias is not None:
        _add(bias, rows.sum(axis=0))


@paddle.no_grad()
def _make(weight: paddle.Tensor, gradient: Callable[[], paddle.Tensor]) -> None:
    _add(weight, gradient())


def _add(parameter: paddle.Tensor, gradient: paddle.Tensor) -> None:
    if parameter.stop_gradient:
        return
    gradient = gradient.astype(parameter.dtype)
    if parameter.grad is None:
        # setting .grad would copy it while the host waits for all streams, messages to other stages among them
        paddle.autograd.backward([parameter], [gradient])
    else:
        parameter.grad.add_(gradient)
