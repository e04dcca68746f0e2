"""The block that one rank runs under context, tensor and expert parallelism together.

The order is fixed: the sequence is cut first, then what a tensor group cuts, then the experts are dealt. Ranks of the
expert axes are those of the tensor, context and data axes, folded anew (MoE Parallel Folding, arXiv 2504.14960): which
ones, and whether the degrees multiply out, is asked where ranks are known.
"""

from __future__ import annotations

from collections.abc import Iterator

from nebula.errors import BadInput
from nebula.graph.completion import complete
from nebula.graph.context import context_parallel
from nebula.graph.distribution import Distribution, Mesh, distribution, whole
from nebula.graph.experts import expert_parallel, expert_parameters
from nebula.graph.partition import partition
from nebula.graph.spmd.splits import annotate, streams_of
from nebula.graph.values import Block


def local_block(
    block: Block,
    *,
    tensor: int = 1,
    splits: tuple[tuple[str, str], ...] = (),
    sequence: bool = False,
    context: int = 1,
    how: str = "ring",
    expert: int = 1,
    expert_tensor: int = 1,
) -> Block:
    """The block of one rank.

    Args:
        block: a block of whole tensors, at its final rows.
        tensor: ranks of the tensor group.
        splits: how it cuts what is no expert (see `nebula.graph.splits`).
        sequence: whether what lies between the cut products is cut along the sequence; each tensor rank then sends
            its own share of the tokens to the experts.
        context: ranks that share the sequence.
        how: by which way they exchange keys and values: `ring`, `gather` or `ulysses`.
        expert: ranks over which experts are dealt.
        expert_tensor: ranks over which the width of each expert is cut; without `sequence` a tensor group holds the
            same tokens, so that it must be the group itself, or 1.

    Returns:
        The local block, itself for degrees of 1. Its collectives run along the axes `context`, `tensor`, `expert` and
        `expert_tensor`. In `gradient_sums` stand all parameters whose gradients are addends along `context` or
        `tensor`, but those of experts that are dealt or cut (see `expert_parameters`).

    Raises:
        BadInput: a degree does not divide what it must cut.
    """
    part = context_parallel(block, context, how)
    local = undealt_block(part, tensor=tensor, splits=splits, sequence=sequence, expert_tensor=expert_tensor)
    return dealt_block(local, tensor=tensor, sequence=sequence, expert=expert, expert_tensor=expert_tensor)


def undealt_block(
    block: Block,
    *,
    tensor: int,
    splits: tuple[tuple[str, str], ...],
    sequence: bool,
    expert_tensor: int = 1,
    deals_tokens: bool = True,
) -> Block:
    """The block of one rank that still holds all experts whole; `dealt_block` deals them.

    Args:
        block: cut along the sequence already, where it is (`context_parallel`); the others as of local_block.
        deals_tokens: whether ranks with the same tokens send each a part of them to whole experts; otherwise all of
            them compute all.

    Raises:
        BadInput: a degree does not divide what it must cut.
    """
    local = block
    experts = expert_parameters(local)
    alike = tensor > 1 and not sequence
    if experts and alike and expert_tensor not in (1, tensor):
        raise BadInput(
            f"expert_tensor {expert_tensor} in a tensor group of {tensor} ranks that hold the same tokens: "
            f"give 1 or {tensor}, or use sequence parallelism"
        )
    if tensor > 1:
        annotations = annotate(local, tensor, splits, sequence=sequence)
        mesh = Mesh(shape=(tensor,), axes=("tensor",))
        annotations |= {name: whole(mesh, len(local.tensor(name).shape)) for name in experts}
        if alike and expert_tensor == 1 and deals_tokens:
            annotations |= dict(_dealt_tokens(local, mesh))
        local = partition(complete(local, annotations, later=streams_of(local)))
    return local


def dealt_block(block: Block, *, tensor: int, sequence: bool, expert: int, expert_tensor: int = 1) -> Block:
    """An undealt block with its experts dealt; it is cut for that tensor degree already."""
    alike = tensor > 1 and not sequence
    return expert_parallel(block, expert, expert_tensor=expert_tensor, same_tokens=alike and expert_tensor > 1)


def _dealt_tokens(block: Block, mesh: Mesh) -> Iterator[tuple[str, Distribution]]:
    """Annotations by which ranks with the same tokens send each a part of them to whole experts and gather the results.

    No token is sent twice (DeepSpeed-TED, arXiv 2303.06318, section 5.1).
    """
    tensors = block.by_name
    for operator in block.operators:
        if operator.kind == "moe_permute":
            yield operator.inputs[0], whole(mesh, len(tensors[operator.inputs[0]].shape))
            for name in operator.outputs:
                rest = len(tensors[name].shape) - 1
                yield name, distribution(mesh, [(0, 1), *[(-1, 1)] * rest])
        if operator.kind == "moe_unpermute":
            yield operator.outputs[0], whole(mesh, len(tensors[operator.outputs[0]].shape))
