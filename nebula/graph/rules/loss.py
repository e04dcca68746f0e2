"""Losses over classes: softmax and cross-entropy in one kernel; the softmax is kept and becomes the gradient."""

from __future__ import annotations

from nebula.graph.rules.rule import Call, Names, Rule, Works


def _forward(call: Call) -> Works:
    return (call.launch(reads=call.inputs, writes=call.outputs, flops=8.0 * call.inputs[0].size),)


def _backward(call: Call) -> Works:
    softmax, loss = call.outputs[0], call.outputs[-1]
    reads = (softmax, call.inputs[1], loss)
    return (call.launch("_grad", reads=reads, writes=call.inputs[:1], flops=2.0 * softmax.size),)


def _saved(call: Call) -> Names:
    return (call.operator.outputs[0], call.operator.inputs[1])


LOSS: dict[str, Rule] = {"cross_entropy": Rule(forward=_forward, backward=_backward, saved=_saved)}
