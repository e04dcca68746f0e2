"""A ring over attention whose scores are written out, as the executor runs it (nebula/runtime/ring.py).

Keys and values travel around, and the queries of a rank meet them run by run: each meeting scores one run of queries
against one of keys with the model's own operators, and adds to a softmax in float32. The backward scores every meeting
again; gradients of keys and values travel with them, and are waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from nebula.graph.attention_core import Core, depending, scoring_block, written_cores
from nebula.graph.completion import complete
from nebula.graph.distribution import Mesh, distribution
from nebula.graph.partition import partition
from nebula.graph.ring_kernels import RUNS, Meeting, Sizes, backward_works, forward_works
from nebula.graph.rules import COLLECTIVE_KINDS, apply
from nebula.graph.rules.context import AXIS
from nebula.graph.rules.strides import with_copies
from nebula.graph.values import Block, Collective, Kernel, Operator, Role, Tensor, Work

KIND = "ring_attention"
"""Of the operator that stands for a core."""


def with_rings(local: Block, whole: Block, degree: int) -> Block | None:
    """The block of a rank whose attention cores are rings; None where a core is written in a way that is not known.

    Args:
        local: of a rank that gathers keys and values along the axis `context`, cut by a tensor group too.
        whole: the same layer before it was cut, at as many rows.
        degree: ranks of the ring.
    """
    cores = written_cores(whole)
    if len(cores) != sum(op.kind == "softmax" and _is_attention(whole, op) for op in whole.operators):
        return None
    block, rings = local, dict[str, _Ring]()
    for core in cores:
        works = _works(local, whole, core, degree)
        if works is None:
            return None
        rings[core.mixed] = works
        block = _replaced(block, core, frozenset(op.name for op in whole.operators), works)
    # without a rule a ring has one kernel now, and sums of gradients
    block = apply(with_copies(block), local)
    return replace(block, operators=tuple(_worked(op, rings) if op.kind == KIND else op for op in block.operators))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ring:
    """The works of one core's ring, and how many numbers it keeps beside its inputs and its output."""

    forward: tuple[Work, ...]
    backward: tuple[Work, ...]
    statistics: int


def _worked(op: Operator, rings: Mapping[str, _Ring]) -> Operator:
    ring = rings[op.name]
    return replace(
        op,
        attributes=(),
        forward=ring.forward,
        backward=(*ring.backward, *op.backward[1:]),
        saved=(*op.inputs[:3], *op.outputs),
    )


def _is_attention(block: Block, softmax: Operator) -> bool:
    """Whether a softmax is over scores of heads, not over the experts of a router."""
    return len(block.tensor(softmax.inputs[0]).shape) > 3


