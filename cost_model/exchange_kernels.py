"""What the executor's layers do around the collectives of a tensor or context group that share a sequence.

Each product with a weight exchanges for itself: of projections that read one tensor (queries, keys and values; gate and
up) each gathers it anew and sums its own gradient. What is gathered lies rank by rank and is copied in order, what is
scattered or exchanged is first copied into the parts of the ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from nebula.graph.values import Block, Collective, Kernel, Operator, Role, Tensor, Work

IDENTITY = "identity"
"""Kind of what passes a whole tensor on, whose gradients a tensor group sums."""


def exchanging(block: Block) -> Block:
    """A local block with what its layers exchange one by one, and with the copies around it."""
    tensors = block.by_name
    times = _times(block, tensors)
    gathers = {name for op in block.operators for name in op.outputs[:1] if name in times and _grows(op, tensors)}
    return replace(block, operators=tuple(_written(op, tensors, times, gathers) for op in block.operators))


def copies_bytes(block: Block, saving: Iterable[Operator]) -> int:
    """Bytes of the copies of one input that products cut by their outputs keep for themselves, beside the first.

    Paddle's layers of a tensor group that holds whole sequences copy what they get, so that each of queries, keys and
    values keeps its own; who else keeps it, such as a router, has another.

    Args:
        saving: operators that keep what they save.
    """
    tensors, saved = block.by_name, [name for op in saving for name in op.saved]
    found = 0
    for op in block.operators:
        if op.kind == IDENTITY:
            copies, whole = saved.count(op.outputs[0]), op.inputs[0] in saved
            found += max(0, copies - (not whole)) * tensors[op.outputs[0]].bytes
    return found


def _times(block: Block, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """By what a tensor group's exchange makes, how many products with a weight read it; where all readers are such."""
    readers: dict[str, list[Operator]] = {}
    for op in block.operators:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    found = {}
    for op in block.operators:
        if any(isinstance(w, Collective) and w.axis == "tensor" for w in (*op.forward, *op.backward)):
            reading = readers.get(op.outputs[0], ())
            if len(reading) > 1 and all(_is_weighted(reader, tensors) for reader in reading):
                found[op.outputs[0]] = len(reading)
    return found


def _is_weighted(op: Operator, tensors: Mapping[str, Tensor]) -> bool:
    return op.kind == "matmul" and tensors[op.inputs[1]].role is Role.PARAMETER


def _grows(op: Operator, tensors: Mapping[str, Tensor]) -> bool:
    return tensors[op.outputs[0]].bytes > tensors[op.inputs[0]].bytes


def _written(op: Operator, tensors: Mapping[str, Tensor], times: Mapping[str, int], gathers: set[str]) -> Operator:
    """One operator; gradients of what is gathered are added once they are shares, by the exchange."""
    forward, backward = op.forward, op.backward
    made = op.outputs[0] if op.outputs else ""
    moves = any(isinstance(work, Collective) for work in (*forward, *backward))
    if not moves and made not in times and gathers.isdisjoint(op.inputs):
        return op
    for name in gathers.intersection(op.inputs):
        backward = tuple(w for w in backward if not _adds(w, tensors[name].bytes))
    if made in times:
        forward, backward = forward * times[made], backward * times[made]
        if made in gathers and backward:
            backward += (_added(float(tensors[op.inputs[0]].bytes)),) * (times[made] - 1)
    apart = bool(op.inputs) and tensors[op.inputs[0]].shape[:1] != (1,)
    forward, backward = (tuple(_copied(works, apart=apart)) for works in (forward, backward))
    return op if (forward, backward) == (op.forward, op.backward) else op.working(forward, backward)


def _adds(work: Work, size_bytes: int) -> bool:
    return isinstance(work, Kernel) and work.kind == "add" and work.written_bytes == size_bytes


def _copied(works: Iterable[Work], *, apart: bool) -> Iterator[Work]:
    """Works with the copies of a sequence around its collectives; parts of a single row lie in order as they come."""
    for work in works:
        moves = isinstance(work, Collective) and work.axis in ("tensor", "context")
        if moves and work.kind in ("reduce_scatter", "all_to_all"):
            yield _copy(work)
        yield work
        if moves and (work.kind == "all_to_all" or (work.kind == "all_gather" and apart)):
            yield _copy(work)


def _copy(work: Work) -> Kernel:
    """Of the larger buffer of a collective."""
    size = work.bytes if isinstance(work, Collective) else 0.0
    return Kernel(kind="contiguous", dtype="float32", flops=0.0, read_bytes=size, written_bytes=size)


def _added(size: float) -> Kernel:
    return Kernel(kind="add", dtype="float32", flops=0.0, read_bytes=2 * size, written_bytes=size)
