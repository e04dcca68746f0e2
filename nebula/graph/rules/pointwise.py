"""Kinds that compute each element of their output from the elements at the same place: memory-bound on any device.

FLOPs per element are counts of the arithmetic in the plain formula, an exponential or an error function counted as 4;
they matter little beside the bytes. What the gradient reads is what Paddle's grad node keeps (measured on 3.3.1).
"""

from __future__ import annotations

from collections.abc import Callable

from nebula.graph.rules.rule import Call, Names, Rule, Works, nothing
from nebula.graph.values import Tensor


def _kept(what: str) -> Callable[[Call], Names]:
    """Names of the inputs (`x`), the outputs (`out`) or both (`x out`) of a call."""

    def names(call: Call) -> Names:
        inputs = call.operator.inputs if "x" in what.split() else ()
        outputs = call.operator.outputs[:1] if "out" in what.split() else ()
        return (*inputs, *outputs)

    return names


def _tensors(call: Call, names: Names) -> tuple[Tensor, ...]:
    by_name = {t.name: t for t in (*call.inputs, *call.outputs)}
    return tuple(by_name[n] for n in names)


def pointwise(operations: float = 1.0, saved: str = "", *, keeps_view: bool = False, gradient_kind: str = "") -> Rule:
    """The rule of a pointwise kind.

    Args:
        operations: FLOPs per output element.
        saved: what the gradient needs besides the output's gradient: `x` all inputs, `out` the output.
        keeps_view: see Rule.
        gradient_kind: name of the gradient's kernel when it is not `<kind>_grad`.
    """
    names = _kept(saved)

    def forward(call: Call) -> Works:
        size = sum(t.size for t in call.outputs)
        return (call.launch(reads=call.inputs, writes=call.outputs, flops=operations * size),)

    def backward(call: Call) -> Works:
        reads = (*_tensors(call, names(call)), *call.results)
        size = sum(t.size for t in call.results)
        name = gradient_kind or f"{call.kind}_grad"
        return (call.launch(reads=reads, writes=call.wanted, flops=operations * size * len(call.wanted), kind=name),)

    return Rule(forward=forward, backward=backward, saved=names, keeps_view=keeps_view)


def _sum_backward(call: Call) -> Works:
    """The first operand of the result's shape takes over the result's gradient; the others are written."""
    free = next((t for t in call.wanted if t.shape == call.outputs[0].shape), None)
    written = tuple(t for t in call.wanted if t is not free)
    if not written:
        return ()
    return (call.launch("_grad", reads=call.results, writes=written, flops=float(call.outputs[0].size)),)


def without_gradient(operations: float = 1.0) -> Rule:
    """A pointwise kind through which no gradient passes."""
    rule = pointwise(operations)
    return Rule(forward=rule.forward, differentiable=False)


def creation() -> Rule:
    """A kind that fills its output; integer inputs that steer it are not read."""
    return Rule(forward=lambda call: (call.launch(reads=0.0, writes=call.outputs),), differentiable=False)


def _dropout_forward(call: Call) -> Works:
    outputs = call.outputs[:1] if call.flag("is_test") else call.outputs
    return (call.launch(reads=call.inputs[:1], writes=outputs, flops=2.0 * call.outputs[0].size),)


def _dropout_backward(call: Call) -> Works:
    mask = () if call.flag("is_test") else call.outputs[1:2]
    reads = (*mask, call.outputs[0])
    return (call.launch("_grad", reads=reads, writes=call.inputs[:1], flops=2.0 * call.outputs[0].size),)


def _dropout_saved(call: Call) -> Names:
    return () if call.flag("is_test") else call.operator.outputs[1:2]


def _where_saved(call: Call) -> Names:
    return call.operator.inputs[:1]


def _where_backward(call: Call) -> Works:
    return (call.launch("_grad", reads=(call.inputs[0], *call.results), writes=call.wanted),)


_ASSUMED = pointwise(1.0, "x out")

