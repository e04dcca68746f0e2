"""Kinds that move, pick or make elements without arithmetic, in numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nebula.graph.interpret_call import Arrays, Call, Function, numpy_dtype


def _copy(call: Call) -> Arrays:
    return (call.inputs[0].copy(),)


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


def _full(call: Call) -> Arrays:
    return (np.full(call.shapes[0], call.number("value"), numpy_dtype(call.dtypes[0])),)


def _arange(call: Call) -> Arrays:
    start = call.number("start")
    step = call.number("step", 1.0)
    return ((start + step * np.arange(call.shapes[0][0])).astype(numpy_dtype(call.dtypes[0])),)


def _diagonal(call: Call) -> int:
    """Of the rank's rows, which begin `place` shards below those of the whole matrix."""
    return call.integer("diagonal") + call.place * int(call.inputs[0].shape[-2])


MOVES: Mapping[str, Function] = {
    "assign": _copy,
    "contiguous": _copy,
    "embedding": _embedding,
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
    "tril": lambda call: (np.tril(call.inputs[0], _diagonal(call)),),
    "triu": lambda call: (np.triu(call.inputs[0], _diagonal(call)),),
    "full": _full,
    "full_like": _full,
    "zeros_like": lambda call: (np.zeros(call.shapes[0]),),
    "ones_like": lambda call: (np.ones(call.shapes[0]),),
    "arange": _arange,
}
