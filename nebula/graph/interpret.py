"""Runs a block in numpy, whole on one rank or partitioned on the ranks of a mesh in lockstep.

It proves that a partition computes what the whole block does. It is slow, computes in double precision whatever the
graph says, and refuses kinds that the operator table leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nebula.errors import BadInput
from nebula.graph.distribution import Mesh
from nebula.graph.interpret_call import Call, numpy_dtype
from nebula.graph.interpret_operators import OPERATORS
from nebula.graph.interpret_ranks import Array, Ranks, SimulatedRanks, Values
from nebula.graph.interpret_steps import assemble, shard, take
from nebula.graph.reshard import Step
from nebula.graph.values import Block, Operator

State = dict[str, dict[int, Array]]
"""For each tensor the array of each rank that runs here."""


def run(block: Block, values: Mapping[str, Array]) -> dict[str, Array]:
    """Every tensor of a whole block.

    Args:
        block: a block of whole tensors.
        values: its inputs, parameters and buffers by name.

    Raises:
        BadInput: an operator's kind has no interpretation.
    """
    alone = SimulatedRanks(Mesh(shape=(1,), axes=("alone",)))
    state: State = {name: {0: np.asarray(value)} for name, value in values.items()}
    for operator in block.operators:
        step(block, operator, state, alone)
    return {name: arrays[0] for name, arrays in state.items()}


def run_partitioned(block: Block, values: Mapping[str, Array], ranks: Ranks) -> State:
    """Every tensor of a partitioned block, by rank.

    Args:
        block: what `partition` returned.
        values: the whole inputs, parameters and buffers by name; each rank takes its shards.
        ranks: the ranks of the block's mesh.
    """
    state = scatter(block, values, ranks)
    for operator in block.operators:
        step(block, operator, state, ranks)
    return state


def scatter(block: Block, values: Mapping[str, Array], ranks: Ranks) -> State:
    """The shards of whole values that the ranks here hold."""
    state: State = {}
    for name, value in values.items():
        lies = block.tensor(name).distribution
        assert lies is not None
        state[name] = {rank: shard(np.asarray(value), lies, rank) for rank in ranks.here}
    return state


def gather(block: Block, name: str, shards: Values) -> Array:
    """The whole value of a tensor of a partitioned block, from the shards of all ranks."""
    tensor = block.tensor(name)
    lies = tensor.distribution
    assert lies is not None
    shape = tuple(n * lies.degree(dim) for dim, n in enumerate(tensor.shape))
    return assemble(shards, lies, shape)


def step(block: Block, operator: Operator, state: State, ranks: Ranks) -> None:
    """Runs one operator on all ranks here; its outputs join the state."""
    steps = operator.attribute("forward_steps")
    if steps is not None:
        assert isinstance(steps, tuple)
        assert all(isinstance(s, Step) for s in steps)
        state[operator.outputs[0]] = dict(take(state[operator.inputs[0]], steps, ranks))
        return
    calls = calls_of(block, operator, state, ranks)
    outputs = compute(operator, calls, ranks)
    for i, name in enumerate(operator.outputs):
        state[name] = {rank: arrays[i] for rank, arrays in outputs.items()}
        for array in state[name].values():
            assert array.shape == block.tensor(name).shape, f"{name}: {array.shape}, {block.tensor(name).shape} said"


def calls_of(block: Block, operator: Operator, state: State, ranks: Ranks) -> dict[int, Call]:
    """What each rank here calls the operator with."""
    tensors = block.by_name
    located = operator.attribute("located_axis")
    axis = ranks.mesh.axis(located) if isinstance(located, str) else None
    outputs = [tensors[name] for name in operator.outputs]
    return {
        rank: Call(
            inputs=tuple(state[name][rank] for name in operator.inputs),
            shapes=tuple(t.shape for t in outputs),
            dtypes=tuple(t.dtype for t in outputs),
            attributes=dict(operator.attributes),
            place=0 if axis is None else ranks.mesh.coordinate(rank, axis),
        )
        for rank in ranks.here
    }


def compute(operator: Operator, calls: Mapping[int, Call], ranks: Ranks) -> dict[int, tuple[Array, ...]]:
    """The operator's outputs on each rank."""
    if operator.kind == "cross_entropy" and operator.attribute("located_axis") is not None:
        return _cross_entropy_over_cut_classes(operator, calls, ranks)
    function = OPERATORS.get(operator.kind)
    if function is None:
        raise BadInput(f"operator {operator.name}: kind '{operator.kind}' has no interpretation in numpy")
    return {rank: _as_said(function(call), call) for rank, call in calls.items()}


def _as_said(outputs: tuple[Array, ...], call: Call) -> tuple[Array, ...]:
    """Integers where the block says integers, doubles where it says floats."""
    return tuple(a.astype(numpy_dtype(t), copy=False) for a, t in zip(outputs, call.dtypes, strict=True))


def _cross_entropy_over_cut_classes(
    operator: Operator, calls: Mapping[int, Call], ranks: Ranks
) -> dict[int, tuple[Array, ...]]:
    """Each rank holds part of the classes: maximum, sum of exponentials and the target's logit are exchanged."""
    located = operator.attribute("located_axis")
    assert isinstance(located, str)
    axis = ranks.mesh.axis(located)
    largest = ranks.all_reduce({r: c.inputs[0].max(axis=-1, keepdims=True) for r, c in calls.items()}, axis, "max")
    powers = {r: np.exp(c.inputs[0] - largest[r]) for r, c in calls.items()}
    total = ranks.all_reduce({r: p.sum(axis=-1, keepdims=True) for r, p in powers.items()}, axis)
    targets = ranks.all_reduce({r: _target(c, largest[r]) for r, c in calls.items()}, axis)
    out: dict[int, tuple[Array, ...]] = {}
    for rank, call in calls.items():
        ignored = call.inputs[1].reshape(total[rank].shape) == call.integer("ignore_index", -100)
        loss = (np.log(total[rank]) - targets[rank]) * ~ignored
        out[rank] = (powers[rank] / total[rank], loss.reshape(call.shapes[1]))
    return out


def _target(call: Call, largest: Array) -> Array:
    """The target's logit less the maximum where this rank holds the class, else 0."""
    logits, label = call.inputs
    mine = label.reshape(largest.shape) - call.place * logits.shape[-1]
    known = (mine >= 0) & (mine < logits.shape[-1])
    return np.asarray((np.take_along_axis(logits, np.where(known, mine, 0), -1) - largest) * known)
