"""Context parallelism: the block of one rank of a group that shares the sequence.

Every activation is cut along its sequence, parameters are whole and their gradients addends. Fused attention gets the
keys and values that a rank lacks by one of three ways (nebula.graph.rules.context). Attention with its scores written
out is products of activations [rows, heads, ...]: `ulysses` cuts them by heads. What else needs the whole sequence
gathers it (such products, a scan), which only the way `gather` allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from nebula.errors import BadInput, closest
from nebula.graph.completion import complete
from nebula.graph.distribution import Distribution, Mesh, distribution, whole
from nebula.graph.partition import partition
from nebula.graph.rules import is_float
from nebula.graph.rules.context import AXIS, EXCHANGES
from nebula.graph.values import Block, Collective, Operator, Tensor

_Place = tuple[int, int]
"""The dim of a tensor that runs over positions, and the number of rows that the dim merges with them."""


def context_parallel(block: Block, degree: int, how: str = "ring") -> Block:
    """The block of one of `degree` ranks that share the sequence.

    Args:
        block: a block of whole tensors, at its final rows; `tensor_parallel` and `expert_parallel` come after.
        degree: ranks of the context group.
        how: `ring`, `gather` or `ulysses`.

    Returns:
        A block of local tensors without distributions, so that it can be cut further. Fused attention carries the
        attributes `context` and `exchange`. What is replicated: parameters, and under `gather` the keys and values
        that unfused attention reads, whole on every rank and kept so.

    Raises:
        BadInput: the block is cut already, its sequence cannot be told or is not divided evenly, heads or the way do
            not fit.
    """
    if how not in EXCHANGES:
        raise BadInput(f"context parallelism {how!r} is unknown: {closest(how, EXCHANGES)}")
    if degree == 1:
        return block
    if any(t.distribution is not None for t in block.tensors):
        raise BadInput(f"block {block.name} is distributed already: cut it along the sequence first, then otherwise")
    marked = _marked(block, degree, how)
    mesh = Mesh(shape=(degree,), axes=(AXIS,))
    annotations = {t.name: whole(mesh, len(t.shape)) for t in marked.parameters}
    if how == "ulysses":
        annotations |= _by_heads(marked, mesh)
    local = partition(complete(marked, annotations | _seeds(marked, mesh)))
    _require_shared(block, local, how)
    return _settled(local)


def _marked(block: Block, degree: int, how: str) -> Block:
    """The block whose attention says how it will exchange."""
    tensors = block.by_name

    def mark(operator: Operator) -> Operator:
        if operator.kind != "attention":
            return operator
        positions, parts = tensors[operator.inputs[0]].shape[1], 2 * degree
        if operator.attribute("causal") and how != "ulysses" and positions % parts:
            raise BadInput(
                f"attention {operator.name} of {positions} positions cannot be dealt to {degree} ranks in {parts} "
                f"equal chunks ({positions} % {parts} = {positions % parts}): choose a context degree whose double "
                "divides it"
            )
        return replace(operator, attributes=tuple(sorted((*operator.attributes, ("exchange", how)))))

    return replace(block, operators=tuple(map(mark, block.operators)))


def require_heads(block: Block, ranks: int) -> None:
    """Refuses to exchange positions for heads of written-out products among so many ranks.

    Those of a tensor group that cuts heads count, too. Of fused attention its rule refuses the same.

    Raises:
        BadInput: the heads of queries, keys or values are not so many, or a multiple.
    """
    for operator, t in _products_by_heads(block):
        heads = t.shape[1]
        if heads % ranks:
            raise BadInput(
                f"block {block.name}, {operator.name}: {heads} heads cannot be exchanged among {ranks} ranks "
                f"({heads} % {ranks} = {heads % ranks}): choose how='gather', or degrees that divide {heads}"
            )


def _products_by_heads(block: Block) -> Iterator[tuple[Operator, Tensor]]:
    """The operands of products of two activations [rows, heads, ...]."""
    tensors, weights = block.by_name, {t.name for t in block.parameters}
    for operator in block.operators:
        operands = [tensors[name] for name in operator.inputs]
        if operator.kind == "matmul" and all(len(t.shape) == 4 and t.name not in weights for t in operands):
            yield from ((operator, t) for t in operands)


def _by_heads(block: Block, mesh: Mesh) -> dict[str, Distribution]:
    """Annotations that cut the products of two activations [rows, heads, ...] by their heads."""
    require_heads(block, mesh.size)
    cut = distribution(mesh, [(0, 1) if dim == 1 else (-1, 1) for dim in range(4)])
    return {t.name: cut for _, t in _products_by_heads(block)}


def _seeds(block: Block, mesh: Mesh) -> dict[str, Distribution]:
    """Annotations of what is known to run over positions; completion follows it to the rest."""
    tensors = block.by_name
    inputs = [tensors[name] for name in block.inputs]
    streams = [t for t in inputs if is_float(t.dtype) and len(t.shape) > 1]
    found = {t.name: places for t in streams or inputs if (places := _places(t, block.rows))}
    fused = [tensors[op.inputs[0]] for op in block.operators if op.kind == "attention"]
    if any(len(places) > 1 for places in found.values()) and fused:
        found = {t.name: [(1, 1)] for t in fused}
    elif ambiguous := next((name for name, places in found.items() if len(places) > 1), ""):
        raise BadInput(
            f"block {block.name}, input {ambiguous} of shape {list(tensors[ambiguous].shape)}: any of the dims "
            f"{[dim for dim, _ in found[ambiguous]]} may be the sequence; give the layer inputs of [rows, S, hidden]"
        )
    if not found:
        raise BadInput(
            f"block {block.name} has no input with a sequence: give it one of [rows, S, hidden] or [rows, S]"
        )
    lengths = {name: tensors[name].shape[places[0][0]] // places[0][1] for name, places in found.items()}
    length = next(iter(lengths.values()))
    return {name: _cut(tensors[name], found[name][0], mesh) for name, n in lengths.items() if n == length}


def _places(tensor: Tensor, rows: int) -> list[_Place]:
    """Where the positions of an input may lie: apart from rows and features, or merged with the rows."""
    growth = tensor.per_row or (0,) * len(tensor.shape)
    if not is_float(tensor.dtype):
        return [(dim, 1) for dim, n in enumerate(tensor.shape) if n > 1 and not growth[dim]][-1:]
    apart = [(dim, 1) for dim, n in enumerate(tensor.shape[:-1]) if n > 1 and not growth[dim]]
    merged = [(dim, rows) for dim, n in enumerate(tensor.shape[:-1]) if growth[dim] > 1 and n == rows * growth[dim]]
    return apart or merged


def _cut(tensor: Tensor, place: _Place, mesh: Mesh) -> Distribution:
    dim, blocks = place
    return distribution(mesh, [(0, blocks) if i == dim else (-1, 1) for i in range(len(tensor.shape))])


def _require_shared(block: Block, local: Block, how: str) -> None:
    """Refuses attention that works on the whole sequence, and gathers that the way does not know."""
    for operator in local.operators:
        if operator.kind == "attention" and operator.attribute("context") is None:
            raise BadInput(
                f"block {block.name}, attention {operator.name}: its queries and keys do not follow the sequence of "
                "the block's input, so ranks cannot share it: use context 1"
            )
        kinds = ("all_gather",) if how == "ulysses" else ("all_gather", "all_to_all")
        moved = [w for w in operator.forward if isinstance(w, Collective) and w.kind in kinds]
        if operator.attribute("forward_steps") is not None and moved and how != "gather":
            raise BadInput(
                f"block {block.name}: {operator.inputs[0]} is needed whole outside of a fused attention, which "
                f"how={how!r} cannot share: use fused attention, or how='gather'"
            )


def _settled(local: Block) -> Block:
    """The local block as one of whole tensors: no distributions, no steps, and names that another cut does not make."""
    names = {t.name: t.name.replace("~", f"~{AXIS}") for t in local.tensors}
    tensors = (
        replace(t, name=names[t.name], alias_of=names.get(t.alias_of, ""), distribution=None) for t in local.tensors
    )
    return replace(
        local,
        tensors=tuple(tensors),
        operators=tuple(_renamed(operator, names) for operator in local.operators),
        outputs=tuple(names[name] for name in local.outputs),
    )


def _renamed(operator: Operator, names: dict[str, str]) -> Operator:
    def new(old: Iterable[str]) -> tuple[str, ...]:
        return tuple(names[name] for name in old)

    return replace(
        operator,
        name=operator.name.replace("~", f"~{AXIS}"),
        inputs=new(operator.inputs),
        outputs=new(operator.outputs),
        saved=new(operator.saved),
        attributes=tuple(a for a in operator.attributes if a[0] not in ("forward_steps", "backward_steps")),
    )