def _works(local: Block, whole: Block, core: Core, degree: int) -> _Ring | None:
    """Works of both directions of a core's ring."""
    query, key, value = (local.by_name.get(name) for name in (core.query, core.key, core.value))
    known = whole.tensor(core.query), whole.tensor(core.key)
    runs = RUNS * degree
    if query is None or key is None or value is None or any(t.shape[1] % runs for t in known):
        return None
    if known[0].shape[1] != known[1].shape[1] or query.shape[1] * degree != known[0].shape[1]:
        return None
    scoring = _one_meeting(whole, core, runs, known[0].shape[2] // query.shape[2])
    if scoring is None:
        return None
    sizes = Sizes.of(query, key, value)
    seen = runs + 1 if core.causal else RUNS * runs
    bare = seen - RUNS if core.causal else 0
    meetings = [Meeting.of(scoring.operators, seen - bare)]
    if bare:
        masking = _masking(scoring)
        meetings.append(Meeting.of([op for op in scoring.operators if op.name not in masking], bare))
    forward = forward_works(sizes, meetings, degree)
    backward = backward_works(sizes, meetings, degree, [float(t.bytes) for t in scoring.parameters])
    return _Ring(
        forward=(*_passed((key, value)), *forward),
        backward=(*_passed((key, value)), *backward, *_returned(sizes)),
        statistics=sizes.statistics_of_rank,
    )


def _passed(pairs: Iterable[Tensor]) -> tuple[Collective, ...]:
    return tuple(Collective(kind="ring_exchange", axis=AXIS, bytes=float(t.bytes)) for t in pairs)


def _returned(sizes: Sizes) -> tuple[Collective, ...]:
    """Gradients of keys and values in float32, which wait for what is added to them and are waited for."""
    shares = (RUNS * sizes.key, RUNS * sizes.value)
    return tuple(Collective(kind="ring_return", axis=AXIS, bytes=4.0 * share) for share in shares)


def _one_meeting(whole: Block, core: Core, runs: int, heads: int) -> Block | None:
    """The operators that score one run of queries against one of keys, of as many heads as a rank has."""
    block = with_copies(scoring_block(whole, core))
    axes = [("queries", runs), ("keys", runs), *([("heads", heads)] if heads > 1 else [])]
    mesh = Mesh(shape=tuple(n for _, n in axes), axes=tuple(name for name, _ in axes))
    by_head = (2, 1) if heads > 1 else (-1, 1)

    def cut(axis: int) -> list[tuple[int, int]]:
        return [(-1, 1), (axis, 1), by_head, (-1, 1)]

    annotations = {core.query: distribution(mesh, cut(0)), core.key: distribution(mesh, cut(1))}
    found = _unexchanged(partition(complete(block, annotations)))
    shares = _shares(found, depending(found))
    operators = tuple(
        replace(op, forward=_kernels(op.forward, shares[op.name]), backward=_kernels(op.backward, shares[op.name]))
        for op in found.operators
    )
    return replace(found, operators=operators)


def _unexchanged(block: Block) -> Block:
    """The block without what ranks of its mesh would exchange; what cuts a tensor stays."""
    tensors, given = block.by_name, dict[str, str]()
    operators: list[Operator] = []
    for op in block.operators:
        inputs = tuple(given.get(name, name) for name in op.inputs)
        if op.kind in COLLECTIVE_KINDS and tensors[op.outputs[0]].size == tensors[op.inputs[0]].size:
            given[op.outputs[0]] = inputs[0]
        else:
            operators.append(replace(op, inputs=inputs))
    return apply(replace(block, operators=tuple(operators)))


def _kernels(works: Iterable[Work], share: float) -> tuple[Work, ...]:
    return tuple(
        replace(w, flops=share * w.flops, read_bytes=share * w.read_bytes, written_bytes=share * w.written_bytes)
        for w in works
        if isinstance(w, Kernel)
    )


def _shares(block: Block, moving: frozenset[str]) -> dict[str, float]:
    """By operator what part of its work counts: of what is made from positions alone, what a later cut leaves."""
    tensors, wanted, found = block.by_name, dict[str, float](), dict[str, float]()
    for op in reversed(block.operators):
        own = max((wanted.get(name, 0.0) for name in op.outputs), default=1.0) or 1.0
        found[op.name] = own if moving.isdisjoint(op.outputs) else 1.0
        for name in op.inputs:
            left = own if moving.isdisjoint(op.outputs) else 1.0
            if op.kind == "identity":
                left *= min(1.0, tensors[op.outputs[0]].size / tensors[name].size)
            wanted[name] = max(wanted.get(name, 0.0), left)
    return found


def _masking(block: Block) -> frozenset[str]:
    """Operators that hide later keys, where a mask is added to the scores by itself: earlier keys are met without."""
    makers = {name: op for op in block.operators for name in op.outputs}
    moving = depending(block)
    found: set[str] = set()
    for op in block.operators:
        alone = [name for name in op.inputs if name not in moving]
        behind = [*chain.from_iterable(_before(name, makers) for name in alone)]
        hides = any(each.kind in ("triu", "tril") for each in behind)
        roles = {block.tensor(name).role for each in behind for name in each.inputs}
        if op.kind == "add" and moving.intersection(op.inputs) and hides and Role.PARAMETER not in roles:
            found |= {op.name, *(each.name for each in behind)}
    return frozenset(found)


def _before(name: str, makers: dict[str, Operator]) -> list[Operator]:
    if name not in makers:
        return []
    op = makers[name]
    return [op, *(each for source in op.inputs for each in _before(source, makers))]


def _replaced(local: Block, core: Core, own: frozenset[str], ring: _Ring) -> Block:
    """The block with one operator in the place of a core and of what gathers for it; `own` are the layer's own."""
    gone = set(core.names)
    for op in reversed(local.operators):  # what the partition put between operators that go
        readers = [r for r in local.operators if set(op.outputs) & set(r.inputs)]
        if op.name not in own and readers and all(r.name in gone for r in readers):
            gone.add(op.name)
    numbers = Tensor(name=f"{core.mixed}/statistics", shape=(ring.statistics,), dtype="float32")
    weights = [t.name for t in local.parameters if any(t.name in op.inputs for op in core.scoring)]
    inputs = (core.query, core.key, core.value, *weights)
    stands = Operator(name=core.mixed, kind=KIND, inputs=inputs, outputs=(core.mixed, numbers.name))
    last = max(i for i, op in enumerate(local.operators) if op.name in gone)
    operators = [*(op for op in local.operators[:last] if op.name not in gone), stands, *local.operators[last + 1 :]]
    made = {name for op in local.operators if op.name in gone for name in op.outputs} - {core.mixed}
    tensors = [replace(t, alias_of="") if t.name == core.mixed else t for t in local.tensors if t.name not in made]
    return replace(local, tensors=(*tensors, numbers), operators=tuple(operators))
