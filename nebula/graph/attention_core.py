"""Attention whose scores are written out: which operators make the scores and the mix of values, and from what.

A core begins where queries, keys and values are tensors [rows, S, heads, width] and ends where the mix of values leaves
for the next product. What works on scores alone (scales, biases, masks, turns by position) is part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nebula.graph.values import Block, Operator, Role, Tensor

_VIEWS = frozenset({"transpose", "contiguous", "reshape"})
_MASKS = frozenset({"triu", "tril"})
HEADS_NDIM = 4
"""Dims of queries, keys and values: rows, positions, heads, width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """One softmax over keys, with what it reads.

    Attributes:
        query, key, value: tensors [rows, S, heads, width] from outside.
        scoring: operators that make the scores, in order.
        scores: what the softmax reads.
        mixing: the softmax, the product with the values, and what moves values and their mix.
        mixed: what leaves.
        causal: whether scores of later keys are hidden.
    """

    query: str
    key: str
    value: str
    scoring: tuple[Operator, ...]
    scores: str
    mixing: tuple[Operator, ...]
    mixed: str
    causal: bool

    @property
    def names(self) -> frozenset[str]:
        """Of all its operators."""
        return frozenset(op.name for op in (*self.scoring, *self.mixing))


def written_cores(block: Block) -> tuple[Core, ...]:
    """The cores of a block; one that is written in another way than above is left out."""
    view = _View(block)
    found = (view.core(op) for op in block.operators if op.kind == "softmax")
    return tuple(core for core in found if core is not None)


class _View:
    """A block with who makes and who reads what."""

    def __init__(self, block: Block) -> None:
        self.block, self.tensors = block, block.by_name
        self.makers: Mapping[str, Operator] = {name: op for op in block.operators for name in op.outputs}
        self.readers: dict[str, list[Operator]] = {}
        for op in block.operators:
            for name in op.inputs:
                self.readers.setdefault(name, []).append(op)
        self.moving = depending(block)

    def core(self, softmax: Operator) -> Core | None:
        """The core of a softmax, where there is one."""
        products = [op for op in self._behind(softmax) if op.kind == "matmul"]
        scored = [op for op in self._before(softmax.inputs[0]) if op.kind == "matmul"]
        if len(products) != 1 or len(scored) != 1 or any(not self._of_activations(op) for op in (*products, *scored)):
            return None
        scoring = self._cone([softmax.inputs[0]], {softmax.name})
        values = self._cone(products[0].inputs[1:2], {products[0].name})
        mixed = self._leaves(products[0])
        outside = [self._sources(scored[0].inputs[i], scoring) for i in (0, 1)]
        outside.append(self._sources(products[0].inputs[1], values))
        if mixed is None or any(len(names) != 1 or not self._has_heads(names) for names in outside):
            return None
        (query,), (key,), (value,) = outside
        between = [op for op in self._behind(softmax) if op.kind != "matmul"]
        ends = self._chain(products[0], mixed)
        mixing = {op.name for op in (softmax, *between, *values, products[0], *ends)}
        return Core(
            query=query,
            key=key,
            value=value,
            scoring=scoring,
            scores=softmax.inputs[0],
            mixing=tuple(op for op in self.block.operators if op.name in mixing),
            mixed=mixed,
            causal=any(op.kind in _MASKS for op in scoring),
        )

    def _of_activations(self, product: Operator) -> bool:
        return all(name in self.moving for name in product.inputs)

    def _has_heads(self, names: Iterable[str]) -> bool:
        return all(len(self.tensors[name].shape) == HEADS_NDIM for name in names)

    def _before(self, name: str) -> Iterator[Operator]:
        """The operators behind a tensor, up to products."""
        op = self.makers.get(name)
        if op is None:
            return
        yield op
        if op.kind != "matmul":
            for source in op.inputs:
                yield from self._before(source)

    def _behind(self, op: Operator) -> list[Operator]:
        """The operators that read what one makes, down to products."""
        found: list[Operator] = []
        for reader in (r for name in op.outputs for r in self.readers.get(name, ())):
            found.append(reader)
            if reader.kind != "matmul":
                found += self._behind(reader)
        return found

    def _cone(self, names: Iterable[str], readers: set[str]) -> tuple[Operator, ...]:
        """The operators whose outputs go to these tensors alone, as far as heads are told apart."""
        inside, roots = set(readers), set(names)
        found: list[Operator] = []
        for op in reversed(self.block.operators):
            read = [r.name for name in op.outputs for r in self.readers.get(name, ())]
            if not read or not inside.issuperset(read) or not self._apart(op):
                continue
            if readers.issuperset(read) and not roots.intersection(op.outputs):
                continue
            inside.add(op.name)
            found.append(op)
        return tuple(reversed(found))

    def _apart(self, op: Operator) -> bool:
        """Whether what it reads of activations has dims of its own for heads."""
        moving = [self.tensors[name] for name in op.inputs if name in self.moving]
        if op.kind == "matmul":
            return self._of_activations(op)
        return all(len(t.shape) >= HEADS_NDIM for t in moving)

    def _sources(self, name: str, within: Iterable[Operator]) -> set[str]:
        """Activations from outside of some operators that a tensor is made of."""
        inside = {made: op for op in within for made in op.outputs}
        if name not in self.moving:
            return set()
        if name not in inside:
            return {name}
        return {source for read in inside[name].inputs for source in self._sources(read, inside.values())}

    def _leaves(self, product: Operator) -> str | None:
        """What the mix of values is when it has left: moved, and its heads joined."""
        name = product.outputs[0]
        while len(readers := self.readers.get(name, [])) == 1 and readers[0].kind in _VIEWS:
            name = readers[0].outputs[0]
            if len(self.tensors[name].shape) < HEADS_NDIM:
                return name
        return None

    def _chain(self, product: Operator, last: str) -> Iterator[Operator]:
        name = product.outputs[0]
        while name != last:
            (reader,) = self.readers[name]
            yield reader
            name = reader.outputs[0]


def depending(block: Block) -> frozenset[str]:
    """Tensors that are made of what comes into the block, weights and numbers of its own apart."""
    known = set(block.inputs)
    for op in block.operators:
        if known.intersection(op.inputs):
            known.update(op.outputs)
    return frozenset(known)


def scoring_block(block: Block, core: Core) -> Block:
    """The operators that make a core's scores as a block of its own, of queries and keys in order."""
    copies = {op.outputs[0]: op.inputs[0] for op in core.scoring if op.kind == "contiguous"}

    def source(name: str) -> str:
        while name in copies:
            name = copies[name]
        return name

    kept = [op for op in core.scoring if op.kind != "contiguous"]
    operators = tuple(_plain(op, tuple(source(n) for n in op.inputs)) for op in kept)
    used = {name for op in operators for name in (*op.inputs, *op.outputs)}
    tensors = (_as_input(t) if t.name in (core.query, core.key) else t for t in block.tensors if t.name in used)
    return Block(
        name=f"{block.name} scores",
        rows=block.rows,
        tensors=tuple(tensors),
        operators=operators,
        inputs=(core.query, core.key),
        outputs=(source(core.scores),),
    )


def _plain(op: Operator, inputs: tuple[str, ...]) -> Operator:
    return Operator(name=op.name, kind=op.kind, inputs=inputs, outputs=op.outputs, attributes=op.attributes)


def _as_input(tensor: Tensor) -> Tensor:
    return Tensor(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        role=Role.INPUT,
        per_row=tensor.per_row,
        needs_gradient=tensor.needs_gradient,
    )
