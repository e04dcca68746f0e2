"""Sums, means and extremes over dims: everything is read, little is written; the gradient is spread out again."""

from __future__ import annotations

from nebula.graph.rules.rule import Call, Names, Rule, Works


def _forward(call: Call) -> Works:
    return (call.launch(reads=call.inputs, writes=call.outputs, flops=float(call.inputs[0].size)),)


def _spread(call: Call) -> Works:
    x = call.inputs[0]
    return (call.launch("_grad", reads=call.outputs, writes=(x,), flops=float(x.size)),)


def _compare(call: Call) -> Works:
    x = call.inputs[0]
    return (call.launch("_grad", reads=(x, *call.outputs, *call.outputs), writes=(x,), flops=2.0 * x.size),)


def _both(call: Call) -> Names:
    return (*call.operator.inputs[:1], *call.operator.outputs)


REDUCTIONS: dict[str, Rule] = {
    **{kind: Rule(forward=_forward, backward=_spread) for kind in ("sum", "mean")},
    **{
        kind: Rule(forward=_forward, backward=_compare, saved=_both, keeps_view=True)
        for kind in ("max", "min", "amax", "amin", "prod", "logsumexp", "p_norm")
    },
    **{kind: Rule(forward=_forward, differentiable=False) for kind in ("any", "all")},
}
