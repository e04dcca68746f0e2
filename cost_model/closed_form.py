"""When each device of a pipeline has done its work and its messages, for many pipelines at once: what a search asks.

FThenB has a formula, 1F1B is run slot by slot, all other schedules along their wavefronts (wavefront.py). Each jumps
over the rest of a steady state once it has reached it, so all equal the simulation event by event to rounding. Where
only the end of the step is asked for, 1F1B has a formula too (one_f_one_b.py).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.one_f_one_b import one_f_one_b_seconds
from nebula.cost_model.wavefront import wavefront
from nebula.plan.schedule import devices_of, shape_of

Floats: TypeAlias = NDArray[np.float64]


def last_backward_s(
    forward_s: Floats,
    backward_s: Floats,
    micro_batches: int,
    schedule: str = "1f1b",
    chunks: int = 1,
    weight_s: Floats | None = None,
    send_forward_s: Floats | None = None,
    send_backward_s: Floats | None = None,
) -> Floats:
    """When each device has done all its actions and messages, without building events; equal to `timeline` to rounding.

    Args:
        forward_s: [..., virtual stages], numbered as in Durations; leading axes are independent cases. Sends that
            occupy the sender are included.
        backward_s: likewise, of a whole backward.
        micro_batches: of one step.
        schedule: a name of the schedule language.
        chunks: virtual stages on each device.
        weight_s: [..., virtual stages], the part of backward_s that `W` does; none: it takes no time.
        send_forward_s: [..., virtual stages], what sending outputs takes beside compute, as under Sends.BESIDE; none:
            nothing does.
        send_backward_s: likewise of gradients.

    Returns:
        [..., devices].

    Raises:
        BadInput: there is no such schedule, or not for these numbers.
    """
    devices = devices_of(schedule, forward_s.shape[-1], chunks)
    shape = shape_of(schedule, devices, micro_batches, chunks)
    nothing_s = np.zeros_like(forward_s)
    sends_s = (
        nothing_s if send_forward_s is None else send_forward_s,
        nothing_s if send_backward_s is None else send_backward_s,
    )
    if schedule == "fthenb":
        return _f_then_b(forward_s, backward_s, micro_batches, *sends_s)
    if schedule == "1f1b":
        return _one_f_one_b(forward_s, backward_s, micro_batches, *sends_s)
    if weight_s is None:
        weight_s = np.zeros_like(backward_s)
    return wavefront(schedule, shape, (forward_s, backward_s, weight_s), sends_s)


def step_seconds(
    forward_s: Floats,
    backward_s: Floats,
    tail_s: Floats,
    micro_batches: int,
    schedule: str = "1f1b",
    met_s: Floats | None = None,
) -> Floats:
    """When the last device has done its last action and the tail behind it.

    Args:
        forward_s: [cases, stages] of one micro-batch, sends that occupy the sender included.
        backward_s: likewise.
        tail_s: likewise, after a stage's last backward.
        micro_batches: of one step.
        schedule: a name of the schedule language, of one virtual stage on each device.
        met_s: likewise as forward_s, for 1F1B as one_f_one_b_seconds has it.

    Returns:
        [cases].

    Raises:
        BadInput: there is no such schedule, or not for these numbers.
    """
    if schedule == "1f1b":
        shape_of(schedule, forward_s.shape[1], micro_batches)
        # stage after stage: each lies together in memory
        met = None if met_s is None else np.ascontiguousarray(met_s.T)
        forward, backward, tail = (np.ascontiguousarray(s.T) for s in (forward_s, backward_s, tail_s))
        return one_f_one_b_seconds(forward, backward, tail, np.full(len(forward_s), micro_batches), met)
    step_s: Floats = (last_backward_s(forward_s, backward_s, micro_batches, schedule) + tail_s).max(axis=-1)
    return step_s


def _f_then_b(
    forward_s: Floats, backward_s: Floats, micro_batches: int, send_forward_s: Floats, send_backward_s: Floats
) -> Floats:
    """Both phases are flow shops of equal jobs: the last job ends after all stages once and the slowest m - 1 times.

    The way of a message from one stage to the next is a machine of the shop like the stages.
    """
    turn_s = _joined(forward_s, send_forward_s)[..., :-1]
    turn_s = turn_s.sum(-1) + (micro_batches - 1) * turn_s.max(-1)
    from_last = _joined(backward_s[..., ::-1], send_backward_s[..., ::-1])
    tail_s = from_last.cumsum(-1) + (micro_batches - 1) * np.maximum.accumulate(from_last, -1)
    # a stage is done when its last message has left, the first, which sends none back, with its last backward
    ends_s: Floats = turn_s[..., None] + np.concatenate([tail_s[..., -2:-1], tail_s[..., -3::-2]], axis=-1)
    return ends_s


def _joined(stages_s: Floats, sends_s: Floats) -> Floats:
    """[..., 2 n]: of each stage what it takes, and then its message."""
    both: Floats = np.stack(np.broadcast_arrays(stages_s, sends_s), axis=-1)
    return both.reshape(*both.shape[:-2], -1)


def _one_f_one_b(
    forward_s: Floats, backward_s: Floats, micro_batches: int, send_forward_s: Floats, send_backward_s: Floats
) -> Floats:
    """1F1B slot by slot: in slot t, stage s runs F of (t - s)/2 or B of (t - 2p + 1 + s)/2, whichever is whole.

    The slots respect every dependency, and all that a slot needs of the past is when each stage became free and when
    its last messages had come: those of the very micro-batch that its neighbour waits for left it in the slot before.
    Once a pair of slots moves all of these by the same time, all further ones do (the max-plus eigenvector is reached),
    so the rest of the steady state is added at once.
    """
    # stages first, and a stage at each end that nobody waits for, so that a slot is a few strided operations
    forward, backward = np.moveaxis(forward_s, -1, 0), np.moveaxis(backward_s, -1, 0)
    sends = None
    if send_forward_s.any() or send_backward_s.any():
        sends = _stages_first(send_forward_s, forward), _stages_first(send_backward_s, forward)
    stages, m = len(forward), micro_batches
    # [free, forward come, backward come]; where sending takes no time a message has come when its stage is free
    state = np.full((3 if sends else 1, stages + 2, *forward.shape[1:]), -np.inf)
    state[0, 1:-1] = 0.0
    known = np.zeros(state.shape[:2], dtype=bool)
    known[0, 1:-1] = True
    known[1:2, 1:-2] = True
    known[2:3, 2:-1] = True
    slot, last, steady_end = 0, 2 * (m + stages - 1), 2 * m
    while slot < last:
        before = state[known]
        for t in (slot, slot + 1):
            _slot(state, forward, backward, t, m, sends)
        steady, slot = 2 * stages <= slot - 2 and slot + 2 <= steady_end, slot + 2
        if steady:
            moved = state[known] - before
            if np.all(np.abs(moved - moved[:1]) <= 1e-12 * state[0, 1]):
                jumps = (steady_end - slot) // 2
                state[:, 1:-1] += jumps * moved[:1]
                slot += 2 * jumps
    ends = np.where(known.reshape(*known.shape, *[1] * (state.ndim - 2)), state, -np.inf).max(axis=0)
    return np.moveaxis(ends[1:-1], 0, -1)


def _stages_first(send_s: Floats, like: Floats) -> Floats:
    """[..., stages] as [stages, ...] with as many axes as `like`."""
    first = np.moveaxis(send_s, -1, 0)
    return first.reshape(len(first), *[1] * (like.ndim - first.ndim), *first.shape[1:])


def _slot(
    state: Floats, forward: Floats, backward: Floats, t: int, m: int, sends: tuple[Floats, Floats] | None
) -> None:
    """Moves `state`, [1 or 3, stages + 2, ...] as of _one_f_one_b, on by slot t; arrays of durations stages first.

    `sends` is what messages of each stage take, forward and backward; None spares their times where that is nothing.
    """
    last = len(forward) - 1
    f, b = t - 2 * (m - 1), 2 * last + 1 - t
    first_f, end_f = (f if f > 0 else t % 2), min(t, last) + 1
    first_b, end_b = (b if b > 0 else (t + 1) % 2), min(b + 2 * (m - 1), last) + 1
    free, came_f, came_b = state[0], state[-2 if sends else 0], state[-1 if sends else 0]
    ran_f, ran_b = free[first_f + 1 : end_f + 1 : 2], free[first_b + 1 : end_b + 1 : 2]
    ended_f = np.maximum(ran_f, came_f[first_f:end_f:2]) + forward[first_f:end_f:2]
    ended_b = np.maximum(ran_b, came_b[first_b + 2 : end_b + 2 : 2]) + backward[first_b:end_b:2]
    ran_f[...] = ended_f
    ran_b[...] = ended_b
    if sends is not None:
        gone_f, gone_b = came_f[first_f + 1 : end_f + 1 : 2], came_b[first_b + 1 : end_b + 1 : 2]
        gone_f[...] = np.maximum(gone_f, ended_f) + sends[0][first_f:end_f:2]
        gone_b[...] = np.maximum(gone_b, ended_b) + sends[1][first_b:end_b:2]
