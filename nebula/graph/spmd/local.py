"""The attributes of an operator on one rank: sizes and counts that a cut changes, and where the rank's shard lies.

Most kinds read sizes off their operands and need nothing; the table here holds the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from nebula.graph.spmd.signature import Assignment, Signature
from nebula.graph.values import Operator

Shapes = Sequence[tuple[int, ...]]


def local_attributes(
    operator: Operator, signature: Signature, assignment: Assignment, inputs: Shapes, outputs: Shapes
) -> tuple[tuple[str, object], ...]:
    """The operator's attributes for local operands of those shapes.

    Adds `located_axis`, the name of the mesh axis along which the operator must know its coordinate.
    """
    attributes = dict(operator.attributes)
    change = _CHANGES.get(operator.kind)
    labels = assignment.labels
    if change is not None and labels:
        attributes |= change(operator, signature, assignment, inputs, outputs)
    for label in signature.located & labels.keys():
        attributes["located_axis"] = assignment.mesh.axes[labels[label][0]]
    return tuple(sorted(attributes.items(), key=lambda pair: pair[0]))


def _sections(
    operator: Operator, _signature: Signature, _assignment: Assignment, _inputs: Shapes, outputs: Shapes
) -> dict[str, object]:
    axis = _axis(operator, len(outputs[0]))
    return {"sections": tuple(shape[axis] for shape in outputs)}


def _axis(operator: Operator, rank: int) -> int:
    axis = operator.attribute("axis", 0)
    assert isinstance(axis, int)
    return axis % rank


def _bounds(
    operator: Operator, signature: Signature, assignment: Assignment, inputs: Shapes, _outputs: Shapes
) -> dict[str, object]:
    """A slice takes one of several equal blocks; each block is cut, so its bounds shrink with it."""
    axes, starts, ends = (list(_numbers(operator, name)) for name in ("axes", "starts", "ends"))
    labels = assignment.labels
    for i, dim in enumerate(axes):
        axis = next((labels[label][0] for label in signature.inputs[0][dim] if label in labels), None)
        if axis is not None:
            degree = assignment.mesh.shape[axis]
            size = inputs[0][dim] * degree
            starts[i], ends[i] = (min(v + size if v < 0 else v, size) // degree for v in (starts[i], ends[i]))
    return {"starts": tuple(starts), "ends": tuple(ends)}


def _numbers(operator: Operator, name: str) -> tuple[int, ...]:
    value = operator.attribute(name)
    assert isinstance(value, tuple | list)
    return tuple(value)


def _groups(
    operator: Operator, signature: Signature, assignment: Assignment, _inputs: Shapes, _outputs: Shapes
) -> dict[str, object]:
    channel = next(dim for dim in signature.inputs[0] if len(dim) == 2)
    groups = operator.attribute("groups", 1)
    assert isinstance(groups, int)
    labels = assignment.labels
    if channel[0] not in labels:
        return {}
    return {"groups": groups // assignment.mesh.shape[labels[channel[0]][0]]}


def _count(
    operator: Operator, signature: Signature, _assignment: Assignment, _inputs: Shapes, _outputs: Shapes
) -> dict[str, object]:
    """A mean over a cut dim divides its sum by the number of all elements, whatever was cut before."""
    return {"count": operator.attribute("count") or prod(signature.sizes[label] for label in signature.sums)}


def _context(
    operator: Operator, signature: Signature, assignment: Assignment, _inputs: Shapes, _outputs: Shapes
) -> dict[str, object]:
    """Attention over positions of which each rank has a part exchanges keys and values among so many ranks."""
    axes = [assignment.labels[label][0] for label in signature.inputs[0][1] if label in assignment.labels]
    if not axes or operator.attribute("exchange") is None:
        return {}
    return {"context": assignment.mesh.shape[axes[0]]}


_CHANGES: dict[str, Callable[[Operator, Signature, Assignment, Shapes, Shapes], dict[str, object]]] = {
    "split": _sections,
    "slice": _bounds,
    "conv2d": _groups,
    "group_norm": _groups,
    "mean": _count,
    "attention": _context,
}
