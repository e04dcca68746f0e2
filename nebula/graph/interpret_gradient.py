"""The backward of a block in numpy: proves that the transposed collectives of a partition give the right gradients.

Derivatives of operators are exact for products and for moves of elements, central differences for all other kinds, so
nothing here repeats a rule that the partition is built on. Only simulated ranks, and blocks of a few thousand elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from nebula.graph.interpret import State, calls_of, compute
from nebula.graph.interpret_call import Call
from nebula.graph.interpret_operators import OPERATORS
from nebula.graph.interpret_ranks import Array, SimulatedRanks
from nebula.graph.interpret_steps import take
from nebula.graph.reshard import Step
from nebula.graph.values import Block, Operator

_STEP = 1e-5
_PLACEWISE = frozenset(
    ("add", "subtract", "multiply", "divide", "scale", "gelu", "relu", "silu", "tanh", "sigmoid", "exp", "swiglu")
)
_MOVES = frozenset(
    ("reshape", "flatten", "squeeze", "unsqueeze", "transpose", "expand", "slice", "split", "unbind", "concat", "stack")
)


def gradients(block: Block, state: State, seeds: State, ranks: SimulatedRanks) -> State:
    """The gradient of every tensor that needs one, by rank.

    Args:
        block: a block that one rank of the mesh runs (or a whole block, on a mesh of one).
        state: all its tensors, as the forward left them.
        seeds: gradients of its outputs: cut as the outputs, whole where they are partial.
        ranks: all ranks of the mesh.
    """
    tensors = block.by_name
    found: State = {name: dict(arrays) for name, arrays in seeds.items()}
    for operator in reversed(block.operators):
        if not any(name in found for name in operator.outputs):
            continue
        for i, name in enumerate(operator.inputs):
            if tensors[name].needs_gradient:
                here = _back(block, operator, i, state, found, ranks)
                earlier = found.get(name)
                found[name] = here if earlier is None else {r: earlier[r] + here[r] for r in here}
    return found


def _back(
    block: Block, operator: Operator, i: int, state: State, found: State, ranks: SimulatedRanks
) -> dict[int, Array]:
    """The gradient of one input of the operator on each rank."""
    steps = operator.attribute("backward_steps")
    if steps is not None:
        assert isinstance(steps, tuple)
        assert all(isinstance(s, Step) for s in steps)
        return dict(take(found[operator.outputs[0]], steps, ranks))
    calls = calls_of(block, operator, state, ranks)
    upstream = {rank: tuple(found.get(name, {}).get(rank) for name in operator.outputs) for rank in ranks.here}
    rule = _rule(operator, calls[ranks.here[0]])
    if rule is not None:
        return {rank: rule(operator, calls[rank], i, upstream[rank]) for rank in ranks.here}
    return {rank: _by_differences(operator, calls, i, rank, upstream[rank], ranks) for rank in ranks.here}


_Upstream = tuple[Array | None, ...]
_Rule = Callable[[Operator, Call, int, _Upstream], Array]


def _rule(operator: Operator, call: Call) -> _Rule | None:
    """How the kind is differentiated exactly, or None for differences."""
    vectors = operator.kind == "matmul" and min(a.ndim for a in call.inputs) < 2
    if vectors or (operator.kind == "swiglu" and len(call.inputs) == 1):
        return None
    if operator.kind in _PLACEWISE:
        return _placewise
    if operator.kind in _MOVES:
        return _moved
    return {"matmul": _matmul, "einsum": _einsum}.get(operator.kind)


def _with_input(call: Call, i: int, value: Array) -> Call:
    return replace(call, inputs=(*call.inputs[:i], value, *call.inputs[i + 1 :]))


def _summed_to(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sums over the dims along which an operand of that shape was broadcast."""
    lead = gradient.ndim - len(shape)
    gradient = gradient.sum(axis=tuple(range(lead)))
    repeated = tuple(d for d, n in enumerate(shape) if n == 1 and gradient.shape[d] > 1)
    return gradient.sum(axis=repeated, keepdims=True) if repeated else gradient


def _placewise(operator: Operator, call: Call, i: int, upstream: _Upstream) -> Array:
    function, x = OPERATORS[operator.kind], call.inputs[i]
    above = function(_with_input(call, i, x + _STEP))[0]
    below = function(_with_input(call, i, x - _STEP))[0]
    assert upstream[0] is not None
    return _summed_to(upstream[0] * (above - below) / (2 * _STEP), x.shape)


def _moved(operator: Operator, call: Call, i: int, upstream: _Upstream) -> Array:
    """Numbers the input's elements, moves the numbers, and brings each gradient back to the number under it."""
    x = call.inputs[i]
    blank = tuple(np.full(a.shape, -1, np.int64) for a in call.inputs)
    numbered = _with_input(replace(call, inputs=blank), i, np.arange(x.size).reshape(x.shape))
    out = np.zeros(x.size)
    for numbers, gradient in zip(OPERATORS[operator.kind](numbered), upstream, strict=True):
        if gradient is not None:
            np.add.at(out, numbers[numbers >= 0], gradient[numbers >= 0])
    return out.reshape(x.shape)


def _matmul(_operator: Operator, call: Call, i: int, upstream: _Upstream) -> Array:
    """With X and Y the factors as multiplied: dX = dZ Y^T, dY = X^T dZ."""
    x, y = call.inputs
    turned = (call.flag("transpose_x"), call.flag("transpose_y"))
    left, right = (np.swapaxes(a, -1, -2) if t else a for a, t in zip((x, y), turned, strict=True))
    above = upstream[0]
    assert above is not None
    here = above @ np.swapaxes(right, -1, -2) if i == 0 else np.swapaxes(left, -1, -2) @ above
    return _summed_to(np.swapaxes(here, -1, -2) if turned[i] else here, call.inputs[i].shape)


def _einsum(_operator: Operator, call: Call, i: int, upstream: _Upstream) -> Array:
    """The product of the gradient with the other factors; letters that only this factor holds are not summed away."""
    terms, result = str(call.attributes["equation"]).replace(" ", "").split("->")
    letters = terms.split(",")
    above = upstream[0]
    assert above is not None
    others = [j for j in range(len(letters)) if j != i]
    equation = ",".join([result, *(letters[j] for j in others)]) + "->" + letters[i]
    return np.asarray(np.einsum(equation, above, *(call.inputs[j] for j in others)))


def _by_differences(
    operator: Operator, calls: Mapping[int, Call], i: int, rank: int, upstream: _Upstream, ranks: SimulatedRanks
) -> Array:
    """Moves one element of one rank's input at a time; what this rank sees of the outputs counts."""
    x = calls[rank].inputs[i]
    exchanges = operator.kind == "cross_entropy" and operator.attribute("located_axis") is not None
    others = calls if exchanges else {}
    out = np.zeros(x.size)
    for element in range(x.size):
        for sign in (1.0, -1.0):
            moved = x.astype(np.float64).ravel()
            moved[element] += sign * _STEP
            call = _with_input(calls[rank], i, moved.reshape(x.shape))
            outputs = compute(operator, {**others, rank: call}, ranks)[rank]
            for value, gradient in zip(outputs, upstream, strict=True):
                if gradient is not None:
                    out[element] += sign * float((value * gradient).sum()) / (2 * _STEP)
    return out.reshape(x.shape)
