"""Fused attention, which never writes the scores: softmax(q k^T / sqrt(d)) v tile by tile.

FLOPs and what is kept follow FlashAttention-2 (Dao 2023, arXiv 2307.08691): two products forward, five backward (the
scores are computed again), the output and the log-sum-exp of each query kept. A causal mask halves the products.
"""

from __future__ import annotations

from nebula.graph.rules.rule import Call, Names, Rule, Works
from nebula.graph.values import Product


def _product(call: Call) -> Product:
    """One of the products: [queries, d] x [d, keys] for each row and head; half the keys when causal."""
    batch, queries, heads, width = call.inputs[0].shape
    keys = call.inputs[1].shape[1]
    return Product(batch * heads, queries, keys // 2 if call.flag("causal") else keys, width)


def _forward(call: Call) -> Works:
    product = _product(call)
    return (call.launch(reads=call.inputs, writes=call.outputs, flops=2 * product.flops),)


def _backward(call: Call) -> Works:
    product = _product(call)
    reads = (*call.inputs, *call.outputs, call.outputs[0])
    return (call.launch("_grad", reads=reads, writes=call.wanted, flops=5 * product.flops),)


def _saved(call: Call) -> Names:
    return (*call.operator.inputs, *call.operator.outputs)


ATTENTION: dict[str, Rule] = {
    "attention": Rule(forward=_forward, backward=_backward, saved=_saved, arguments=("query", "key", "value", "mask")),
}
