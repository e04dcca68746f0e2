"""Signatures of a mixture of experts: tokens can be cut, each rank sorting its own, and the widths of the products.

The copies of the tokens are (tokens, copies of each). Which rank holds which expert is no cut of a dim alone, since
rows travel with it: that is nebula.graph.experts.
"""

from __future__ import annotations

from nebula.graph.spmd.signature import Labels, Operands, Signature


def permute(op: Operands) -> Signature:
    """x [tokens, h], experts [tokens, k] -> rows [tokens k, h], places [tokens k]."""
    labels = Labels()
    tokens, hidden = ((labels.new(n),) for n in op.inputs[0])
    copies = (labels.new(op.outputs[0][0] // op.inputs[0][0]),)
    rows = tokens + copies
    return Signature(
        inputs=((tokens, hidden), (tokens, ())),
        outputs=((rows, hidden), (rows,)),
        sizes=labels.sizes,
        whole=frozenset(copies),
        lacking=frozenset(hidden),
    )


def grouped_matmul(op: Operands) -> Signature:
    """x [rows, in], weight [experts, in, out] -> [rows, out]."""
    labels = Labels()
    rows, inner = ((labels.new(n),) for n in op.inputs[0])
    columns = (labels.new(op.outputs[0][1]),)
    return Signature(
        inputs=((rows, inner), ((), inner, columns)),
        outputs=((rows, columns),),
        sizes=labels.sizes,
        sums=frozenset(inner),
    )


def unpermute(op: Operands) -> Signature:
    """x [tokens k, h], places [tokens k], weights [tokens, k] -> [tokens, h]."""
    labels = Labels()
    tokens, hidden = ((labels.new(n),) for n in op.outputs[0])
    copies = (labels.new(op.inputs[0][0] // op.outputs[0][0]),)
    rows = tokens + copies
    return Signature(
        inputs=((rows, hidden), (rows,), (tokens, ())),
        outputs=((tokens, hidden),),
        sizes=labels.sizes,
        whole=frozenset(copies),
    )
