"""Which label each mesh axis cuts in an operator whose operands' distributions are given.

Where the operands agree there is nothing to choose; where they do not, annotated parameters stay where they are, and
among what is left the assignment that moves the fewest bytes forwards and backwards wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from nebula.graph.distribution import Distribution, Mesh, distribution
from nebula.graph.reshard import moved_share, reshard
from nebula.graph.spmd.signature import Assignment, Signature, Use, fits, use
from nebula.graph.values import Role, Tensor

_Label = tuple[str, int]
_Candidates = list[_Label | None]


@dataclass(slots=True)
class _Suggestions:
    """What the operands say of one axis; refused are cuts that the operator cannot work with."""

    parameters: list[_Label]
    inputs: list[_Label]
    outputs: list[_Label]
    refused: bool = False
    refused_activation: bool = False

    def candidates(self, signature: Signature, degree: int) -> _Candidates:
        """Labels worth weighing, the first one where it is a tie; None stands for working redundantly."""
        if self.parameters:
            return [self.parameters[0]]
        if self.inputs:
            return list(dict.fromkeys((*self.inputs, *self.outputs)))
        if self.outputs:
            return [*dict.fromkeys(self.outputs), None]
        others: _Candidates = [(label, 1) for label in signature.labels if signature.sizes[label] % degree == 0]
        if self.refused_activation and others:
            return others
        return [*others, None] if self.refused else [None]


def choose(
    signature: Signature, operands: Sequence[Tensor], mesh: Mesh, unread: frozenset[str] = frozenset()
) -> Assignment:
    """The assignment under which the operator, with operands that lie as declared, works.

    An activation that is cut where the operator cannot be is moved to a cut that it can work with, rather than made
    whole on all ranks. Outputs in `unread` have no say, as nobody cares how they lie.
    """
    options = [
        _suggestions(signature, operands, axis, unread).candidates(signature, degree) if degree > 1 else [None]
        for axis, degree in enumerate(mesh.shape)
    ]
    if all(len(option) == 1 for option in options):
        cuts = _cuts([option[0] for option in options])
        if fits(signature, cuts):
            return Assignment(mesh=mesh, cuts=cuts)
    with_none = [option if None in option else [*option, None] for option in options]
    legal = [c for c in map(_cuts, product(*with_none)) if fits(signature, c)]
    needed = {axis for axis, option in enumerate(options) if None not in option}
    full = [c for c in legal if needed <= {axis for axis, _ in c}]
    assignments = [Assignment(mesh=mesh, cuts=c) for c in (full or legal)]
    return min(assignments, key=lambda a: moved_bytes(use(signature, a), operands, unread))


def _cuts(labels: Sequence[_Label | None]) -> tuple[tuple[int, _Label], ...]:
    return tuple((axis, label) for axis, label in enumerate(labels) if label is not None)


def _suggestions(signature: Signature, operands: Sequence[Tensor], axis: int, unread: frozenset[str]) -> _Suggestions:
    out = _Suggestions([], [], [])
    for i, tensor in enumerate(operands):
        lies = declared(tensor)
        if axis not in lies.dims_mapping or tensor.name in unread:
            continue
        dim = lies.dims_mapping.index(axis)
        label = signature.label_at(i, dim, lies.cuts[dim][1], lies.mesh.shape[axis])
        if label is None:
            out.refused = True
            out.refused_activation |= i < len(signature.inputs) and tensor.role is not Role.PARAMETER
        elif i >= len(signature.inputs):
            out.outputs.append(label)
        else:
            (out.parameters if tensor.role is Role.PARAMETER else out.inputs).append(label)
    return out


def moved_bytes(wanted: Use, operands: Sequence[Tensor], unread: frozenset[str] = frozenset()) -> float:
    """Bytes that one rank receives so that the operands lie as wanted, and their gradients as declared."""
    inputs = len(wanted.inputs)
    total = 0.0
    for tensor, at_use, gradient in zip(operands, wanted.inputs, wanted.gradients, strict=False):
        lies = declared(tensor)
        total += tensor.bytes * _share(lies, at_use)
        if tensor.needs_gradient:
            total += tensor.bytes * _share(gradient, gradient_rest(tensor, gradient))
    for tensor, made in zip(operands[inputs:], wanted.outputs, strict=True):
        if tensor.name in unread:
            continue
        lies = declared(tensor)
        total += tensor.bytes * _share(made, lies)
        if tensor.needs_gradient:
            total += tensor.bytes * _share(without_partial(lies), without_partial(made))
    return total


def declared(tensor: Tensor) -> Distribution:
    """The distribution that the tensor carries."""
    assert tensor.distribution is not None, f"{tensor.name} has no distribution: complete the block first"
    return tensor.distribution


def _share(source: Distribution, target: Distribution) -> float:
    return 0.0 if source == target else moved_share(reshard(source, target), source.mesh)


def without_partial(lies: Distribution) -> Distribution:
    """How a tensor's whole gradient lies: cut as the tensor; every rank that holds an addend has all of it."""
    return distribution(lies.mesh, lies.cuts) if lies.partial else lies


def gradient_rest(tensor: Tensor, gradient: Distribution) -> Distribution:
    """How the gradient of one use may stay: whole for an activation; a parameter's addends are summed once a step."""
    lies = declared(tensor)
    if tensor.role is not Role.PARAMETER:
        return without_partial(lies)
    later = gradient.partial - set(lies.dims_mapping) - lies.partial
    return distribution(lies.mesh, lies.cuts, later)
