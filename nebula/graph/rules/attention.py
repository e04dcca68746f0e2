"""Fused attention, which never writes the scores: softmax(q k^T / sqrt(d)) v tile by tile.

FLOPs and what is kept follow FlashAttention-2 (Dao 2023, arXiv 2307.08691): two products forward, five backward (the
scores are computed again), the output and the log-sum-exp of each query kept. A causal mask halves the products; under
a `window` no token sees more than so many. With the attribute `context` a rank holds that share of the positions and
gets the keys and values that it lacks as nebula.graph.rules.context says.
"""

from __future__ import annotations

from nebula.graph.rules.context import EXCHANGES, WHOLE, Exchange
from nebula.graph.rules.rule import Call, Names, Rule, Works
from nebula.graph.values import Scores


def _scores(call: Call) -> Scores:
    """What each row and head computes; where values are narrower than keys (latent attention), width is the mean."""
    batch, queries, heads, width = call.inputs[0].shape
    key_heads = call.inputs[1].shape[2]
    keys = call.inputs[1].shape[1] * call.integer("context", 1)
    return Scores(
        batch * heads,
        queries,
        _seen(call),
        min(call.integer("window", keys), keys) if call.flag("causal") else _seen(call),
        (width + call.inputs[2].shape[3]) // 2,
        max(1, heads // max(1, key_heads)),
    )


def _seen(call: Call) -> int:
    keys = call.inputs[1].shape[1] * call.integer("context", 1)
    window = min(call.integer("window", keys), keys)
    if not call.flag("causal"):
        return min(2 * window, keys) if window < keys else keys
    # the first tokens see fewer than the window holds
    return keys // 2 if window == keys else window - window * window // (2 * keys)


def _forward(call: Call) -> Works:
    return _exchange(call).forward(call, _scores(call))


def _backward(call: Call) -> Works:
    return _exchange(call).backward(call, _scores(call))


def _exchange(call: Call) -> Exchange:
    return EXCHANGES[call.text("exchange")] if call.integer("context", 1) > 1 else WHOLE


def _saved(call: Call) -> Names:
    return (*call.operator.inputs, *call.operator.outputs)


ATTENTION: dict[str, Rule] = {
    "attention": Rule(forward=_forward, backward=_backward, saved=_saved, arguments=("query", "key", "value", "mask")),
}
