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
    from nebula.cost_model.peak import Chunk, LayerLoad, Setting


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
    queued = staged_bytes + sum(_queued(chunk, setting.micro_batches) for chunk in chunks)
    # gradients that replicas sum are joined to one array, which is parted again
    yield _Moment("optimizer step", own.gradients, 0.0, 0.0, buffers=2.0 * _joined_bytes(chunks, setting))
    kept = sum(_kept_bytes(chunk, setting) for chunk in chunks)
    ahead = [min(c.flight, _begun(chunks, i)[i]) >= setting.micro_batches for i, c in enumerate(chunks)]
    made = [_made(chunk, setting) for chunk in chunks]
    for place, chunk in enumerate(chunks):
        if ahead[place]:
            # the first gradients are the sums themselves, and those of the chunks before it are not there yet
            yield from _ahead(chunk, setting, sum(made[place + 1 :]), _begun_bytes(chunks, place), queued)
            continue
        missing = sum(size for size, late in zip(made[:place], ahead[:place], strict=True) if late)
        there = own.gradients - missing
        if setting.splits:
            # where all micro-batches wait together none has made gradients of weights before
            before = 0.0 if chunk.flight >= setting.micro_batches else there
            yield from _split(chunk, setting, before, there, kept, queued)
        else:
            yield from _steady(chunk, setting, there, kept, queued)


def _steady(chunk: Chunk, setting: Setting, gradients: float, kept: float, queued: float) -> Iterator[_Moment]:
    """Backwards of a chunk of which forwards follow: its gradients are there."""
    for layer, lying in _passed(chunk, setting, kept):
        acts = layer.activations
        logits = chunk.flight * acts.logits_gradient
        if acts.logits:
            yield _loss(chunk, layer, gradients, lying, queued)
        yield _Moment("last backward", gradients, lying, _work(layer, setting) + layer.widest_bytes, logits, queued)


def _split(
    chunk: Chunk, setting: Setting, before: float, gradients: float, kept: float, queued: float
) -> Iterator[_Moment]:
    """Both halves of a backward: that of inputs, with what gradients of weights lay there `before`, and theirs."""
    left = kept
    for layer, lying in _passed(chunk, setting, kept):
        acts = layer.activations
        if acts.logits:
            yield _loss(chunk, layer, before, lying, queued)
        logits = chunk.flight * acts.logits_gradient
        yield _Moment("last backward", before, lying, _work(layer, setting), logits, queued)
        left -= acts.kept - acts.later
    widest = max(layer.widest_bytes for layer in chunk.layers)
    logits = chunk.flight * sum(layer.activations.logits_gradient for layer in chunk.layers)
    yield _Moment("last backward", gradients, left, widest, logits, queued)


def _ahead(chunk: Chunk, setting: Setting, behind: float, kept: float, queued: float) -> Iterator[_Moment]:
    """Backwards of a chunk that has done all its forwards: the first, and the one after it.

    Args:
        behind: gradients of the chunks behind it.
        kept: of all chunks, when its first backward begins.
    """
    later = behind
    for layer, lying in _passed(chunk, setting, kept):
        acts, work = layer.activations, _work(layer, setting)
        made = _width(setting) * (layer.elements + layer.expert_elements)
        logits = chunk.flight * acts.logits_gradient
        if acts.logits:
            yield _loss(chunk, layer, 0.0, lying, queued)
        early = acts.kept + made + work
        if not acts.logits and not setting.splits:
            early = min(early, acts.early)
        yield _first(later, made, lying, early, acts.kept, logits, queued)
        if setting.micro_batches > 1:
            waits = setting.splits and chunk.waiting
            used_up = (0.0, 0.0) if waits else (chunk.kept_bytes, acts.logits_gradient)
            left = lying - used_up[0], work + layer.widest_bytes, logits - used_up[1]
            yield _Moment("last backward", behind + _made(chunk, setting), *left, queued)
        later += made


def _passed(chunk: Chunk, setting: Setting, kept: float) -> Iterator[tuple[LayerLoad, float]]:
    """Each layer of a backward, and what is kept when it begins: a split one leaves what gradients of weights need."""
    for layer in reversed(chunk.layers):
        yield layer, kept
        acts = layer.activations
        if not holds_activations(chunk.offload):
            kept -= acts.kept - (acts.later if setting.splits else 0.0)


def _work(layer: LayerLoad, setting: Setting) -> float:
    """What a layer's backward needs beside what it kept, gradients of weights apart."""
    acts = layer.activations
    if not acts.logits:
        return acts.passing + acts.restored
    # a projection that is run again has its logits beside their gradient, a copy of that, and its weights'
    return acts.passing + 2.0 * acts.logits_gradient * (acts.again and not setting.splits)


def _loss(chunk: Chunk, layer: LayerLoad, gradients: float, lying: float, queued: float) -> _Moment:
    acts = layer.activations
    logits = (chunk.flight - 1) * acts.logits_gradient + acts.logits
    return _Moment("loss", gradients, lying, acts.passing, logits, queued)


def _begun_bytes(chunks: Sequence[Chunk], place: int) -> float:
    """What is kept when the first backward of a chunk begins."""
    return sum(n * chunk.kept_bytes for chunk, n in zip(chunks, _begun(chunks, place), strict=True))


def _begun(chunks: Sequence[Chunk], place: int) -> tuple[int, ...]:
    """Micro-batches on each chunk when the first backward of one begins."""
    return chunks[place].begun or tuple(chunk.flight for chunk in chunks)


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


def _made(chunk: Chunk, setting: Setting) -> float:
    """Bytes of the gradients of a chunk."""
    return _width(setting) * sum(layer.elements + layer.expert_elements for layer in chunk.layers)


def _width(setting: Setting) -> int:
    return DTYPE_BYTES[setting.execution.accumulation_dtype]


def _queued(chunk: Chunk, micro_batches: int) -> float:
    """Messages that have been sent and are still held: outputs that no backward needs any more, and gradients."""
    held = max(0, min(micro_batches, UNDERWAY) - chunk.flight)
    outward = chunk.layers[-1].output_bytes if chunk.sends else 0.0
    return held * (outward + chunk.received_bytes)
