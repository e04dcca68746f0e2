"""The peak of memory on a rank that PaddlePaddle's executor runs: moment by moment, layer by layer of its backwards.

What an emulated device counts is what tensors hold, so that a gradient that is not there yet, and an activation that a
backward has used up, do not count. Read from what Paddle 3.3.1 allocates on emulated devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from nebula.cost_model.held import Held
from nebula.cost_model.offload import holds_activations
from nebula.graph.values import DTYPE_BYTES
from nebula.plan.executor_limits import BUCKET_BYTES, UNDERWAY
from nebula.plan.values import StageMemory

if TYPE_CHECKING:
    from nebula.cost_model.peak import Chunk, Setting


class _Moment(NamedTuple):
    """What lies there beside weights and states, in bytes."""

    name: str
    gradients: float
    activations: float
    workspace: float
    logits: float = 0.0
    buffers: float = 0.0


def eager_moments(
    chunks: Sequence[Chunk], setting: Setting, own: Held[float], staged_bytes: float
) -> dict[str, StageMemory]:
    """The memory at every moment that may be the fullest.

    Args:
        chunks: virtual stages of the rank.
        setting: of the rank.
        own: weights, gradients and states.
        staged_bytes: of activations on their way to the host and back.
    """
    found: dict[str, StageMemory] = {}
    for moment in _moments(chunks, setting, own, staged_bytes):
        memory = StageMemory(
            weights_bytes=own.weights,
            gradients_bytes=moment.gradients,
            optimizer_bytes=own.states,
            activations_bytes=moment.activations,
            workspace_bytes=moment.workspace,
            logits_bytes=moment.logits,
            buffers_bytes=moment.buffers,
            limit_bytes=setting.limit_bytes,
            host_bytes=own.host + sum(chunk.host_bytes for chunk in chunks),
        )
        known = found.get(moment.name)
        if known is None or known.total_bytes < memory.total_bytes:
            found[moment.name] = memory
    return found


def _moments(chunks: Sequence[Chunk], setting: Setting, own: Held[float], staged_bytes: float) -> Iterator[_Moment]:
    m = setting.micro_batches
    width = DTYPE_BYTES[setting.execution.accumulation_dtype]
    kept = sum(_kept_bytes(chunk, setting) for chunk in chunks)
    queued = staged_bytes + sum(_queued(chunk, m) for chunk in chunks)
    all_ahead = all(chunk.flight >= m for chunk in chunks)
    flat = _joined_bytes(chunks, setting)
    # gradients that replicas sum are joined to one array, which is parted again
    yield _Moment("optimizer step", own.gradients, 0.0, 0.0, buffers=2.0 * flat)
    behind = 0.0
    for chunk in reversed(chunks):
        gone, later = 0.0, behind
        for layer in reversed(chunk.layers):
            # what the backward of this micro-batch has used up; a split one keeps what gradients of weights need
            acts, made = layer.activations, width * (layer.elements + layer.expert_elements)
            lying = kept - gone
            gradient = acts.logits_gradient
            # a projection that is run again has its logits beside their gradient, a copy of that, and its weights'
            again = acts.again and not setting.splits
            work = acts.passing + (2.0 * gradient * again if acts.logits else acts.restored)
            logits = chunk.flight * gradient
            if acts.logits:
                early = 0.0 if all_ahead else own.gradients
                others = logits - gradient
                yield _Moment("loss", early, lying, acts.passing, others + acts.logits, queued)
            if all_ahead:
                # the first gradients are the sums themselves, and none lay there before
                early = acts.kept + made + work if acts.logits or setting.splits else acts.early
                yield _first(later, made, lying, min(early, acts.kept + made + work), acts.kept, logits, queued)
                if m > 1:
                    added, held = behind + width * _elements(chunk), work + layer.widest_bytes
                    used_up = (0.0, 0.0) if setting.splits else (chunk.kept_bytes, gradient)
                    left = lying - used_up[0], held, logits - used_up[1]
                    yield _Moment("last backward", added, *left, queued)
            else:
                more = work + layer.widest_bytes
                yield _Moment("last backward", own.gradients, lying, more, logits, queued)
            used = acts.kept - (acts.later if setting.splits else 0.0)
            gone, later = gone + (0.0 if holds_activations(chunk.offload) else used), later + made
        if all_ahead:
            # every micro-batch passes the virtual stages behind before the first passes this one
            behind, kept = later, kept - _kept_bytes(chunk, setting)


def _first(later: float, made: float, lying: float, early: float, kept: float, logits: float, queued: float) -> _Moment:
    """The first backward of a layer, whose gradients come as what it kept goes: `early` of both at the fullest.

    Args:
        later: gradients of the layers behind it.
        made: its own.
        lying: what is kept, its own included.
        early: as of Activations.
        kept: its own.
        logits: likewise.
        queued: messages.
    """
    rest = max(0.0, early - made)
    own = min(kept, rest)
    return _Moment("last backward", later + min(made, early), lying - kept + own, rest - own, logits, queued)


def _kept_bytes(chunk: Chunk, setting: Setting) -> float:
    """What all micro-batches in flight keep: those that wait what the gradients of weights need.

    At the loss of one the others of its chunk do.
    """
    waits = chunk.waiting
    if setting.splits and any(layer.activations.logits for layer in chunk.layers):
        waits = chunk.flight - 1
    if not waits:
        return chunk.flight * chunk.kept_bytes
    left = sum(layer.activations.later for layer in chunk.layers)
    return (chunk.flight - waits) * chunk.kept_bytes + waits * left


def _joined_bytes(chunks: Sequence[Chunk], setting: Setting) -> float:
    """The largest array to which gradients are joined that are summed together: those for one owner, or for all.

    Gradients of experts that are dealt are summed apart, and where no other rank holds the same ones not at all.
    """
    layers = [layer for chunk in chunks for layer in chunk.layers]
    width = DTYPE_BYTES[setting.execution.accumulation_dtype]
    dense, experts = (width * sum(getattr(x, name) for x in layers) for name in ("elements", "expert_elements"))
    if setting.expert_replicas == setting.replicas:
        dense, experts = dense + experts, 0.0
    shares = setting.sharding.stage == 1 and setting.sharding.degree == setting.replicas
    joined = dense / (setting.sharding.degree if shares else 1) if setting.replicas > 1 else 0.0
    apart = experts / (setting.expert_sharding.degree if shares else 1) if setting.expert_replicas > 1 else 0.0
    return min(max(joined, apart), float(BUCKET_BYTES))


def _elements(chunk: Chunk) -> float:
    return sum(layer.elements + layer.expert_elements for layer in chunk.layers)


def _queued(chunk: Chunk, micro_batches: int) -> float:
    """Messages that have been sent and are still held: outputs that no backward needs any more, and gradients."""
    held = max(0, min(micro_batches, UNDERWAY) - chunk.flight)
    outward = chunk.layers[-1].output_bytes if chunk.sends else 0.0
    return held * (outward + chunk.received_bytes)
