"""What may be cut in an operator: every dim of its operands spelt in labels, as in an index notation for einsum.

Dims with the same label are cut together. A label that only inputs hold is summed over, so that cutting it leaves
partial sums. A dim that merges several labels (a reshape's, a fused projection's) names them from the major one on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd, prod

from nebula.graph.distribution import Distribution, Mesh, distribution

Dims = tuple[tuple[str, ...], ...]
"""For each dim of a tensor its labels, major first; () for a dim that is never cut."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The labels of one operator's operands.

    Attributes:
        inputs: the dims of each input.
        outputs: the dims of each output.
        sizes: size of each label.
        whole: labels that are never cut.
        sums: labels that no output holds and that the operator sums over: cut, they leave partial sums.
        lacking: labels that some outputs may lack although the operator does not sum over them.
        exchanged: labels in `lacking` over which the operator, cut there, communicates by itself.
        located: labels whose shard's position the local operator must know.
    """

    inputs: tuple[Dims, ...]
    outputs: tuple[Dims, ...]
    sizes: Mapping[str, int]
    whole: frozenset[str] = frozenset()
    sums: frozenset[str] = frozenset()
    lacking: frozenset[str] = frozenset()
    exchanged: frozenset[str] = frozenset()
    located: frozenset[str] = frozenset()

    @cached_property
    def operands(self) -> tuple[Dims, ...]:
        """Inputs, then outputs."""
        return self.inputs + self.outputs

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels that can be cut: every output either holds them or may lack them."""
        outputs = [{label for labels in dims for label in labels} for dims in self.outputs]
        lacking = self.sums | self.lacking
        return tuple(
            label
            for label, size in self.sizes.items()
            if size > 1 and label not in self.whole and (label in lacking or all(label in held for held in outputs))
        )

    @cached_property
    def places(self) -> Mapping[str, tuple[tuple[int, int] | None, ...]]:
        """For each label and operand the dim that holds it and the blocks before it in that dim, or None."""
        return {label: tuple(self._place(label, dims) for dims in self.operands) for label in self.labels}

    def _place(self, label: str, dims: Dims) -> tuple[int, int] | None:
        for dim, labels in enumerate(dims):
            if label in labels:
                return dim, prod(self.sizes[other] for other in labels[: labels.index(label)])
        return None

    def label_at(self, operand: int, dim: int, blocks: int, degree: int) -> tuple[str, int] | None:
        """The label, and its own blocks, that a cut of the operand's dim into `degree` shards falls on."""
        before = 1
        for label in self.operands[operand][dim]:
            size = self.sizes[label]
            if blocks % before == 0 and size % (blocks // before * degree) == 0 and label in self.places:
                return label, blocks // before
            before *= size
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The label that each mesh axis cuts in one operator.

    Attributes:
        mesh: the ranks.
        cuts: pairs of axis and (label, blocks); axes along which the operator works redundantly are left out.
    """

    mesh: Mesh
    cuts: tuple[tuple[int, tuple[str, int]], ...] = ()

    @property
    def labels(self) -> dict[str, tuple[int, int]]:
        """For each cut label its axis and blocks."""
        return {label: (axis, blocks) for axis, (label, blocks) in self.cuts}

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which the operator is divided."""
        return tuple(axis for axis, _ in self.cuts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How an operator under an assignment wants its operands.

    Attributes:
        inputs: distribution of each input.
        gradients: distribution in which the backward leaves each input's gradient, when the gradient of each
            output arrives cut as the output and whole where the output is partial.
        outputs: distribution in which the forward leaves each output.
    """

    inputs: tuple[Distribution, ...]
    gradients: tuple[Distribution, ...]
    outputs: tuple[Distribution, ...]


def use(signature: Signature, assignment: Assignment) -> Use:
    """The operands' distributions under the assignment.

    An input without a label that an axis cuts is whole along the axis while each rank works on a part of the
    operator: its gradients are addends. That is the operator `f` of Megatron-LM (Shoeybi et al. 2019, section 3),
    and partial outputs with whole gradients are its conjugate `g`.
    """
    labels = assignment.labels
    sums = frozenset(axis for label, (axis, _) in labels.items() if label in signature.sums)
    inputs, gradients = [], []
    for i in range(len(signature.inputs)):
        cuts = operand_cuts(signature, i, labels)
        addends = frozenset(assignment.axes) - {axis for axis, _ in cuts}
        inputs.append(distribution(assignment.mesh, cuts))
        gradients.append(distribution(assignment.mesh, cuts, addends))
    outputs = [
        distribution(assignment.mesh, operand_cuts(signature, len(signature.inputs) + i, labels), sums)
        for i in range(len(signature.outputs))
    ]
    return Use(inputs=tuple(inputs), gradients=tuple(gradients), outputs=tuple(outputs))


def operand_cuts(
    signature: Signature, operand: int, labels: Mapping[str, tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    """For each dim of the operand its axis and blocks when the labels are cut so."""
    cuts = [(-1, 1)] * len(signature.operands[operand])
    for label, (axis, blocks) in labels.items():
        place = signature.places[label][operand]
        if place is not None:
            assert cuts[place[0]][0] < 0, f"two axes cut dim {place[0]}"
            cuts[place[0]] = (axis, place[1] * blocks)
    return tuple(cuts)


def fits(signature: Signature, cuts: Iterable[tuple[int, tuple[str, int]]]) -> bool:
    """Whether no label is cut twice and no operand's dim by two axes."""
    labels = [label for _, (label, _) in cuts]
    if len(set(labels)) < len(labels):
        return False
    for operand in range(len(signature.operands)):
        places = [signature.places[label][operand] for label in labels]
        dims = [place[0] for place in places if place is not None]
        if len(set(dims)) < len(dims):
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Operands:
    """What a rule sees of an operator.

    Attributes:
        inputs: shape of each input.
        outputs: shape of each output.
        attributes: the operator's attributes.
        rows_lead: whether every operand that is no parameter has the rows as its first dim.
    """

    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    attributes: Mapping[str, object]
    rows_lead: bool = False

    def number(self, name: str, default: int = 0) -> int:
        """An attribute that is one integer; a negative axis must have been made positive before."""
        value = self.attributes.get(name, default)
        assert isinstance(value, int), f"{name}={value!r}"
        return value

    def numbers(self, name: str) -> tuple[int, ...]:
        """An attribute that holds integers; empty when it is missing."""
        value = self.attributes.get(name, ())
        return tuple(int(v) for v in value) if isinstance(value, tuple | list) else (int(str(value)),)

    def flag(self, name: str) -> bool:
        """An attribute that is true or false; false when it is missing."""
        return bool(self.attributes.get(name, False))


@dataclass(slots=True)
class Labels:
    """Fresh labels with their sizes, for rules that write a signature."""

    sizes: dict[str, int] = field(default_factory=dict)

    def new(self, size: int) -> str:
        """One more label."""
        label = f"l{len(self.sizes)}"
        self.sizes[label] = size
        return label

    def dims(self, shape: Iterable[int]) -> Dims:
        """A fresh label for each dim of the shape."""
        return tuple((self.new(n),) for n in shape)


def common_factors(labels: Labels, left: tuple[int, ...], right: tuple[int, ...]) -> tuple[Dims, Dims]:
    """Labels for two shapes of the same elements in the same order, shared as far as the dims' factors agree.

    Walks both shapes from the major dim; where neither remaining factor divides the other only their greatest
    common divisor is shared, and the dims behind stay whole until both shapes have run through the same elements.

    >>> common_factors(Labels(), (2, 12), (2, 3, 4))
    ((('l0',), ('l1', 'l2')), (('l0',), ('l1',), ('l2',)))
    """
    ours: list[list[str]] = [[] for _ in left]
    theirs: list[list[str]] = [[] for _ in right]
    for group_left, group_right in _groups(left, right):
        for i, j, size in _shared(left, right, group_left, group_right):
            label = labels.new(size)
            ours[i].append(label)
            theirs[j].append(label)
    return tuple(map(tuple, ours)), tuple(map(tuple, theirs))


def _groups(left: tuple[int, ...], right: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Smallest runs of dims with the same number of elements on both sides."""
    a = [i for i, n in enumerate(left) if n != 1]
    b = [j for j, n in enumerate(right) if n != 1]
    while a or b:
        first, second = [a.pop(0)], [b.pop(0)]
        while (m := prod(left[i] for i in first)) != (n := prod(right[j] for j in second)):
            (first if m < n else second).append((a if m < n else b).pop(0))
        yield first, second


def _shared(
    left: tuple[int, ...], right: tuple[int, ...], first: list[int], second: list[int]
) -> Iterator[tuple[int, int, int]]:
    """Pairs of dims with the factor that they share, major first."""
    i = j = 0
    m, n = left[first[0]], right[second[0]]
    while True:
        size = gcd(m, n)
        if size > 1:
            yield first[i], second[j], size
        if size not in (m, n):
            return
        m, n = m // size, n // size
        if m == 1:
            i += 1
            m = left[first[i]] if i < len(first) else 1
        if n == 1:
            j += 1
            n = right[second[j]] if j < len(second) else 1
        if i == len(first) or j == len(second):
            return
