"""Normalisations: each output element depends on a whole row (softmax, layer norm) or channel (batch norm)."""

from __future__ import annotations

from nebula.graph.rules.rule import Call, Names, Rule, Works, output_names
from nebula.graph.values import Tensor

_NORM_OPERATIONS = 8.0
_SOFTMAX_OPERATIONS = 8.0


def _softmax_forward(call: Call) -> Works:
    size = call.outputs[0].size
    return (call.launch(reads=call.inputs[:1], writes=call.outputs[:1], flops=_SOFTMAX_OPERATIONS * size),)


def _softmax_backward(call: Call) -> Works:
    out = call.outputs[0]
    return (call.launch("_grad", reads=(out, out), writes=call.inputs[:1], flops=4.0 * out.size),)


def _norm_forward(call: Call) -> Works:
    flops = _NORM_OPERATIONS * call.inputs[0].size
    return (call.launch(reads=call.inputs, writes=call.outputs, flops=flops),)


def _norm_backward(call: Call) -> Works:
    reads = (*_kept(call), call.outputs[0])
    flops = 2.0 * _NORM_OPERATIONS * call.inputs[0].size
    return (call.launch("_grad", reads=reads, writes=call.wanted, flops=flops),)


def _kept(call: Call) -> tuple[Tensor, ...]:
    by_name = {t.name: t for t in (*call.inputs, *call.outputs)}
    return tuple(by_name[name] for name in _norm_saved(call))


_KEPT_INPUTS = ("x", "weight", "bias")
_KEPT_OUTPUTS = {
    "layer_norm": slice(1, 3),
    "rms_norm": slice(1, 2),
    "group_norm": slice(0, 3),
    "batch_norm": slice(3, 6),
}


def _norm_saved(call: Call) -> Names:
    inputs = (call.argument(name) for name in _KEPT_INPUTS)
    outputs = call.operator.outputs[_KEPT_OUTPUTS.get(call.kind, slice(0, 0))]
    return (*(t.name for t in inputs if t is not None), *outputs)


def _norm(*arguments: str) -> Rule:
    return Rule(forward=_norm_forward, backward=_norm_backward, saved=_norm_saved, arguments=arguments)


NORMALISATION: dict[str, Rule] = {
    "softmax": Rule(forward=_softmax_forward, backward=_softmax_backward, saved=output_names),
    "log_softmax": Rule(forward=_softmax_forward, backward=_softmax_backward, saved=output_names),
    "layer_norm": _norm("x", "weight", "bias"),
    "rms_norm": _norm("x", "weight", "bias"),
    "group_norm": _norm("x", "weight", "bias"),
    "instance_norm": _norm("x", "weight", "bias"),
    "batch_norm": _norm("x", "mean", "variance", "weight", "bias"),
}
