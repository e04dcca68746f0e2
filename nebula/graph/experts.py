"""Expert parallelism: the block of one rank whose experts are cut over the axis `expert`.

Each rank keeps its tokens and holds its share of the experts; tokens travel to their experts and back in two
all-to-alls (GShard, arXiv 2006.16668, section 3.2). What is not an expert stays whole.
"""

from __future__ import annotations

from dataclasses import replace

from nebula.errors import BadInput
from nebula.graph.rules import apply
from nebula.graph.values import Block, Collective, Operator, Role, Tensor


def expert_parallel(block: Block, degree: int) -> Block:
    """The block of one of `degree` ranks that share the experts.

    Rows are balanced, so that a rank's grouped products see as many rows as before, of fewer experts.

    Raises:
        BadInput: the degree does not divide the experts.
    """
    weights = {op.inputs[1] for op in block.operators if op.kind == "grouped_matmul"}
    if degree == 1 or not weights:
        return block
    tensors = {t.name: _share(t, degree) if t.name in weights else t for t in block.tensors}
    operators: list[Operator] = []
    for operator in block.operators:
        if operator.kind == "moe_unpermute":
            operators.append(_exchange(operator.inputs[0], tensors))
            operator = replace(operator, inputs=(operators[-1].outputs[0], *operator.inputs[1:]))
        operators.append(operator)
        if operator.kind == "moe_permute":
            operators.append(_exchange(operator.outputs[0], tensors))
    gathered = {op.outputs[0] for op in operators if op.kind == "all_to_all"}
    moved = {op.inputs[0]: op.outputs[0] for op in operators if op.kind == "all_to_all"}
    operators = [_reading(op, moved) if op.outputs[0] not in gathered else op for op in operators]
    return apply(replace(block, tensors=tuple(tensors.values()), operators=tuple(operators)))


def _share(weight: Tensor, degree: int) -> Tensor:
    experts, *rest = weight.shape
    if experts % degree:
        raise BadInput(
            f"expert {degree}: {experts} experts % {degree} = {experts % degree}; choose a degree that divides them"
        )
    return replace(weight, shape=(experts // degree, *rest))


def _exchange(name: str, tensors: dict[str, Tensor]) -> Operator:
    """The operator that sends rows to where their experts are, or back; the backward does the opposite."""
    there = replace(tensors[name], name=f"{name}~sent", role=Role.ACTIVATION, alias_of="")
    tensors[there.name] = there
    sent = (Collective(kind="all_to_all", axis="expert", bytes=float(there.bytes)),)
    return Operator(
        name=f"{there.name}/all_to_all",
        kind="all_to_all",
        inputs=(name,),
        outputs=(there.name,),
        forward=sent,
        backward=sent,
    )


def _reading(operator: Operator, moved: dict[str, str]) -> Operator:
    """The operator with the rows that arrived in place of those that were sent."""
    return replace(operator, inputs=tuple(moved.get(n, n) for n in operator.inputs))
