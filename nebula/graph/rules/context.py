"""How attention runs on a rank that holds a share of the positions: the works of ring, gather and Ulysses.

Positions are dealt so that every rank has equal work under a causal mask: of 2 c chunks rank i of c holds i and
2 c - 1 - i (Llama 3, arXiv 2407.21783, section 3.3.2; the same in Megatron-LM). Every way keeps what a rank's own
positions need and no more: shards of keys and values that the others hold come again in the backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nebula.errors import BadInput
from nebula.graph.rules.rule import Call, Works
from nebula.graph.values import Collective, Kernel, Scores, Tensor

AXIS = "context"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Works of both directions, given the call and what its queries see of the whole sequence."""

    forward: Callable[[Call, Scores], Works]
    backward: Callable[[Call, Scores], Works]


def _whole_forward(call: Call, scores: Scores) -> Works:
    return (_kernel(call, "", call.inputs, call.outputs, scores),)


def _whole_backward(call: Call, scores: Scores) -> Works:
    return (_kernel(call, "_grad", _gradient_reads(call), call.wanted, scores),)


def _ring_forward(call: Call, scores: Scores) -> Works:
    """One kernel for each shard that passes by, its result joined with the earlier ones by their log-sum-exps.

    Ring attention, Liu et al. 2023 (arXiv 2310.01889), algorithm 1.
    """
    steps = call.integer("context")
    step = _kernel(call, "", call.inputs, call.outputs, _passing(scores, steps))
    joined = call.launch(
        reads=(*call.outputs, *call.outputs), writes=call.outputs, flops=3.0 * call.outputs[0].size, kind="add"
    )
    return (_collective("ring_exchange", call.inputs[1:3]), *(step,) * steps, *(joined,) * (steps - 1))


def _ring_backward(call: Call, scores: Scores) -> Works:
    """Keys and values pass by again, and with them their gradients, to which each rank adds."""
    steps = call.integer("context")
    step = _kernel(call, "_grad", _gradient_reads(call), call.wanted, _passing(scores, steps))
    size = float(sum(t.size for t in call.wanted))
    added = call.launch(reads=(*call.wanted, *call.wanted), writes=call.wanted, flops=size, kind="add")
    passed = (*call.inputs[1:3], *_wanted_pairs(call))
    return (_collective("ring_exchange", passed), *(step,) * steps, *(added,) * (steps - 1))


def _gather_forward(call: Call, scores: Scores) -> Works:
    """Llama 3, arXiv 2407.21783, section 3.3.2; under a causal mask each of the rank's two chunks is a kernel."""
    reads, writes = _gathered_bytes(call, call.inputs), float(sum(t.bytes for t in call.outputs))
    return (*_gathers(call), *_chunks(call, "", reads, writes, scores))


def _gather_backward(call: Call, scores: Scores) -> Works:
    """Keys and values are gathered again, so that only shards are kept; their gradients are summed and cut."""
    reads, writes = _gathered_bytes(call, _gradient_reads(call)), _gathered_bytes(call, call.wanted)
    scattered = (_collective("reduce_scatter", (t,), call.integer("context")) for t in _wanted_pairs(call))
    return (*_gathers(call), *_chunks(call, "_grad", reads, writes, scores), *scattered)


def _gathers(call: Call) -> Works:
    return tuple(_collective("all_gather", (t,), call.integer("context")) for t in call.inputs[1:3])


def _chunks(call: Call, suffix: str, reads: float, writes: float, scores: Scores) -> Works:
    count = 2 if call.flag("causal") else 1
    part = scores._replace(queries=scores.queries // count)
    return (_kernel(call, suffix, reads / count, writes / count, part),) * count


def _passing(scores: Scores, steps: int) -> Scores:
    """What queries see of one shard that passes by, on average over the shards."""
    seen = max(1, scores.seen // steps)
    return scores._replace(seen=seen, most=seen)


def _kernel(
    call: Call, suffix: str, reads: Iterable[Tensor] | float, writes: Iterable[Tensor] | float, scores: Scores
) -> Kernel:
    """One kernel of two products forward, five backward."""
    flops = (5 if suffix else 2) * scores.product.flops
    return call.launch(suffix, reads=reads, writes=writes, flops=flops, scores=scores)


def _gathered_bytes(call: Call, tensors: Iterable[Tensor]) -> float:
    """Bytes of the tensors, where those of keys and values are of the whole sequence."""
    pairs = {t.name for t in call.inputs[1:3]}
    return float(sum(t.bytes * (call.integer("context") if t.name in pairs else 1) for t in tensors))


def _ulysses_forward(call: Call, scores: Scores) -> Works:
    """Positions are exchanged for heads and back (DeepSpeed-Ulysses, arXiv 2309.14509, section 3.1)."""
    _require_heads(call)
    there = tuple(_collective("all_to_all", (t,)) for t in call.inputs[:3])
    return (*there, *_whole_forward(call, scores), _collective("all_to_all", call.outputs[:1]))


def _ulysses_backward(call: Call, scores: Scores) -> Works:
    back = (_collective("all_to_all", (t,)) for t in call.wanted)
    return (_collective("all_to_all", call.outputs[:1]), *_whole_backward(call, scores), *back)


def _require_heads(call: Call) -> None:
    heads, degree = call.inputs[1].shape[2], call.integer("context")
    if heads % degree:
        raise BadInput(
            f"attention {call.operator.name}: its {heads} key heads on a rank cannot be exchanged among {degree} ranks "
            f"({heads} % {degree} = {heads % degree}): choose how='ring' or 'gather', or a context that divides {heads}"
        )


def _gradient_reads(call: Call) -> tuple[Tensor, ...]:
    """The output's gradient beside what the forward had."""
    return (*call.inputs, *call.outputs, call.outputs[0])


def _wanted_pairs(call: Call) -> tuple[Tensor, ...]:
    """Keys and values whose gradients the backward computes."""
    return tuple(t for t in call.inputs[1:3] if t.needs_gradient)


def _collective(kind: str, tensors: Iterable[Tensor], copies: int = 1) -> Collective:
    return Collective(kind=kind, axis=AXIS, bytes=float(copies * sum(t.bytes for t in tensors)))


WHOLE = Exchange(forward=_whole_forward, backward=_whole_backward)
"""All positions on one rank."""

EXCHANGES: dict[str, Exchange] = {
    "ring": Exchange(forward=_ring_forward, backward=_ring_backward),
    "gather": Exchange(forward=_gather_forward, backward=_gather_backward),
    "ulysses": Exchange(forward=_ulysses_forward, backward=_ulysses_backward),
}
"""Ways of context parallelism by name."""
