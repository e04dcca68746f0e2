"""From a table of splits to annotations: how tensor parallelism cuts the parameters of a block.

What is cut says nebula.graph.splits; here it becomes a dim of each parameter. A dim that fuses several projections is
cut inside each of them; heads that show only in how the dim is used, and that the degree does not divide, are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nebula.errors import BadInput
from nebula.graph.distribution import Distribution, Mesh, distribution, whole
from nebula.graph.splits import applicable, sublayer_of
from nebula.graph.spmd import signature_of
from nebula.graph.spmd.signature import Signature
from nebula.graph.values import Block, Operator, Role, Tensor

_TAKES_APART = ("split", "unbind", "slice", "gather", "index_select")
_FLOATS = ("float64", "float32", "bfloat16", "float16")


def annotate(
    block: Block, degree: int, splits: tuple[tuple[str, str], ...], *, sequence: bool
) -> dict[str, Distribution]:
    """Annotations of all parameters and inputs of the block on a mesh with the one axis `tensor`.

    With `sequence` the activations that enter the block (or, where only ids enter, those that leave it) are cut
    along the sequence.

    Raises:
        BadInput: a split of an unknown kind, or heads without a `heads` parameter that the degree does not divide.
    """
    mesh = Mesh(shape=(degree,), axes=("tensor",))
    annotations = {t.name: whole(mesh, len(t.shape)) for t in block.tensors if t.role is not Role.ACTIVATION}
    flow = _flow(block)
    kinds = applicable(splits, {t.name: t.shape for t in block.parameters}, degree)
    for tensor in block.parameters:
        dim = _dim(block, tensor, kinds.get(sublayer_of(tensor.name), ""))
        if dim is not None:
            blocks = flow.blocks(tensor.name, dim, degree)
            cuts = [(0, blocks) if i == dim else (-1, 1) for i in range(len(tensor.shape))]
            annotations[tensor.name] = distribution(mesh, cuts)
    if sequence:
        annotations.update(_streams(block, mesh))
    return annotations


def streams_of(block: Block) -> tuple[str, ...]:
    """What enters and leaves the block: what has a say only where heads, between cut products, have none."""
    return tuple(dict.fromkeys((*block.inputs, *block.outputs)))


def _dim(block: Block, tensor: Tensor, kind: str) -> int | None:
    """The dim of the parameter that is cut, or None where it stays whole."""
    if not kind:
        return None
    if kind == "heads":
        return 0
    rank = len(tensor.shape)
    if rank == 1 or tensor.name.endswith(".bias"):
        return None if kind == "row" else rank - 1
    users = [(op, op.inputs.index(tensor.name)) for op in block.operators if tensor.name in op.inputs]
    turned = any(op.kind == "matmul" and op.attribute("transpose_y" if i else "transpose_x") for op, i in users)
    if kind == "vocabulary":
        return 0 if turned or any(op.kind == "embedding" for op, _ in users) else rank - 1
    outputs_first = turned or any(op.kind.startswith("conv") for op, _ in users)
    if rank > 2 and any(op.kind.startswith("conv") for op, _ in users):
        return 1 if kind == "row" else 0
    last, before = (rank - 2, rank - 1) if outputs_first else (rank - 1, rank - 2)
    return before if kind == "row" else last


def _streams(block: Block, mesh: Mesh) -> Iterator[tuple[str, Distribution]]:
    """The hidden states at the block's borders, cut along the sequence: dim 1 of [b, s, h], dim 0 of [b s, h]."""
    tensors = block.by_name
    entering = [tensors[name] for name in block.inputs if _is_stream(tensors[name])]
    for tensor in entering or [t for t in map(tensors.__getitem__, block.outputs) if _is_stream(t)]:
        dim = len(tensor.shape) - 2
        yield tensor.name, distribution(mesh, [(0, 1) if i == dim else (-1, 1) for i in range(len(tensor.shape))])


def _is_stream(tensor: Tensor) -> bool:
    return tensor.needs_gradient and tensor.dtype in _FLOATS and len(tensor.shape) in (2, 3)


@dataclass(frozen=True, slots=True)
class _Flow:
    """A block as its tensors are read: for each tensor the operators that read it, and as which input."""

    block: Block
    users: Mapping[str, tuple[tuple[Operator, int, Signature], ...]]

    def followed(self, name: str, dim: int) -> Iterator[tuple[str, int]]:
        """The tensors that carry the dim onwards, each with where, as long as it is neither split nor merged."""
        seen: set[str] = set()
        queue = [(name, dim)]
        while queue:
            name, dim = queue.pop(0)
            if name in seen:
                continue
            seen.add(name)
            yield name, dim
            for operator, i, signature in self.users.get(name, ()):
                labels = signature.inputs[i][dim]
                if len(labels) == 1:
                    for output, dims in zip(operator.outputs, signature.outputs, strict=True):
                        if labels in dims:
                            queue.append((output, dims.index(labels)))

    def blocks(self, name: str, dim: int, degree: int) -> int:
        """How many projections the dim fuses, each of which is cut.

        Follows the dim to where it is taken apart, and from there what is cut, so that heads are met wherever they
        show.
        """
        for carrier, at in self.followed(name, dim):
            for operator, i, signature in self.users.get(carrier, ()):
                labels = signature.inputs[i][at]
                if len(labels) > 1:
                    return self._inside(operator, signature, labels, degree)
        return 1

    def _inside(self, operator: Operator, signature: Signature, labels: tuple[str, ...], degree: int) -> int:
        blocks = 1
        for label in labels:
            size = signature.sizes[label]
            places = signature.places.get(label, ())
            if places and not self._taken_apart(operator, places):
                self._require(operator, size, degree)
                place = places[len(operator.inputs)]
                return blocks * (1 if place is None else self.blocks(operator.outputs[0], place[0], degree))
            blocks *= size
        return 1

    def _taken_apart(self, operator: Operator, places: tuple[tuple[int, int] | None, ...]) -> bool:
        """Whether what the operator's outputs have at those places is only indexed (queries, keys, values)."""
        for output, place in zip(operator.outputs, places[len(operator.inputs) :], strict=True):
            if place is None:
                continue
            for name, dim in self.followed(output, place[0]):
                for user, i, signature in self.users.get(name, ()):
                    first = signature.inputs[i][dim][:1]
                    if user.kind in _TAKES_APART and not any(label in signature.places for label in first):
                        return True
        return False

    def _require(self, operator: Operator, size: int, degree: int) -> None:
        if size % degree == 0:
            return
        name = operator.outputs[0]
        shape = list(self.block.tensor(name).shape)
        raise BadInput(
            f"block {self.block.name}, tensor {name} of shape {shape}: its {size} heads cannot be cut among {degree} "
            f"ranks ({size} % {degree} = {size % degree}): choose a tensor degree that divides {size}"
        )


def _flow(block: Block) -> _Flow:
    tensors = block.by_name
    users: dict[str, list[tuple[Operator, int, Signature]]] = {}
    for operator in block.operators:
        signature = signature_of(operator, tensors)
        for i, name in enumerate(operator.inputs):
            users.setdefault(name, []).append((operator, i, signature))
    return _Flow(block, {name: tuple(reading) for name, reading in users.items()})
