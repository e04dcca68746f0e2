"""The kernels that a mixture of experts launches as models/experts.py computes it in PaddlePaddle, one by one.

The graph has one kernel where other stacks have one: to sort copies of tokens by expert, to weigh and add what experts
made of them. Here these are several, with those of the router's choice; most are small, and in a narrow model many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from nebula.graph.values import DTYPE_BYTES, Block, Collective, Kernel, Operator, Role, Tensor, Work

INDEX = DTYPE_BYTES["int64"]


def dispatched(block: Block) -> Block:
    """A local block with the kernels of its mixture as they are launched; itself where it has none."""
    if all(op.kind != "moe_permute" for op in block.operators):
        return block
    tensors = block.by_name
    experts = max((tensors[op.inputs[0]].shape[-1] for op in block.operators if op.kind == "topk"), default=1)
    travels = any(isinstance(w, Collective) and w.axis == "expert" for op in block.operators for w in op.forward)
    told = float(experts * INDEX) if travels else 0.0
    return replace(block, operators=tuple(_dispatched(op, tensors, told) for op in block.operators))


def _dispatched(op: Operator, tensors: Mapping[str, Tensor], told_bytes: float) -> Operator:
    """The operator; where copies travel, ranks first tell each other how many to expect, and their hosts."""
    if op.kind != "moe_permute" and not any(work.kind in _TABLE for work in (*op.forward, *op.backward)):
        return op
    forward = [piece for work in op.forward for piece in _pieces(op, work, tensors)]
    if op.kind == "moe_permute" and told_bytes:
        told = Collective(kind="all_to_all", axis="expert", bytes=told_bytes)
        forward = [told, _kernel("stack", 2 * told_bytes, 2 * told_bytes), *forward]
    backward = [piece for work in op.backward for piece in _pieces(op, work, tensors)]
    return replace(op, forward=tuple(forward), backward=tuple(backward))


def _pieces(op: Operator, work: Work, tensors: Mapping[str, Tensor]) -> Iterator[Work]:
    make = _TABLE.get(work.kind) if isinstance(work, Kernel) else None
    if make is None or not isinstance(work, Kernel):
        yield work
    else:
        yield from make(op, work, tensors)


Make = Callable[[Operator, Kernel, Mapping[str, Tensor]], Iterator[Work]]


def _choice(op: Operator, kernel: Kernel, tensors: Mapping[str, Tensor]) -> Iterator[Work]:
    """The balance is added to the scores; those of the chosen are picked and divided by their sum."""
    scores, chosen = (float(tensors[n].size) for n in (op.inputs[0], op.outputs[0]))
    columns = float(tensors[op.inputs[0]].shape[-1])
    yield _kernel("cast", INDEX * columns, 4 * columns)
    yield _kernel("scale", 4 * columns, 4 * columns)
    yield _kernel("add", 4 * (scores + columns), 4 * scores)
    yield kernel
    for _ in range(2):
        yield _kernel("expand", INDEX * chosen, INDEX * chosen)
    yield _kernel("take_along_axis", (INDEX + 4) * chosen, 4 * chosen)
    yield _kernel("sum", 4 * chosen, 4 * chosen)
    yield _kernel("divide", 8 * chosen, 4 * chosen)


def _choice_back(op: Operator, kernel: Kernel, tensors: Mapping[str, Tensor]) -> Iterator[Work]:
    scores, chosen = (float(tensors[n].size) for n in (op.inputs[0], op.outputs[0]))
    yield _kernel("divide_grad", 16 * chosen, 8 * chosen)
    yield _kernel("sum_grad", 4 * chosen, 4 * chosen)
    yield _kernel("add", 8 * chosen, 4 * chosen)
    yield _kernel("expand_grad", INDEX * chosen, INDEX * chosen)
    yield replace(kernel, kind="take_along_axis_grad", read_bytes=12 * chosen, written_bytes=4 * scores)


def _order(op: Operator, kernel: Kernel, tensors: Mapping[str, Tensor]) -> Iterator[Work]:
    """Sorting, counting, and the way back; of which token a copy is."""
    copies = float(tensors[op.inputs[1]].size)
    yield kernel
    yield _kernel("bincount", INDEX * copies, 0.0)
    yield _kernel("argsort", INDEX * copies, 2 * INDEX * copies)
    yield _kernel("full", 0.0, INDEX)
    yield _kernel("floor_divide", INDEX * copies, INDEX * copies)


def _sent(op: Operator, kernel: Kernel, tensors: Mapping[str, Tensor]) -> Iterator[Work]:
    tokens, copies = (float(tensors[n].bytes) for n in (op.inputs[0], op.outputs[0]))
    yield replace(kernel, kind="gather", read_bytes=tokens, written_bytes=copies)


def _sent_back(op: Operator, kernel: Kernel, tensors: Mapping[str, Tensor]) -> Iterator[Work]:
    """Gradients of copies, token by token, and their sum."""
    tokens, copies = (float(tensors[n].bytes) for n in (op.inputs[0], op.outputs[0]))
    yield _kernel("gather", copies, copies)
    yield replace(kernel, kind="sum", read_bytes=copies, written_bytes=tokens)


def _joined(op: Operator, kernel: Kernel, tensors: Mapping[str, Tensor]) -> Iterator[Work]:
    """What experts made, token by token, times its weight, and the sum."""
    copies, tokens = (float(tensors[n].bytes) for n in (op.inputs[0], op.outputs[0]))
    yield _kernel("gather", copies, copies)
    yield _kernel("multiply", copies, copies)
    yield replace(kernel, kind="sum", read_bytes=copies, written_bytes=tokens)


def _joined_back(op: Operator, kernel: Kernel, tensors: Mapping[str, Tensor]) -> Iterator[Work]:
    copies, tokens = (float(tensors[n].bytes) for n in (op.inputs[0], op.outputs[0]))
    yield _kernel("sum_grad", tokens, copies)
    yield replace(kernel, kind="multiply_grad", read_bytes=2 * copies, written_bytes=copies)
    yield _kernel("gather", copies, copies)


def _weights_back(op: Operator, kernel: Kernel, tensors: Mapping[str, Tensor]) -> Iterator[Work]:
    """Beside the gradient of each expert's weights one tensor of zeros, for experts that get no token."""
    yield kernel
    weight = tensors[op.inputs[1]]
    if weight.role is Role.PARAMETER and kernel.written_bytes == weight.bytes:
        yield _kernel("full", 0.0, float(weight.bytes // weight.shape[0]))


_TABLE: dict[str, Make] = {
    "topk": _choice,
    "topk_grad": _choice_back,
    "argsort": _order,
    "moe_permute": _sent,
    "moe_permute_grad": _sent_back,
    "moe_unpermute": _joined,
    "moe_unpermute_grad": _joined_back,
    "grouped_matmul_grad": _weights_back,
}


def _kernel(kind: str, read: float, written: float) -> Kernel:
    return Kernel(kind=kind, dtype="float32", flops=0.0, read_bytes=read, written_bytes=written)
