"""Fused attention, which never writes the scores: softmax(q k^T / sqrt(d)) v tile by tile.

FLOPs and what is kept follow FlashAttention-2 (Dao 2023, arXiv 2307.08691): two products forward, five backward (the
scores are computed again), the output and the log-sum-exp of each query kept. A causal mask halves the products; under
a `window` no token sees more than so many.
"""

from __future__ import annotations

from nebula.graph.rules.rule import Call, Names, Rule, Works
from nebula.graph.values import Product


def _product(call: Call) -> Product:
    """One of the products: [queries, d] x [d, keys] for each row and head, keys as many as a query sees on average.

    Where values are narrower than keys (latent attention), d is the mean of both.
    """
    batch, queries, heads, width = call.inputs[0].shape
    width = (width + call.inputs[2].shape[3]) // 2
    return Product(batch * heads, queries, _seen(call), width)


def _seen(call: Call) -> int:
    keys = call.inputs[1].shape[1]
    window = min(call.integer("window", keys), keys)
    if not call.flag("causal"):
        return min(2 * window, keys) if window < keys else keys
    # the first tokens see fewer than the window holds
    return keys // 2 if window == keys else window - window * window // (2 * keys)


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
