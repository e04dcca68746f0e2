"""Repeated parts of a traced program folded: one block for all equal stretches of operators.

A whole model traced in one program is cut where one chain element ends and the next begins; stretches that compute the
same on equally shaped tensors become one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nebula.graph.values import Block, Operator, Role, Tensor


def fold(blocks: Sequence[Block]) -> tuple[tuple[Block, ...], tuple[int, ...]]:
    """The distinct blocks in order of appearance, and for each given block the index of its equal."""
    distinct: list[Block] = []
    index: dict[Block, int] = {}
    layers = []
    for block in blocks:
        if block not in index:
            index[block] = len(distinct)
            distinct.append(block)
        layers.append(index[block])
    return tuple(distinct), tuple(layers)


def element_of(name: str, prefixes: Sequence[str]) -> int | None:
    """Which chain element a path lies in; None when in none.

    >>> element_of("chain.10.ffn/matmul", ["chain.1", "chain.10"])
    1
    """
    path = name.split("/")[0]
    for index, prefix in enumerate(prefixes):
        if path == prefix or path.startswith(prefix + "."):
            return index
    return None


def cut(program: Block, prefixes: Sequence[str]) -> list[Block]:
    """One block per chain element out of the block of a whole model.

    Args:
        program: the block of the whole trace; names of operators and parameters begin with the paths of sublayers.
        prefixes: path of each element, in the order in which they run. Operators outside of all of them go to the
            element that runs before them (to the first one before any has run).

    Returns:
        Blocks whose inputs are what comes in from the data or an earlier element, names shortened to within the
        element, in canonical form (see `canonical`).
    """
    places: list[int] = []
    for operator in program.operators:
        own = element_of(operator.name, prefixes)
        places.append(own if own is not None else (places[-1] if places else 0))
    return [_element(program, places, index, prefix) for index, prefix in enumerate(prefixes)]


def _element(program: Block, places: Sequence[int], index: int, prefix: str) -> Block:
    """The operators placed at `index` with the tensors that cross its borders."""
    tensors = program.by_name
    inside = [op for op, place in zip(program.operators, places, strict=True) if place == index]
    made = {n for op in inside for n in op.outputs}
    later = [op for op, place in zip(program.operators, places, strict=True) if place > index]
    earlier = {n for op, place in zip(program.operators, places, strict=True) if place < index for n in op.outputs}
    read_later = {n for op in later for n in op.inputs} | set(program.outputs)
    borders = [n for op in inside for n in op.inputs if n not in made and tensors[n].role is not Role.PARAMETER]
    inputs = list(dict.fromkeys(n for n in borders if tensors[n].role is not Role.BUFFER))
    through = [n for n in earlier if n in read_later and n not in inputs]
    outputs = [n for op in inside for n in op.outputs if n in read_later]
    outputs += [n for n in inputs if n in read_later and n in earlier]
    own = {n for op in inside for n in (*op.inputs, *op.outputs)} | {
        t.name for t in program.tensors if t.role is Role.PARAMETER and element_of(t.name, [prefix]) is not None
    }
    block = Block(
        name=program.name,
        rows=program.rows,
        tensors=tuple(t for t in program.tensors if t.name in own or t.name in through),
        operators=tuple(inside),
        inputs=(*inputs, *through),
        outputs=(*outputs, *through),
    )
    return canonical(shortened(block, prefix))


def shortened(block: Block, prefix: str) -> Block:
    """The block with the element's path taken off every name."""

    def short(name: str) -> str:
        if name == prefix:
            return name
        for lead in (prefix + ".", prefix + "/"):
            if name.startswith(lead):
                return name[len(lead) :]
        return name

    return renamed(block, {n: short(n) for n in (*block.by_name, *(op.name for op in block.operators))})


def canonical(block: Block) -> Block:
    """The block with names that say nothing of its place: inputs `x0`, `x1`, operators by path, kind and count.

    Two traces of equal layers are then equal values.
    """
    names = {name: f"x{i}" for i, name in enumerate(block.inputs)}
    counts: dict[str, int] = {}
    operators: dict[str, str] = {}
    for operator in block.operators:
        path = operator.name.rpartition("/")[0]
        base = f"{path}/{operator.kind}" if path else operator.kind
        counts[base] = counts.get(base, 0) + 1
        new = base if counts[base] == 1 else f"{base}.{counts[base]}"
        operators[operator.name] = new
        names |= {out: new if i == 0 else f"{new}:{i}" for i, out in enumerate(operator.outputs)}
    inputs = set(block.inputs)
    tensors = [replace(t, role=Role.INPUT) if t.name in inputs else t for t in block.tensors]
    order = {Role.INPUT: 0, Role.PARAMETER: 1, Role.BUFFER: 2, Role.ACTIVATION: 3}
    made = {name: i for i, name in enumerate(n for op in block.operators for n in op.outputs)}
    place = {name: i for i, name in enumerate(block.inputs)} | made

    def key(tensor: Tensor) -> tuple[int, int, str]:
        ranked = tensor.role in (Role.INPUT, Role.ACTIVATION)
        return order[tensor.role], place.get(tensor.name, 0) if ranked else 0, tensor.name if not ranked else ""

    return renamed(replace(block, tensors=tuple(sorted(tensors, key=key))), names | operators)


def renamed(block: Block, names: dict[str, str]) -> Block:
    """The block with tensors and operators renamed; names that are not given stay."""

    def new(name: str) -> str:
        return names.get(name, name)

    def operator(old: Operator) -> Operator:
        inputs, outputs = tuple(map(new, old.inputs)), tuple(map(new, old.outputs))
        return replace(old, name=new(old.name), inputs=inputs, outputs=outputs, saved=tuple(map(new, old.saved)))

    return replace(
        block,
        tensors=tuple(replace(t, name=new(t.name), alias_of=new(t.alias_of)) for t in block.tensors),
        operators=tuple(operator(o) for o in block.operators),
        inputs=tuple(map(new, block.inputs)),
        outputs=tuple(map(new, block.outputs)),
    )
