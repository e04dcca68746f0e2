"""From a block whose tensors are distributed to the block that one rank runs.

Shapes become local ones, and where a producer and a consumer disagree an operator with the collectives is put between
them; its backward holds the transposed collectives. Gradients of parameters that are whole along an axis over which
the work is cut are left as addends and reported in `Block.gradient_sums`, to be summed once a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

from nebula.graph.completion import complete
from nebula.graph.distribution import Distribution, Mesh, distribution, require_even
from nebula.graph.reshard import Step, reshard
from nebula.graph.rules import COLLECTIVE_KINDS, apply
from nebula.graph.spmd import signature_of
from nebula.graph.spmd.choice import choose, declared, gradient_rest, without_partial
from nebula.graph.spmd.local import local_attributes
from nebula.graph.spmd.signature import Assignment, Signature, Use, use
from nebula.graph.spmd.splits import annotate, streams_of
from nebula.graph.values import Block, Collective, Operator, Role, Tensor

_LOSS_EXCHANGES = 3
_LOSS_BYTES = 4


def partition(block: Block) -> Block:
    """The block that one rank runs.

    Args:
        block: every tensor carries a distribution on one mesh (see `complete`), which what nobody reads need not
            keep.

    Returns:
        The block with local shapes; each tensor keeps its distribution, so that the global shape can be told.
        Operators are added between producers and consumers that disagree, with the kind of their first collective
        (`identity` without one) and the attributes `forward_steps` and `backward_steps`.

    Raises:
        BadInput: a dim cannot be cut evenly.
    """
    for tensor in block.tensors:
        require_even(tensor.name, tensor.shape, declared(tensor))
    mesh = declared(block.tensors[0]).mesh
    writer = _Writer(block=block, mesh=mesh, row_axes=_row_axes(block, mesh), unread=_unread(block))
    works = [_work(op, block.by_name, mesh, writer.unread) for op in block.operators]
    for work in works:
        writer.note(work)
    writer.begin()
    for work in works:
        writer.write(work)
    return _with_exchanges(apply(writer.block_of_rank()), works)


def tensor_parallel(block: Block, degree: int, splits: tuple[tuple[str, str], ...], *, sequence: bool = False) -> Block:
    """The block of one rank of a tensor group, cut as Megatron-LM does (Shoeybi et al. 2019; Korthikanti et al. 2022).

    Args:
        block: a block of whole tensors.
        degree: ranks of the tensor group.
        splits: pairs of a pattern over paths of sublayers and a kind; `nebula.graph.splits.applicable` says what they
            cut, and which groups of sublayers stay whole on every rank because their heads do not divide.
        sequence: whether what lies between the cut products is cut along the sequence.

    Raises:
        BadInput: a dim, or the heads, cannot be cut into that many shards.
    """
    if degree == 1:
        return block
    return partition(complete(block, annotate(block, degree, splits, sequence=sequence), later=streams_of(block)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """An operator with the cut that it works under."""

    operator: Operator
    signature: Signature
    assignment: Assignment
    use: Use


def _work(operator: Operator, tensors: Mapping[str, Tensor], mesh: Mesh, unread: frozenset[str]) -> _Work:
    signature = signature_of(operator, tensors)
    operands = [tensors[name] for name in (*operator.inputs, *operator.outputs)]
    assignment = choose(signature, operands, mesh, unread)
    return _Work(operator=operator, signature=signature, assignment=assignment, use=use(signature, assignment))


@dataclass(slots=True)
class _Reads:
    """How one tensor is read: the gradients that come back by distribution at the use, and what was written."""

    gradients: dict[Distribution, frozenset[int]] = field(default_factory=dict)
    resting: Distribution | None = None
    names: dict[tuple[Distribution, Distribution], str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Writer:
    """Collects the tensors and operators of one rank."""

    block: Block
    mesh: Mesh
    row_axes: frozenset[int]
    unread: frozenset[str]
    known: dict[str, Tensor] = field(default_factory=dict)
    reads: dict[str, _Reads] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)

    def note(self, work: _Work) -> None:
        """Takes down how the operator reads its inputs, before anything is written."""
        self.known = self.known or dict(self.block.by_name)
        for name, lies, gradient in zip(work.operator.inputs, work.use.inputs, work.use.gradients, strict=True):
            tensor = self.known[name]
            reads = self.reads.setdefault(name, _Reads())
            reads.gradients[lies] = reads.gradients.get(lies, frozenset()) | gradient.partial
            rest = gradient_rest(tensor, gradient)
            earlier = reads.resting or rest
            reads.resting = distribution(self.mesh, rest.cuts, earlier.partial | rest.partial)

    def begin(self) -> None:
        """Writes the tensors that no operator makes."""
        self.known = self.known or dict(self.block.by_name)
        made = {name for op in self.block.operators for name in op.outputs}
        for tensor in self.block.tensors:
            if tensor.name not in made:
                self._place(tensor, declared(tensor))

    def write(self, work: _Work) -> None:
        """Writes the operator, what brings its inputs to it and what brings its outputs to where they belong."""
        operator = work.operator
        inputs = tuple(
            self._read(self.known[name], lies, gradient)
            for name, lies, gradient in zip(operator.inputs, work.use.inputs, work.use.gradients, strict=True)
        )
        late: list[Operator] = []
        outputs = []
        for name, lies in zip(operator.outputs, work.use.outputs, strict=True):
            tensor = self.known[name]
            if lies == declared(tensor) or name in self.unread:
                outputs.append(self._place(tensor, lies))
                continue
            made = replace(tensor, name=f"{name}~made", role=Role.ACTIVATION, alias_of="")
            outputs.append(self._place(made, lies))
            late.append(self._reshard(made, lies, tensor, without_partial(declared(tensor)), without_partial(lies)))
        if operator.kind in COLLECTIVE_KINDS:  # of a cut that was made before
            operator = _scaled(operator, self.tensors[outputs[0]].size / self.known[operator.outputs[0]].size)
        shapes = [[self.tensors[n].shape for n in names] for names in (inputs, outputs)]
        attributes = local_attributes(operator, work.signature, work.assignment, shapes[0], shapes[1])
        written = Operator(
            name=operator.name,
            kind=operator.kind,
            inputs=inputs,
            outputs=tuple(outputs),
            attributes=attributes,
            forward=operator.forward,
            backward=operator.backward,
            saved=operator.saved,
        )
        self.operators.append(written)
        self.operators.extend(late)

    def _place(self, tensor: Tensor, lies: Distribution) -> str:
        alias = tensor.alias_of if tensor.alias_of in self.tensors else ""
        self.tensors[tensor.name] = Tensor(
            name=tensor.name,
            shape=lies.local_shape(tensor.shape),
            dtype=tensor.dtype,
            role=tensor.role,
            per_row=_local_growth(tensor, lies, self.row_axes) if tensor.per_row else (),
            alias_of=alias,
            distribution=lies,
            needs_gradient=tensor.needs_gradient,
        )
        return tensor.name

    def _read(self, tensor: Tensor, lies: Distribution, gradient: Distribution) -> str:
        """Name of the tensor that lies as the use wants; its gradient comes back as the use leaves it."""
        reads, here = self.reads[tensor.name], declared(tensor)
        resting = reads.resting
        assert resting is not None
        if not tensor.needs_gradient:
            gradient = joined = resting = distribution(self.mesh, lies.cuts)
            if lies == here:
                return tensor.name
        else:
            joined = gradient if lies == here else distribution(self.mesh, lies.cuts, reads.gradients[lies])
        if lies == here and gradient == resting:
            return tensor.name
        first = self._copy(tensor, tensor, (here, lies), joined, resting)
        return first if gradient == joined else self._copy(tensor, self.known[first], (lies, lies), gradient, joined)

    def _copy(
        self,
        tensor: Tensor,
        source: Tensor,
        lies: tuple[Distribution, Distribution],
        gradient: Distribution,
        back: Distribution,
    ) -> str:
        reads = self.reads[tensor.name]
        key = (lies[1], gradient)
        if key not in reads.names:
            copy = replace(
                tensor,
                name=f"{tensor.name}~{len(reads.names) + 1}",
                role=Role.ACTIVATION,
                alias_of=source.name if lies[0] == lies[1] else "",
                distribution=lies[1],
            )
            self.known[copy.name] = copy
            self.operators.append(self._reshard(source, lies[0], copy, gradient, back))
            reads.names[key] = copy.name
        return reads.names[key]

    def _reshard(
        self, source: Tensor, lies: Distribution, target: Tensor, gradient: Distribution, back: Distribution
    ) -> Operator:
        """The operator that brings `source`, lying so, to `target`, and the target's gradient back."""
        wanted = declared(target)
        self._place(target, wanted)
        forward = reshard(lies, wanted)
        backward = reshard(gradient, back) if target.needs_gradient else ()
        kinds = [step.kind for step in forward if step.communicates]
        kind = kinds[0] if kinds else "identity"
        return Operator(
            name=f"{target.name}/{kind}",
            kind=kind,
            inputs=(source.name,),
            outputs=(target.name,),
            attributes=(("backward_steps", backward), ("forward_steps", forward)),
            forward=_collectives(forward, target, self.mesh),
            backward=_collectives(backward, target, self.mesh),
        )

    def block_of_rank(self) -> Block:
        """What was written."""
        sums = dict(self.block.gradient_sums)
        for tensor in self.block.parameters:
            reads = self.reads.get(tensor.name)
            if reads and reads.resting and reads.resting.partial:
                axes = tuple(self.mesh.axes[a] for a in sorted(reads.resting.partial))
                sums[tensor.name] = (*sums.get(tensor.name, ()), *axes)
        return replace(
            self.block,
            rows=self.block.rows // prod(self.mesh.shape[a] for a in self.row_axes),
            tensors=tuple(self.tensors.values()),
            operators=tuple(self.operators),
            gradient_sums=tuple(sums.items()),
        )


