"""For each operator kind what may be cut: the table of signatures, and the signature of one operator.

A kind without a rule can be cut along its rows alone, when every operand has them first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from nebula.graph.spmd import experts, pointwise, products, shapes
from nebula.graph.spmd.signature import Operands, Signature
from nebula.graph.values import Operator, Role, Tensor

Rule = Callable[[Operands], Signature]

_TWO_INPUTS = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "remainder", "floor_divide")
_COMPARISONS = ("equal", "not_equal", "less_than", "less_equal", "greater_than", "greater_equal")
_LOGIC = ("logical_and", "logical_or", "logical_not", "bitwise_and", "isnan", "where", "elementwise_pow")
_CURVES = ("scale", "pow", "clip", "cast", "exp", "log", "log1p", "sqrt", "rsqrt", "square", "abs", "sin", "cos")
_GATES = ("gelu", "relu", "relu6", "silu", "sigmoid", "tanh", "erf", "softplus", "leaky_relu", "elu", "hardswish")
_OTHERS = ("hardsigmoid", "swish", "mish", "reciprocal", "floor", "dropout", "assign", "contiguous", "identity")

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_TWO_INPUTS + _COMPARISONS + _LOGIC + _CURVES + _GATES + _OTHERS, pointwise.pointwise),
    "swiglu": pointwise.swiglu,
    **dict.fromkeys(("softmax", "log_softmax", "cumsum", "topk", "argsort"), pointwise.along_axis),
    **dict.fromkeys(("tril", "triu"), pointwise.triangle),
    **dict.fromkeys(("layer_norm", "rms_norm"), pointwise.norm),
    **dict.fromkeys(("sum", "mean"), pointwise.reduction),
    **dict.fromkeys(("max", "min", "prod", "any", "all", "logsumexp", "argmax"), pointwise.extremum),
    **dict.fromkeys(("uniform", "gaussian", "randint", "bernoulli", "arange"), pointwise.replicated),
    "batch_norm": pointwise.batch_norm,
    "group_norm": pointwise.group_norm,
    "matmul": products.matmul,
    "einsum": products.einsum,
    "attention": products.attention,
    "rope": products.rope,
    "embedding": products.embedding,
    "cross_entropy": products.cross_entropy,
    "conv2d": products.conv2d,
    "conv1d": products.conv2d,
    **dict.fromkeys(("pool2d", "max_pool2d_with_index", "interpolate"), products.images),
    **dict.fromkeys(("reshape", "flatten", "squeeze", "unsqueeze"), shapes.reshape),
    **dict.fromkeys(("tile", "pad", "roll", "flip"), shapes.same_size),
    **dict.fromkeys(("full", "full_like", "zeros_like", "ones_like"), shapes.constant),
    **dict.fromkeys(("gather", "index_select"), shapes.gather),
    **dict.fromkeys(("take_along_axis", "put_along_axis"), shapes.at_axis),
    **dict.fromkeys(("scatter", "index_add"), shapes.scatter),
    "gather_nd": shapes.gather_nd,
    "one_hot": shapes.one_hot,
    **dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"), shapes.exchanged),
    "moe_permute": experts.permute,
    "moe_sort": pointwise.pointwise,
    "grouped_matmul": experts.grouped_matmul,
    "moe_unpermute": experts.unpermute,
    "transpose": shapes.transpose,
    "expand": shapes.expand,
    "slice": shapes.slice_,
    "split": shapes.split,
    "unbind": shapes.unbind,
    "concat": shapes.concat,
    "stack": shapes.stack,
}


def signature_of(operator: Operator, tensors: Mapping[str, Tensor]) -> Signature:
    """What may be cut in the operator, given the tensors of its block."""
    operands = [tensors[name] for name in (*operator.inputs, *operator.outputs)]
    moving = [t for t in operands if t.role is not Role.PARAMETER]
    rows_lead = all(t.per_row and t.per_row[0] > 0 and t.shape[0] == moving[0].shape[0] for t in moving)
    shapes_ = tuple(t.shape for t in operands)
    return _signature(operator.kind, operator.attributes, shapes_, len(operator.inputs), rows_lead)


@lru_cache(maxsize=16384)
def _signature(
    kind: str,
    attributes: tuple[tuple[str, object], ...],
    shapes_: tuple[tuple[int, ...], ...],
    inputs: int,
    rows_lead: bool,
) -> Signature:
    rule = RULES.get(kind, pointwise.unknown)
    operands = Operands(
        inputs=shapes_[:inputs], outputs=shapes_[inputs:], attributes=dict(attributes), rows_lead=rows_lead
    )
    signature = rule(operands)
    assert len(signature.inputs) == inputs, f"{kind}: {len(signature.inputs)} inputs spelt, {inputs} given"
    for dims, shape in zip(signature.operands, shapes_, strict=True):
        assert len(dims) == len(shape), f"{kind}: {dims} for {shape}"
    return signature
