"""What lies in memory between forward and backward when layers stand one behind the other.

A tensor that one layer returns and keeps, and that the next keeps as its input, is one memory: a stage holds it once.
"""

from __future__ import annotations

from itertools import pairwise

from nebula.graph.values import Block, DistributedGraph, Role


def kept_bytes(graph: DistributedGraph, first: int, last: int) -> int:
    """Bytes that layers first..last-1 keep for one micro-batch, each memory once; what comes in counts when kept."""
    blocks = [graph.block_of(layer) for layer in range(first, last)]
    borders = sum(shared_bytes(before, after) for before, after in pairwise(blocks))
    return sum(block.saved_bytes for block in blocks) - borders


def shared_bytes(before: Block, after: Block) -> int:
    """Bytes that `before` keeps of its outputs and `after`, the next layer, keeps of its inputs."""
    mine, others = _kept(before), _kept(after)
    passed = zip(before.outputs, after.inputs, strict=False)
    shared = {_owner(before, out) for out, into in passed if _owner(before, out) in mine and into in others}
    tensors = before.by_name
    return sum(tensors[name].bytes for name in shared)


def _kept(block: Block) -> set[str]:
    """Names of the memories that a block keeps."""
    tensors = block.by_name
    owners = {_owner(block, name) for op in block.operators for name in op.saved}
    return {name for name in owners if tensors[name].role in (Role.INPUT, Role.ACTIVATION)}


def _owner(block: Block, name: str) -> str:
    tensors = block.by_name
    while tensors[name].alias_of:
        name = tensors[name].alias_of
    return name
