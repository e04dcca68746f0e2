"""Convolutions as the matrix products that they are, and pooling."""

from __future__ import annotations

import math

from nebula.graph.rules.products import product_gradients
from nebula.graph.rules.rule import Call, Names, Rule, Works, input_names
from nebula.graph.values import Product


def _product(call: Call) -> Product:
    """Rows are output places, columns output channels, k the window times input channels; once per group."""
    weight, out = call.inputs[1].shape, call.outputs[0]
    groups = max(call.integer("groups", 1), 1)
    transposed = call.kind.endswith("_transpose")
    window = math.prod(weight[2:])
    if transposed:
        places = call.inputs[0].size // weight[0]
        return Product(groups, places, weight[1] * window, weight[0] // groups)
    return Product(groups, out.size // weight[0], weight[0] // groups, weight[1] * window)


def _forward(call: Call) -> Works:
    return (call.launch(reads=call.inputs[:2], writes=call.outputs[:1], product=_product(call)),)


def _backward(call: Call) -> Works:
    return product_gradients(call, _product(call))


def _pool_forward(call: Call) -> Works:
    return (call.launch(reads=call.inputs[:1], writes=call.outputs, flops=float(call.inputs[0].size)),)


def _pool_backward(call: Call) -> Works:
    x = call.inputs[0]
    reads = (x, *call.outputs, call.outputs[0])
    return (call.launch("_grad", reads=reads, writes=(x,), flops=float(x.size)),)


def _pool_saved(call: Call) -> Names:
    return (call.operator.inputs[0], call.operator.outputs[0])


def _indexed_saved(call: Call) -> Names:
    return (call.operator.inputs[0], call.operator.outputs[-1])


CONVOLUTION: dict[str, Rule] = {
    **{
        kind: Rule(forward=_forward, backward=_backward, saved=input_names)
        for kind in ("conv1d", "conv2d", "conv3d", "conv2d_transpose", "conv3d_transpose")
    },
    "pool2d": Rule(forward=_pool_forward, backward=_pool_backward, saved=_pool_saved),
    "pool3d": Rule(forward=_pool_forward, backward=_pool_backward, saved=_pool_saved),
    "max_pool2d_with_index": Rule(forward=_pool_forward, backward=_pool_backward, saved=_indexed_saved),
}
