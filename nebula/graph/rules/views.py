"""Kinds that move elements without arithmetic: views of the same memory, and copies that join or cut tensors.

In Paddle's dygraph (3.3.1, strided kernels) reshape, transpose, slice, unbind, squeeze and unsqueeze make views; split,
expand, concat and stack copy. The backward of a view is a view of the gradient, which the next kernel has to make
contiguous when its elements are out of order.
"""

from __future__ import annotations

from nebula.graph.rules.rule import Call, Rule, Works, nothing


def _copy(call: Call) -> Works:
    return (call.launch(reads=call.inputs, writes=call.outputs),)


def _copy_back(kind: str) -> Rule:
    """A copy whose gradient kernel is called `kind` and copies the same bytes back."""

    def backward(call: Call) -> Works:
        return (call.launch(reads=call.results, writes=call.wanted, kind=kind),)

    return Rule(forward=_copy, backward=backward)


def _reorder(call: Call) -> Works:
    """The gradient arrives transposed; it is copied in order before the kernel behind reads it."""
    return (call.launch(reads=call.outputs, writes=call.inputs[:1], kind="contiguous"),)


def _fill_and_copy(call: Call) -> Works:
    """Zeros for the whole input, then the gradient copied to its place."""
    x, out = call.inputs[0], call.outputs[0]
    return (call.launch("_grad", reads=(out,), writes=x.bytes + out.bytes),)


def _stack_back(call: Call) -> Works:
    return (call.launch(reads=call.results, writes=call.wanted, kind="stack"),)


VIEWS: dict[str, Rule] = {
    **{
        kind: Rule(forward=nothing, backward=nothing, view=True)
        for kind in ("reshape", "squeeze", "unsqueeze", "detach", "identity_view")
    },
    "transpose": Rule(forward=nothing, backward=_reorder, view=True),
    "slice": Rule(forward=nothing, backward=_fill_and_copy, view=True),
    "strided_slice": Rule(forward=nothing, backward=_fill_and_copy, view=True),
    "unbind": Rule(forward=nothing, backward=_stack_back, view=True),
    "split": _copy_back("concat"),
    "unstack": _copy_back("stack"),
    "concat": _copy_back("concat_grad"),
    "stack": _copy_back("stack_grad"),
}
