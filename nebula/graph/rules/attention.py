"""Fused attention, which never writes the scores: softmax(q k^T / sqrt(d)) v tile by tile.

FLOPs and what is kept follow FlashAttention-2 (Dao 2023, arXiv 2307.08691): two products forward, five backward (the
scores are computed again), the output and the log-sum-exp of each query kept. A causal mask halves the products; under
a `window` no token sees more than so many.
"""

from __future__ import annotations

from nebula.graph.rules.rule import Call, Names, Rule, Works
from nebula.graph.values import Scores


def _scores(call: Call) -> Scores:
    """What each row and head computes; where values are narrower than keys (latent attention), width is the mean."""
    batch, queries, heads, width = call.inputs[0].shape
    keys, key_heads = call.inputs[1].shape[1:3]
    return Scores(
        batch * heads,
        queries,
        _seen(call),
        min(call.integer("window", keys), keys) if call.flag("causal") else _seen(call),
        (width + call.inputs[2].shape[3]) // 2,
        max(1, heads // max(1, key_heads)),
    )


def _seen(call: Call) -> int:
    keys = call.inputs[1].shape[1]
    window = min(call.integer("window", keys), keys)
    if not call.flag("causal"):
        return min(2 * window, keys) if window < keys else keys
    # the first tokens see fewer than the window holds
    return keys // 2 if window == keys else window - window * window // (2 * keys)


def _forward(call: Call) -> Works:
    scores = _scores(call)
    flops = 2 * scores.product.flops
    return (call.launch(reads=call.inputs, writes=call.outputs, flops=flops, scores=scores),)


def _backward(call: Call) -> Works:
    scores = _scores(call)
    reads = (*call.inputs, *call.outputs, call.outputs[0])
    return (call.launch("_grad", reads=reads, writes=call.wanted, flops=5 * scores.product.flops, scores=scores),)


def _saved(call: Call) -> Names:
    return (*call.operator.inputs, *call.operator.outputs)


ATTENTION: dict[str, Rule] = {
    "attention": Rule(forward=_forward, backward=_backward, saved=_saved, arguments=("query", "key", "value", "mask")),
}
