"""Losses. Over classes: softmax and cross-entropy in one kernel, whose softmax is kept and becomes the gradient."""

from __future__ import annotations

from nebula.graph.rules.pointwise import pointwise
from nebula.graph.rules.rule import Call, Names, Rule, Works


def _forward(call: Call) -> Works:
    return (call.launch(reads=call.inputs, writes=call.outputs, flops=8.0 * call.inputs[0].size),)


def _backward(call: Call) -> Works:
    softmax, loss = call.outputs[0], call.outputs[-1]
    reads = (softmax, call.inputs[1], loss)
    return (call.launch("_grad", reads=reads, writes=call.inputs[:1], flops=2.0 * softmax.size),)


def _saved(call: Call) -> Names:
    return (call.operator.outputs[0], call.operator.inputs[1])


def _residual_backward(call: Call) -> Works:
    reads = (call.outputs[-1], call.outputs[0])
    return (call.launch("_grad", reads=reads, writes=call.wanted, flops=2.0 * call.inputs[0].size),)


LOSS: dict[str, Rule] = {
    "cross_entropy": Rule(forward=_forward, backward=_backward, saved=_saved),
    "sigmoid_cross_entropy_with_logits": pointwise(10, "x"),
    "kldiv_loss": pointwise(4, "x"),
    "bce_loss": pointwise(8, "x"),
    "huber_loss": Rule(
        forward=pointwise(4).forward, backward=_residual_backward, saved=lambda call: call.operator.outputs[-1:]
    ),
}
