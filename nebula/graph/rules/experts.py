"""Mixtures of experts: tokens sorted by expert, one product with each expert's weights, and back.

Kinds: `moe_permute` (x [tokens, h], experts [tokens, k]) -> sorted [tokens k, h] and where each row went;
`grouped_matmul` (x [rows, in], weight [experts, in, out]) with the attribute `imbalance`, rows of the busiest expert
over the mean; `moe_sort` (rows [n, h], as they came from each rank) -> [n, h], those of one expert together, or back;
`moe_unpermute` (x [tokens k, h], places, weights [tokens, k]) -> [tokens, h].
"""

from __future__ import annotations

import math

from nebula.graph.rules.products import product_gradients
from nebula.graph.rules.rule import Call, Names, Rule, Works, input_names
from nebula.graph.values import Product


def _product(call: Call) -> Product:
    """One product per expert, as many rows in each as the busiest has."""
    rows, inner = call.inputs[0].shape
    experts, _, columns = call.inputs[1].shape
    share = call.operator.attribute("imbalance", 1.0)
    assert isinstance(share, int | float)
    return Product(experts, max(1, math.ceil(rows * share / experts)), columns, inner)


def _grouped_forward(call: Call) -> Works:
    return (call.launch(reads=call.inputs, writes=call.outputs, product=_product(call)),)


def _grouped_backward(call: Call) -> Works:
    return product_gradients(call, _product(call))


def _sort_forward(call: Call) -> Works:
    """Counts and places first, which read the choices alone, then the rows."""
    return (
        call.launch(kind="argsort", reads=call.inputs[1:2], writes=call.outputs[1:]),
        call.launch(reads=(*call.outputs[:1], *call.outputs[1:]), writes=call.outputs[:1]),
    )


def _sort_backward(call: Call) -> Works:
    """The gradients of a token's copies are added."""
    reads = call.outputs
    return (call.launch("_grad", reads=reads, writes=call.inputs[:1], flops=float(call.outputs[0].size)),)


def _copy(call: Call) -> Works:
    return (call.launch(reads=call.inputs, writes=call.outputs),)


def _copy_back(call: Call) -> Works:
    return (call.launch("_grad", reads=call.results, writes=call.wanted),)


def _join_forward(call: Call) -> Works:
    return (call.launch(reads=call.inputs, writes=call.outputs, flops=2.0 * call.inputs[0].size),)


def _join_backward(call: Call) -> Works:
    """The gradient to each copy, times its weight, and the product of both as the weight's gradient."""
    reads = (*call.outputs, *call.inputs)
    return (call.launch("_grad", reads=reads, writes=call.wanted, flops=4.0 * call.inputs[0].size),)


def _places(call: Call) -> Names:
    return call.operator.outputs[1:]


EXPERTS: dict[str, Rule] = {
    "moe_permute": Rule(forward=_sort_forward, backward=_sort_backward, saved=_places),
    "moe_sort": Rule(forward=_copy, backward=_copy_back),
    "grouped_matmul": Rule(forward=_grouped_forward, backward=_grouped_backward, saved=input_names),
    "moe_unpermute": Rule(forward=_join_forward, backward=_join_backward, saved=input_names),
}