ASSUMED = Rule(forward=_ASSUMED.forward, backward=_ASSUMED.backward, saved=_ASSUMED.saved)
"""What is taken for a kind without a rule: reads and writes each tensor once, keeps all of them."""

_FROM_INPUT = {"square": 1, "abs": 1, "clip": 2, "log": 4, "log1p": 5, "sin": 4, "cos": 4, "erf": 4, "pow": 4}
_FROM_INPUT |= {"gelu": 8, "leaky_relu": 2, "softplus": 8, "hardswish": 4, "swish": 5, "mish": 12, "gelu_tanh": 12}
_FROM_OUTPUT = {"relu": 1, "relu6": 2, "sigmoid": 5, "tanh": 8, "exp": 4, "sqrt": 1, "rsqrt": 2, "reciprocal": 1}
_FROM_OUTPUT |= {"hardsigmoid": 3}
_COMPARISONS: tuple[str, ...] = ("equal", "not_equal", "less_than", "less_equal", "greater_than", "greater_equal")
_COMPARISONS += (
    "logical_and",
    "logical_or",
    "logical_xor",
    "logical_not",
    "isnan",
    "isinf",
    "isfinite",
    "floor_divide",
)
_COMPARISONS += ("bitwise_and", "bitwise_or", "bitwise_not", "argmax", "argmin", "one_hot", "share_data")
_CREATIONS: tuple[str, ...] = ("full", "full_like", "full_int_array", "zeros_like", "ones_like", "arange")
_CREATIONS += ("uniform", "gaussian", "randint", "bernoulli", "empty", "eye", "assign_value", "shape", "numel")
_KEPT_VIEWS = {"square", "abs", "silu", "log", "sin", "cos", "multiply", "divide", "maximum", "minimum"}

POINTWISE: dict[str, Rule] = {
    **{kind: pointwise(n, "x", keeps_view=kind in _KEPT_VIEWS) for kind, n in _FROM_INPUT.items()},
    **{kind: pointwise(n, "out") for kind, n in _FROM_OUTPUT.items()},
    **{kind: without_gradient() for kind in _COMPARISONS},
    **{kind: creation() for kind in _CREATIONS},
    "add": Rule(forward=pointwise(1).forward, backward=_sum_backward),
    "subtract": pointwise(1),
    "multiply": pointwise(1, "x", keeps_view=True),
    "divide": pointwise(1, "x out", keeps_view=True),
    "maximum": pointwise(1, "x", keeps_view=True),
    "minimum": pointwise(1, "x", keeps_view=True),
    "remainder": pointwise(1, "x", keeps_view=True),
    "elementwise_pow": pointwise(8, "x", keeps_view=True),
    "scale": pointwise(2, gradient_kind="scale"),
    "cast": pointwise(0, gradient_kind="cast"),
    "assign": pointwise(0, gradient_kind="assign"),
    "contiguous": Rule(forward=lambda call: (call.launch(reads=call.inputs, writes=call.outputs),), backward=nothing),
    "silu": pointwise(6, "x out", keeps_view=True),
    "elu": pointwise(5, "x out"),
    "swiglu": pointwise(7, "x"),
    "tril": pointwise(0),
    "triu": pointwise(0),
    "floor": pointwise(1),
    "roll": pointwise(0),
    "flip": pointwise(0, gradient_kind="flip"),
    "pad": pointwise(0),
    "tile": pointwise(0),
    "expand": pointwise(0),
    "repeat_interleave": pointwise(0, "x"),
    "pixel_shuffle": pointwise(0),
    "pixel_unshuffle": pointwise(0),
    "unfold": pointwise(0),
    "prelu": pointwise(2, "x"),
    "label_smooth": pointwise(2),
    "gumbel_softmax": pointwise(12, "out"),
    "cumsum": pointwise(1, "x"),
    "interpolate": pointwise(8),
    "rope": pointwise(6, "", gradient_kind="rope"),
    "dropout": Rule(forward=_dropout_forward, backward=_dropout_backward, saved=_dropout_saved),
    "where": Rule(forward=pointwise(1).forward, backward=_where_backward, saved=_where_saved),
}
