"""From a few annotated tensors to a distribution of every tensor of a block.

Annotations spread through the operators, forwards and backwards, until nothing changes. A step only cuts a dim that
nothing has cut yet, so there are at most as many steps as dims and the end is reached; annotations are never changed,
and where two of them disagree the partition reshards at the use.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from nebula.errors import BadInput
from nebula.graph.distribution import Distribution, Mesh, distribution, require_even
from nebula.graph.spmd import signature_of
from nebula.graph.spmd.signature import Signature, fits
from nebula.graph.values import Block, Operator, Role, Tensor


@dataclass(slots=True)
class _Known:
    """What is known of one tensor: for each dim axis and blocks, or None while open; how often that changed."""

    cuts: list[tuple[int, int] | None]
    fixed: bool
    partial: frozenset[int]
    parameter: bool
    silent: bool = False
    changes: int = 0

    @property
    def axes(self) -> set[int]:
        return {cut[0] for cut in self.cuts if cut is not None and cut[0] >= 0} | self.partial


def complete(block: Block, annotations: Mapping[str, Distribution], later: Collection[str] = ()) -> Block:
    """The block with a distribution on every tensor.

    Args:
        block: distributions that its tensors already carry count as annotations too.
        annotations: distributions by tensor name; they win over what the block carries.
        later: annotated tensors that have a say only where the others have spread as far as they can.

    Raises:
        BadInput: no tensor is annotated, a name is unknown, meshes differ, or a dim cannot be cut evenly.
    """
    given = _given(block, annotations)
    mesh = next(iter(given.values())).mesh
    known = {t.name: _known(t, given.get(t.name)) for t in block.tensors}
    visits = [_visit(op, block, known) for op in block.operators]
    _spread(visits, mesh, silent=[known[name] for name in later])
    _spread(visits, mesh, silent=[])
    for visit in visits:
        _leave_partial(visit, mesh, block.outputs)
    tensors = tuple(t.lying(_decided(known[t.name], mesh)) for t in block.tensors)
    return replace(block, tensors=tensors)


def _spread(visits: Sequence[_Visit], mesh: Mesh, silent: Sequence[_Known]) -> None:
    """Cuts open dims until nothing changes; what is silent has no say."""
    for known in silent:
        known.silent = True
    changed = True
    while changed:
        changed = False
        for visit in (*visits, *reversed(visits)):
            changed |= _refine(visit, mesh)
    for known in silent:
        known.silent = False
        known.changes += 1


def _given(block: Block, annotations: Mapping[str, Distribution]) -> dict[str, Distribution]:
    tensors = block.by_name
    for name in annotations:
        if name not in tensors:
            close = difflib.get_close_matches(name, tensors, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise BadInput(f"annotation of {name}: block {block.name} has no such tensor{hint}")
    given = {t.name: t.distribution for t in block.tensors if t.distribution is not None} | dict(annotations)
    if not given:
        raise BadInput(f"block {block.name} has no annotated tensor: annotate one, so that there is a mesh")
    mesh = next(iter(given.values())).mesh
    for name, annotation in given.items():
        if annotation.mesh != mesh:
            raise BadInput(f"tensor {name} is annotated on {annotation.mesh}, others on {mesh}: use one mesh per block")
        require_even(name, tensors[name].shape, annotation)
    return given


def _known(tensor: Tensor, annotation: Distribution | None) -> _Known:
    parameter = tensor.role is Role.PARAMETER
    if annotation is None:
        return _Known(cuts=[None] * len(tensor.shape), fixed=False, partial=frozenset(), parameter=parameter)
    return _Known(cuts=list(annotation.cuts), fixed=True, partial=annotation.partial, parameter=parameter)


@dataclass(slots=True)
class _Visit:
    """An operator with what is known of its operands, those whose word counts most first."""

    operator: Operator
    signature: Signature
    operands: list[_Known]
    order: list[int]
    seen: int = -1


def _visit(operator: Operator, block: Block, known: dict[str, _Known]) -> _Visit:
    operands = [known[name] for name in (*operator.inputs, *operator.outputs)]
    order = sorted(range(len(operands)), key=lambda i: not (operands[i].parameter and operands[i].fixed))
    return _Visit(operator=operator, signature=signature_of(operator, block.by_name), operands=operands, order=order)


def _refine(visit: _Visit, mesh: Mesh) -> bool:
    """Cuts open dims of the operands as the others say; whether any was, which none is where nothing is new."""
    changes = sum([operand.changes for operand in visit.operands])
    if changes == visit.seen:
        return False
    visit.seen, changed = changes, False
    for label, (axis, inner) in _agreed(visit, mesh).items():
        for operand, place in zip(visit.operands, visit.signature.places[label], strict=True):
            if operand.fixed or place is None or operand.cuts[place[0]] is not None or axis in operand.axes:
                continue
            operand.cuts[place[0]] = (axis, place[1] * inner)
            operand.changes += 1
            changed = True
    return changed


def _agreed(visit: _Visit, mesh: Mesh) -> dict[str, tuple[int, int]]:
    """The axis and blocks of each label that an operand has cut; annotated parameters come first."""
    agreed: dict[str, tuple[int, int]] = {}
    taken: set[int] = set()
    for i in visit.order:
        for dim, cut in enumerate(() if visit.operands[i].silent else visit.operands[i].cuts):
            if cut is None or cut[0] < 0 or cut[0] in taken:
                continue
            axis, blocks = cut
            found = visit.signature.label_at(i, dim, blocks, mesh.shape[axis])
            if found is not None and found[0] not in agreed:
                agreed[found[0]] = (axis, found[1])
                taken.add(axis)
    return agreed


def _leave_partial(visit: _Visit, mesh: Mesh, outputs: tuple[str, ...]) -> None:
    """Marks what a cut sum leaves as partial, except where the next layer takes it."""
    agreed = _agreed(visit, mesh)
    sums = {axis for label, (axis, _) in agreed.items() if label in visit.signature.sums}
    if not sums or not fits(visit.signature, [(axis, (label, n)) for label, (axis, n) in agreed.items()]):
        return
    for name, known in zip(visit.operator.outputs, visit.operands[len(visit.operator.inputs) :], strict=True):
        if not known.fixed and name not in outputs:
            known.partial |= frozenset(sums - known.axes)


def _decided(known: _Known, mesh: Mesh) -> Distribution:
    return distribution(mesh, [cut or (-1, 1) for cut in known.cuts], known.partial)
