"""Where Paddle copies a strided view to make it contiguous, written out as operators of kind `contiguous`.

A view out of order (a transpose, a slice across rows) costs nothing until a kernel reads it: then, in dygraph with
strided kernels (3.3.1), a copy is launched for each reader. Reshape goes on showing the same memory where the strides
allow it and copies otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nebula.graph.values import Block, Operator, Tensor

Strides = tuple[int, ...]

_VIEWS = frozenset({"reshape", "squeeze", "unsqueeze", "transpose", "slice", "strided_slice", "unbind", "detach"})


def contiguous_strides(shape: Sequence[int]) -> Strides:
    """Elements from one index to the next in each dim of a tensor in order.

    >>> contiguous_strides((2, 3, 4))
    (12, 4, 1)
    """
    strides = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        strides[dim] = strides[dim + 1] * shape[dim + 1]
    return tuple(strides)


def reshaped(shape: Sequence[int], strides: Strides, target: Sequence[int]) -> Strides | None:
    """Strides of a reshape that shows the same memory; None when the elements would have to move.

    >>> reshaped((4, 6), (6, 1), (2, 2, 6)), reshaped((4, 6), (1, 4), (24,))
    ((12, 6, 1), None)
    """
    out = [0] * len(target)
    dim = len(target) - 1
    for size, step in reversed(_runs(shape, strides)):
        while dim >= 0 and (size > 1 or target[dim] == 1):
            if size % target[dim]:
                return None
            out[dim], size, step, dim = step, size // target[dim], step * target[dim], dim - 1
        if size > 1:
            return None
    for rest in range(dim, -1, -1):
        if target[rest] != 1:
            return None
        out[rest] = out[rest + 1] * target[rest + 1] if rest + 1 < len(target) else 1
    return tuple(out)


def _runs(shape: Sequence[int], strides: Strides) -> list[tuple[int, int]]:
    """Maximal groups of dims that lie in memory as one: (elements, stride of the last)."""
    runs: list[tuple[int, int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * stride:
            runs[-1] = (runs[-1][0] * size, stride)
        else:
            runs.append((size, stride))
    return runs


def with_copies(block: Block) -> Block:
    """The block with a `contiguous` operator before each reader that is no view; applying it twice changes nothing."""
    tensors = list(block.tensors)
    by_name = dict(block.by_name)
    strides: dict[str, Strides] = {}
    operators: list[Operator] = []

    def strides_of(name: str) -> Strides:
        return strides.get(name, contiguous_strides(by_name[name].shape))

    def copy(operator: Operator, place: int) -> str:
        source = by_name[operator.inputs[place]]
        name = f"{operator.name}:contiguous{place}"
        by_name[name] = replace(source, name=name, role=type(source.role).ACTIVATION, alias_of="")
        tensors.append(by_name[name])
        operators.append(Operator(name=name, kind="contiguous", inputs=(source.name,), outputs=(name,)))
        return name

    for operator in block.operators:
        if operator.kind in _VIEWS:
            found = _view_strides(operator, by_name, strides_of(operator.inputs[0]))
            if found is None:
                operator = replace(operator, inputs=(copy(operator, 0), *operator.inputs[1:]))
                found = contiguous_strides(by_name[operator.outputs[0]].shape)
            strides.update(dict.fromkeys(operator.outputs, found))
        elif operator.kind != "contiguous":
            strided = [strides_of(n) != contiguous_strides(by_name[n].shape) for n in operator.inputs]
            inputs = [copy(operator, i) if s else operator.inputs[i] for i, s in enumerate(strided)]
            operator = replace(operator, inputs=tuple(inputs))
        operators.append(operator)
    return replace(block, tensors=tuple(tensors), operators=tuple(operators))


def _view_strides(operator: Operator, tensors: Mapping[str, Tensor], strides: Strides) -> Strides | None:
    """Strides of a view's outputs; None when the kind has to copy after all."""
    source, out = tensors[operator.inputs[0]], tensors[operator.outputs[0]]
    if operator.kind == "reshape":
        return reshaped(source.shape, strides, out.shape)
    if operator.kind == "transpose":
        return tuple(strides[p] for p in _integers(operator, "perm"))
    if operator.kind == "unbind":
        axis = _integers(operator, "axis")[0]
        return strides[:axis] + strides[axis + 1 :]
    if operator.kind in ("slice", "strided_slice"):
        steps = dict(zip(_integers(operator, "axes"), _integers(operator, "strides"), strict=False))
        scaled = [s * steps.get(dim, 1) for dim, s in enumerate(strides)]
        gone = _integers(operator, "decrease_axis")
        return tuple(s for dim, s in enumerate(scaled) if dim not in gone)
    if operator.kind == "squeeze":
        gone = _integers(operator, "axes")
        return tuple(s for dim, s in enumerate(strides) if dim not in gone)
    if operator.kind == "unsqueeze":
        return _unsqueezed(_integers(operator, "axes"), strides, out.shape)
    return strides


def _unsqueezed(axes: tuple[int, ...], strides: Strides, shape: Sequence[int]) -> Strides:
    """Paddle gives a new dim the stride that a tensor in order would have there."""
    left, out = list(strides), [0] * len(shape)
    for dim in range(len(shape) - 1, -1, -1):
        if dim in axes:
            out[dim] = out[dim + 1] * shape[dim + 1] if dim + 1 < len(shape) else 1
        else:
            out[dim] = left.pop()
    return tuple(out)


def _integers(operator: Operator, name: str) -> tuple[int, ...]:
    value = operator.attribute(name, ())
    if isinstance(value, int):
        return (value,)
    assert isinstance(value, tuple), f"{operator.name}: {name}={value!r}"
    return tuple(int(v) for v in value)
