"""What each operator kind computes, in numpy: the table that the interpreter looks kinds up in.

Kinds that draw random numbers and kinds that only some models' vision parts use are left out; dropout passes its input
through, as in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import erf as _erf

import numpy as np

from nebula.graph.interpret_ranks import Array

Arrays = tuple[Array, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One application of an operator on one rank.

    Attributes:
        inputs: its inputs.
        shapes: local shape of each output.
        dtypes: dtype name of each output.
        attributes: its attributes.
        place: the rank's coordinate along the axis that the attribute `located_axis` names, else 0.
    """

    inputs: Arrays
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    attributes: Mapping[str, object]
    place: int = 0

    def number(self, name: str, default: float = 0.0) -> float:
        """A number among the attributes."""
        value = self.attributes.get(name, default)
        assert isinstance(value, int | float), f"{name}={value!r}"
        return value

    def integer(self, name: str, default: int = 0) -> int:
        """An integer among the attributes."""
        return int(self.number(name, default))

    def integers(self, name: str) -> tuple[int, ...]:
        """Integers among the attributes; empty when missing."""
        value = self.attributes.get(name, ())
        return tuple(int(v) for v in value) if isinstance(value, tuple | list) else (int(str(value)),)

    def flag(self, name: str) -> bool:
        """A flag among the attributes, false when missing."""
        return bool(self.attributes.get(name, False))

    def argument(self, name: str, order: tuple[str, ...]) -> Array | None:
        """The input of that name where some of the arguments in `order` may be absent."""
        absent = self.attributes.get("absent", ())
        assert isinstance(absent, tuple | list)
        given = [argument for argument in order if argument not in absent][: len(self.inputs)]
        return self.inputs[given.index(name)] if name in given else None


Function = Callable[[Call], Arrays]

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


def _embedding(call: Call) -> Arrays:
    """A rank that holds part of the vocabulary leaves zeros for ids that it does not hold."""
    ids, weight = call.inputs
    mine = ids - call.place * len(weight)
    known = (mine >= 0) & (mine < len(weight))
    if "located_axis" not in call.attributes:
        assert known.all(), "an id lies outside the vocabulary"
    out = weight[np.where(known, mine, 0)] * known[..., None]
    padding = call.attributes.get("padding_idx", -1)
    if isinstance(padding, int) and padding >= 0:
        out = out * (ids != padding)[..., None]
    return (out,)


def _reshape(call: Call) -> Arrays:
    return (call.inputs[0].reshape(call.shapes[0]),)


def _expand(call: Call) -> Arrays:
    return (np.broadcast_to(call.inputs[0], call.shapes[0]).copy(),)


def _slice(call: Call) -> Arrays:
    x = call.inputs[0]
    index = [slice(None)] * x.ndim
    for dim, start, end in zip(call.integers("axes"), call.integers("starts"), call.integers("ends"), strict=True):
        index[dim] = slice(start, end)
    return (x[tuple(index)].reshape(call.shapes[0]),)


def _split(call: Call) -> Arrays:
    borders = np.cumsum(call.integers("sections"))[:-1]
    return tuple(np.split(call.inputs[0], borders, axis=call.integer("axis")))


def _unbind(call: Call) -> Arrays:
    return tuple(np.moveaxis(call.inputs[0], call.integer("axis"), 0))


def _gather(call: Call) -> Arrays:
    return (np.take(call.inputs[0], call.inputs[1], axis=call.integer("axis")),)


def _gather_nd(call: Call) -> Arrays:
    x, index = call.inputs
    return (x[tuple(np.moveaxis(index, -1, 0))],)


def _put_along_axis(call: Call) -> Arrays:
    x, index, value = call.inputs
    out = x.copy()
    axis = call.integer("axis")
    value = np.broadcast_to(value, index.shape)
    if call.attributes.get("reduce", "assign") == "add":
        where = list(np.indices(index.shape))
        where[axis] = index
        np.add.at(out, tuple(where), value)
    else:
        np.put_along_axis(out, index, value, axis)
    return (out,)


def _scatter(call: Call) -> Arrays:
    x, index, updates = call.inputs
    out = x.copy()
    if call.attributes.get("overwrite", True):
        out[index] = updates
    else:
        out[index] = 0
        np.add.at(out, index, updates)
    return (out,)


def _one_hot(call: Call) -> Arrays:
    return (np.eye(call.shapes[0][-1])[call.inputs[0]],)


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


def _full(call: Call) -> Arrays:
    return (np.full(call.shapes[0], call.number("value"), numpy_dtype(call.dtypes[0])),)


def _arange(call: Call) -> Arrays:
    start = call.number("start")
    step = call.number("step", 1.0)
    return ((start + step * np.arange(call.shapes[0][0])).astype(numpy_dtype(call.dtypes[0])),)


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


def numpy_dtype(name: str) -> type[np.generic]:
    """The dtype that the interpreter computes in: every float in double precision."""
    if name.startswith(("float", "bfloat")):
        return np.float64
    if name == "bool":
        return np.bool_
    return np.int64


OPERATORS: Mapping[str, Function] = {
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
    "assign": _unary(np.copy),
    "contiguous": _unary(np.copy),
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
    "embedding": _embedding,
    "cross_entropy": _cross_entropy,
    "reshape": _reshape,
    "flatten": _reshape,
    "squeeze": _reshape,
    "unsqueeze": _reshape,
    "transpose": lambda call: (np.transpose(call.inputs[0], call.integers("perm")),),
    "expand": _expand,
    "slice": _slice,
    "split": _split,
    "unbind": _unbind,
    "concat": lambda call: (np.concatenate(call.inputs, axis=call.integer("axis")),),
    "stack": lambda call: (np.stack(call.inputs, axis=call.integer("axis")),),
    "gather": _gather,
    "index_select": _gather,
    "gather_nd": _gather_nd,
    "take_along_axis": lambda call: (np.take_along_axis(call.inputs[0], call.inputs[1], call.integer("axis")),),
    "put_along_axis": _put_along_axis,
    "scatter": _scatter,
    "one_hot": _one_hot,
    "where": lambda call: (np.where(call.inputs[0], call.inputs[1], call.inputs[2]),),
    "tril": lambda call: (np.tril(call.inputs[0], call.integer("diagonal")),),
    "triu": lambda call: (np.triu(call.inputs[0], call.integer("diagonal")),),
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
    "full": _full,
    "full_like": _full,
    "zeros_like": lambda call: (np.zeros(call.shapes[0]),),
    "ones_like": lambda call: (np.ones(call.shapes[0]),),
    "arange": _arange,
}