def _collectives(steps: tuple[Step, ...], tensor: Tensor, mesh: Mesh) -> tuple[Collective, ...]:
    """What the steps communicate; `tensor` has its global shape."""
    return tuple(
        Collective(kind=step.kind, axis=mesh.axes[step.axis], bytes=tensor.bytes / step.parts)
        for step in steps
        if step.communicates and mesh.shape[step.axis] > 1
    )


def _scaled(operator: Operator, share: float) -> Operator:
    """The operator whose collectives move that share of what they moved."""
    forward, backward = (
        tuple(replace(w, bytes=w.bytes * share) if isinstance(w, Collective) else w for w in works)
        for works in (operator.forward, operator.backward)
    )
    return replace(operator, forward=forward, backward=backward)


def _unread(block: Block) -> frozenset[str]:
    """What operators make and nobody reads: statistics for the backward, masks."""
    read = {name for op in block.operators for name in op.inputs} | set(block.outputs)
    return frozenset(name for op in block.operators for name in op.outputs) - read


def _row_axes(block: Block, mesh: Mesh) -> frozenset[int]:
    """Axes that divide the rows, not positions inside a row.

    An axis does where it cuts a dim that is as long as the rows, or one whose growth with a row it cannot divide.
    """
    axes = set()
    for tensor in block.tensors:
        for axis, growth in zip(declared(tensor).dims_mapping, tensor.per_row, strict=False):
            if axis >= 0 and growth > 0 and growth % mesh.shape[axis]:
                axes.add(axis)
    return frozenset(axes)


def _local_growth(tensor: Tensor, lies: Distribution, row_axes: frozenset[int]) -> tuple[int, ...]:
    degrees = (1 if axis in row_axes else lies.degree(dim) for dim, axis in enumerate(lies.dims_mapping))
    return tuple(growth // degree for growth, degree in zip(tensor.per_row, degrees, strict=False))


def _with_exchanges(block: Block, works: list[_Work]) -> Block:
    """Adds what a loss over cut classes exchanges inside: the maximum, the target's logit, the sum of exponentials."""
    inside = {w.operator.name for w in works if w.signature.exchanged & w.assignment.labels.keys()}
    if not inside:
        return block
    operators = []
    for op in block.operators:
        if op.name in inside:
            located = op.attribute("located_axis")
            assert isinstance(located, str)
            loss = block.tensor(op.outputs[-1])
            exchange = Collective(kind="all_reduce", axis=located, bytes=loss.size * _LOSS_BYTES)
            op = replace(op, forward=op.forward + (exchange,) * _LOSS_EXCHANGES)
        operators.append(op)
    return replace(block, operators=tuple(operators))
