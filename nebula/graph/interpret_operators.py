"""What each operator kind computes, in numpy: the table that the interpreter looks kinds up in.

Kinds that draw random numbers and kinds that only some models' vision parts use are left out; dropout passes its input
through, as in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import erf as _erf

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nebula.graph.interpret_call import Arrays, Call, Function, numpy_dtype
from nebula.graph.interpret_moves import MOVES
from nebula.graph.interpret_ranks import Array

erf = np.vectorize(_erf, otypes=[np.float64])


def _unary(function: Callable[[Array], Array]) -> Function:
    return lambda call: (np.asarray(function(call.inputs[0])),)


def _binary(function: Callable[[Array, Array], Array]) -> Function:
    return lambda call: (np.asarray(function(call.inputs[0], call.inputs[1])),)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def _gelu(call: Call) -> Arrays:
    x = call.inputs[0]
    if call.flag("approximate"):
        return (x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),)
    return (x / 2 * (1 + erf(x / np.sqrt(2))),)


def _matmul(call: Call) -> Arrays:
    x, y = call.inputs
    x = np.swapaxes(x, -1, -2) if call.flag("transpose_x") else x
    y = np.swapaxes(y, -1, -2) if call.flag("transpose_y") else y
    return (np.asarray(x @ y),)


def _scale(call: Call) -> Arrays:
    x, factor, bias = call.inputs[0], call.number("scale", 1.0), call.number("bias")
    return (x * factor + bias if call.attributes.get("bias_after_scale", True) else (x + bias) * factor,)


def _clip(call: Call) -> Arrays:
    return (np.clip(call.inputs[0], call.number("min"), call.number("max")),)


def _cast(call: Call) -> Arrays:
    return (call.inputs[0].astype(numpy_dtype(call.dtypes[0])),)


def _swiglu(call: Call) -> Arrays:
    x, y = call.inputs if len(call.inputs) == 2 else np.split(call.inputs[0], 2, axis=-1)
    return (x * _sigmoid(x) * y,)


def _layer_norm(call: Call) -> Arrays:
    order = ("x", "weight", "bias")
    x = call.inputs[0]
    begin = call.integer("begin_norm_axis", x.ndim - 1)
    axes = tuple(range(begin, x.ndim))
    mean, variance = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    out = (x - mean) / np.sqrt(variance + call.number("epsilon", 1e-5))
    weight, bias = call.argument("weight", order), call.argument("bias", order)
    out = out if weight is None else out * weight.reshape(x.shape[begin:])
    out = out if bias is None else out + bias.reshape(x.shape[begin:])
    return tuple(a.reshape(s) for a, s in zip((out, mean, variance), call.shapes, strict=False))


def _rms_norm(call: Call) -> Arrays:
    x = call.inputs[0]
    begin = call.integer("begin_norm_axis", x.ndim - 1)
    axes = tuple(range(begin, x.ndim))
    inverse = 1 / np.sqrt((x * x).mean(axis=axes, keepdims=True) + call.number("epsilon", 1e-6))
    weight = call.argument("weight", ("x", "weight"))
    out = x * inverse if weight is None else x * inverse * weight.reshape(x.shape[begin:])
    return tuple(a.reshape(s) for a, s in zip((out, inverse), call.shapes, strict=False))


def _dropout(call: Call) -> Arrays:
    return (call.inputs[0], np.ones(call.shapes[-1], np.uint8))[: len(call.shapes)]


def _topk(call: Call) -> Arrays:
    x, k, axis = call.inputs[0], call.integer("k", 1), call.integer("axis", -1)
    sign = -1 if call.attributes.get("largest", True) else 1
    index = np.take(np.argsort(sign * x, axis=axis, kind="stable"), np.arange(k), axis=axis)
    return np.take_along_axis(x, index, axis), index


def _argsort(call: Call) -> Arrays:
    x, axis = call.inputs[0], call.integer("axis", -1)
    index = np.argsort(-x if call.flag("descending") else x, axis=axis, kind="stable")
    return np.take_along_axis(x, index, axis), index


def _axes(call: Call) -> tuple[int, ...]:
    return call.integers("axes") or tuple(range(call.inputs[0].ndim))


def _reduction(function: Callable[..., Array]) -> Function:
    return lambda call: (np.asarray(function(call.inputs[0], axis=_axes(call))).reshape(call.shapes[0]),)


def _mean(call: Call) -> Arrays:
    """Over a cut dim the attribute `count` holds the number of all elements, and the result is an addend."""
    x, axes = call.inputs[0], _axes(call)
    count = call.number("count", np.prod([x.shape[a] for a in axes]).item())
    return ((x.sum(axis=axes) / count).reshape(call.shapes[0]),)


def _logsumexp(call: Call) -> Arrays:
    return (np.log(np.exp(call.inputs[0]).sum(axis=_axes(call))).reshape(call.shapes[0]),)


def _argmax(call: Call) -> Arrays:
    return (np.argmax(call.inputs[0], axis=call.integer("axis", -1)).reshape(call.shapes[0]),)


def _einsum(call: Call) -> Arrays:
    return (np.einsum(str(call.attributes["equation"]), *call.inputs),)


def _attention(call: Call) -> Arrays:
    query, key, value = (np.swapaxes(x, 1, 2) for x in call.inputs[:3])
    shared = query.shape[1] // key.shape[1]
    key, value = (np.repeat(x, shared, axis=1) for x in (key, value))
    scores = query @ np.swapaxes(key, -1, -2) / np.sqrt(query.shape[-1])
    if len(call.inputs) > 3:
        scores = scores + call.inputs[3]
    if call.flag("causal"):
        queries, keys = scores.shape[-2:]
        scores = np.where(np.tril(np.ones((queries, keys), bool), keys - queries), scores, -np.inf)
    out = np.swapaxes(_softmax(scores, -1) @ value, 1, 2)
    largest = scores.max(axis=-1)
    statistics = largest + np.log(np.exp(scores - largest[..., None]).sum(axis=-1))
    return (out, statistics)[: len(call.shapes)]


def _rope(call: Call) -> Arrays:
    """x cos + y sin, where y is x with its halves swapped and the first negated; query alone, or query and key."""
    keyed = len(call.shapes) > 1
    turned = call.inputs[: 2 if keyed else 1]
    sin, cos = (a if a.ndim == 4 else a[None, :, None, :] for a in call.inputs[len(turned) :])
    halves = [np.split(x, 2, axis=-1) for x in turned]
    return tuple(x * cos + np.concatenate([-b, a], axis=-1) * sin for x, (a, b) in zip(turned, halves, strict=True))


def _conv2d(call: Call) -> Arrays:
    """Windows of [n, c, h, w] times filters [o, c / groups, i, j], group by group."""
    x, weight = call.inputs
    groups = call.integer("groups", 1)
    top, bottom, left, right = call.integers("paddings") or (0, 0, 0, 0)
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    (down, across), (apart, aside) = call.integers("strides") or (1, 1), call.integers("dilations") or (1, 1)
    extents = ((weight.shape[2] - 1) * apart + 1, (weight.shape[3] - 1) * aside + 1)
    rows = sliding_window_view(x, extents[0], axis=2)[:, :, ::down, :, ::apart]
    windows = sliding_window_view(rows, extents[1], axis=3)[:, :, :, ::across, :, ::aside]
    windows = windows.reshape(x.shape[0], groups, -1, *windows.shape[2:])
    filters = weight.reshape(groups, -1, *weight.shape[1:])
    return (np.einsum("ngchwij,gocij->ngohw", windows, filters).reshape(call.shapes[0]),)


def _batch_norm(call: Call) -> Arrays:
    """Training: [n, c, ...] normalised over all but channels; the running mean and variance follow with `momentum`."""
    order = ("x", "mean", "variance", "weight", "bias")
    x, running = call.inputs[0], call.inputs[1:3]
    axes = (0, *range(2, x.ndim))
    by_channel = (1, -1, *(1,) * (x.ndim - 2))
    mean, variance = x.mean(axis=axes), x.var(axis=axes)
    inverse = 1 / np.sqrt(variance + call.number("epsilon", 1e-5))
    out = (x - mean.reshape(by_channel)) * inverse.reshape(by_channel)
    weight, bias = call.argument("weight", order), call.argument("bias", order)
    out = out if weight is None else out * weight.reshape(by_channel)
    out = out if bias is None else out + bias.reshape(by_channel)
    kept = call.number("momentum", 0.9)
    followed = [kept * old + (1 - kept) * new for old, new in zip(running, (mean, variance), strict=True)]
    reserve = [np.zeros(shape) for shape in call.shapes[5:]]
    return (out, *followed, mean, inverse, *reserve)[: len(call.shapes)]


def _group_norm(call: Call) -> Arrays:
    """Each group of channels of [n, c, ...] normalised; scaled by channel."""
    x, groups, order = call.inputs[0], call.integer("groups", 1), ("x", "weight", "bias")
    apart = x.reshape(x.shape[0], groups, -1)
    mean, variance = apart.mean(axis=2, keepdims=True), apart.var(axis=2, keepdims=True)
    out = ((apart - mean) / np.sqrt(variance + call.number("epsilon", 1e-5))).reshape(x.shape)
    by_channel = (1, -1, *(1,) * (x.ndim - 2))
    weight, bias = call.argument("weight", order), call.argument("bias", order)
    out = out if weight is None else out * weight.reshape(by_channel)
    out = out if bias is None else out + bias.reshape(by_channel)
    return tuple(a.reshape(s) for a, s in zip((out, mean, variance), call.shapes, strict=False))


def _cross_entropy(call: Call) -> Arrays:
    """The loss over whole classes; over cut ones the interpreter exchanges between the ranks."""
    logits, label = call.inputs
    axis = call.integer("axis", -1) % logits.ndim
    probability = _softmax(logits, axis)
    if call.flag("soft_label"):
        loss = -(label * np.log(probability)).sum(axis=axis, keepdims=True)
    else:
        index = label.reshape(*logits.shape[:axis], 1, *logits.shape[axis + 1 :])
        ignored = index == call.integer("ignore_index", -100)
        loss = -np.log(np.take_along_axis(probability, np.where(ignored, 0, index), axis)) * ~ignored
    return probability, loss.reshape(call.shapes[1])


OPERATORS: Mapping[str, Function] = {
    **MOVES,
    "add": _binary(np.add),
    "subtract": _binary(np.subtract),
    "multiply": _binary(np.multiply),
    "divide": _binary(np.divide),
    "maximum": _binary(np.maximum),
    "minimum": _binary(np.minimum),
    "remainder": _binary(np.remainder),
    "floor_divide": _binary(np.floor_divide),
    "elementwise_pow": _binary(np.power),
    "equal": _binary(np.equal),
    "not_equal": _binary(np.not_equal),
    "less_than": _binary(np.less),
    "less_equal": _binary(np.less_equal),
    "greater_than": _binary(np.greater),
    "greater_equal": _binary(np.greater_equal),
    "logical_and": _binary(np.logical_and),
    "logical_or": _binary(np.logical_or),
    "logical_not": _unary(np.logical_not),
    "relu": _unary(lambda x: np.maximum(x, 0)),
    "silu": _unary(lambda x: x * _sigmoid(x)),
    "swish": _unary(lambda x: x * _sigmoid(x)),
    "sigmoid": _unary(_sigmoid),
    "tanh": _unary(np.tanh),
    "exp": _unary(np.exp),
    "log": _unary(np.log),
    "sqrt": _unary(np.sqrt),
    "rsqrt": _unary(lambda x: 1 / np.sqrt(x)),
    "square": _unary(np.square),
    "abs": _unary(np.abs),
    "sin": _unary(np.sin),
    "cos": _unary(np.cos),
    "erf": _unary(lambda x: erf(x)),
    "reciprocal": _unary(lambda x: 1 / x),
    "floor": _unary(np.floor),
    "pow": lambda call: (call.inputs[0] ** call.number("exponent", 1.0),),
    "gelu": _gelu,
    "scale": _scale,
    "clip": _clip,
    "cast": _cast,
    "swiglu": _swiglu,
    "softmax": lambda call: (_softmax(call.inputs[0], call.integer("axis", -1)),),
    "log_softmax": lambda call: (np.log(_softmax(call.inputs[0], call.integer("axis", -1))),),
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "dropout": _dropout,
    "matmul": _matmul,
    "einsum": _einsum,
    "attention": _attention,
    "rope": _rope,
    "conv2d": _conv2d,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "cross_entropy": _cross_entropy,
    "cumsum": lambda call: (np.cumsum(call.inputs[0], axis=call.integer("axis")),),
    "topk": _topk,
    "argsort": _argsort,
    "argmax": _argmax,
    "sum": _reduction(np.sum),
    "mean": _mean,
    "max": _reduction(np.max),
    "min": _reduction(np.min),
    "prod": _reduction(np.prod),
    "any": _reduction(np.any),
    "all": _reduction(np.all),
    "logsumexp": _logsumexp,
}
