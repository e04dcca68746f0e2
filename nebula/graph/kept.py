"""What lies in memory between forward and backward: of one block, of two neighbours, and of a run of layers.

A tensor that one layer returns and keeps, and that the next keeps as its input, is one memory: a stage holds it once.
All answers take the operators that recomputation runs again, whose own saved tensors then do not lie there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise

from nebula.graph.values import Block, DistributedGraph, Operator, Role, Tensor

Again = Callable[[Block], Sequence[Operator]]
"""For a block the operators whose forward runs again in the backward."""


def nothing_again(_block: Block) -> Sequence[Operator]:
    """No recomputation."""
    return ()


def again_of(operators: Sequence[Operator]) -> Again:
    """Those operators, of the one block that they are of."""
    return lambda _: operators


def kept_bytes(graph: DistributedGraph, first: int, last: int, again: Again = nothing_again) -> int:
    """Bytes that layers first..last-1 keep for one micro-batch, each memory once; what comes in counts when kept."""
    layers = graph.layers[first:last]
    alone = sum(n * block_bytes(graph.blocks[i], again) for i, n in Counter(layers).items())
    return alone - sum(shared_before(graph.blocks, layers, again))


def shared_before(
    blocks: Sequence[Block], layers: Sequence[int], again: Again = nothing_again, until: int = 0
) -> tuple[int, ...]:
    """For each layer of a chain the bytes that it and the layer before both keep, and that lie there once.

    With `kept[i]` the `block_bytes` of layer i, the layers first..last-1 together keep
    `sum(kept[first:last]) - sum(shared[first + 1:last])`, so prefix sums of both answer any run in O(1).

    Args:
        blocks: distinct blocks, whole or as one rank of a tensor group computes them.
        layers: for each layer the index of its block; each distinct pair of neighbours is worked out once.
        again: what recomputation runs again.
        until: layers from that one on run nothing again; 0: all run what `again` says.

    Returns:
        One number a layer, 0 for the first.
    """
    kept = {0: [_kept(block, again) for block in blocks]}
    if until:
        kept[1] = [_kept(block, nothing_again) for block in blocks]
    held = [(index, int(0 < until <= place)) for place, index in enumerate(layers)]
    pairs = {
        ((i, a), (j, b)): _shared_bytes(blocks[i], blocks[j], kept[a][i], kept[b][j])
        for (i, a), (j, b) in set(pairwise(held))
    }
    return (0, *(pairs[pair] for pair in pairwise(held)))[: len(layers)]


def shared_bytes(before: Block, after: Block, again: Again = nothing_again) -> int:
    """Bytes that `before` keeps of its outputs and `after`, the next layer, keeps of its inputs.

    A memory that three layers hand on is right when the middle one keeps it too; if not, it counts twice.
    """
    return _shared_bytes(before, after, _kept(before, again), _kept(after, again))


def _shared_bytes(before: Block, after: Block, mine: Collection[str], others: Collection[str]) -> int:
    tensors = before.by_name
    passed = ((_owner(tensors, out), into) for out, into in zip(before.outputs, after.inputs, strict=False))
    return sum(tensors[name].bytes for name in {name for name, into in passed if name in mine and into in others})


def block_bytes(block: Block, again: Again = nothing_again) -> int:
    """Bytes that one layer keeps for one micro-batch, its inputs among them where it keeps them."""
    tensors = block.by_name
    return sum(tensors[name].bytes for name in _kept(block, again))


def _kept(block: Block, again: Again) -> frozenset[str]:
    """Names of the memories that lie there: what others save, and what recomputation reads from outside itself."""
    repeated = again(block)
    inside = {op.name for op in repeated}
    made_inside = {name for op in repeated for name in op.outputs}
    names = {n for op in block.operators if op.name not in inside for n in op.saved}
    names |= {n for op in repeated for n in op.inputs if n not in made_inside}
    tensors = block.by_name
    owners = {_owner(tensors, name) for name in names}
    return frozenset(name for name in owners if tensors[name].role in (Role.INPUT, Role.ACTIVATION))


def _owner(tensors: Mapping[str, Tensor], name: str) -> str:
    while tensors[name].alias_of:
        name = tensors[name].alias_of
    return name
