"""When each device of a pipeline has done its last action, for many pipelines at once: what a search asks.

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
from nebula.plan.schedule import device_of, devices_of, shape_of

Floats: TypeAlias = NDArray[np.float64]


def last_backward_s(
    forward_s: Floats,
    backward_s: Floats,
    micro_batches: int,
    schedule: str = "1f1b",
    chunks: int = 1,
    weight_s: Floats | None = None,
    transit_s: float = 0.0,
    send_forward_s: Floats | None = None,
    send_backward_s: Floats | None = None,
) -> Floats:
    """When each device has done its last action, without building events; equal to `timeline` to rounding.

    Args:
        forward_s: [..., virtual stages], numbered as in Durations; leading axes are independent cases. Sends that
            occupy the sender are included.
        backward_s: likewise, of a whole backward.
        micro_batches: of one step.
        schedule: a name of the schedule language.
        chunks: virtual stages on each device.
        weight_s: [..., virtual stages], the part of backward_s that `W` does; none: it takes no time.
        transit_s: as in Durations.
        send_forward_s: [..., virtual stages], what sending outputs takes beside compute, as under Sends.BESIDE.
        send_backward_s: likewise of gradients.

    Returns:
        [..., devices].

    Raises:
        BadInput: there is no such schedule, or not for these numbers.
    """
    devices = devices_of(schedule, forward_s.shape[-1], chunks)
    shape = shape_of(schedule, devices, micro_batches, chunks)
    forward_lag_s, backward_lag_s = _crossing(schedule, devices, chunks, transit_s)
    if send_forward_s is not None:
        forward_lag_s = forward_lag_s + send_forward_s
    if send_backward_s is not None:
        backward_lag_s = backward_lag_s + send_backward_s
    if schedule == "fthenb":
        return _f_then_b(forward_s, backward_s, micro_batches, forward_lag_s, backward_lag_s)
    if schedule == "1f1b":
        return _one_f_one_b(forward_s, backward_s, micro_batches, forward_lag_s, backward_lag_s)
    if weight_s is None:
        weight_s = np.zeros_like(backward_s)
    return wavefront(schedule, shape, (forward_s, backward_s, weight_s), (forward_lag_s, backward_lag_s))


def step_seconds(
    forward_s: Floats, backward_s: Floats, tail_s: Floats, micro_batches: int, schedule: str = "1f1b"
) -> Floats:
    """When the last device has done its last action and the tail behind it.

    Args:
        forward_s: [cases, stages] of one micro-batch, sends that occupy the sender included.
        backward_s: likewise.
        tail_s: likewise, after a stage's last backward.
        micro_batches: of one step.
        schedule: a name of the schedule language, of one virtual stage on each device.

    Returns:
        [cases].

    Raises:
        BadInput: there is no such schedule, or not for these numbers.
    """
    if schedule == "1f1b":
        shape_of(schedule, forward_s.shape[1], micro_batches)
        return one_f_one_b_seconds(forward_s.T, backward_s.T, tail_s.T, np.full(len(forward_s), micro_batches))
    step_s: Floats = (last_backward_s(forward_s, backward_s, micro_batches, schedule) + tail_s).max(axis=-1)
    return step_s


def _crossing(schedule: str, devices: int, chunks: int, transit_s: float) -> tuple[Floats, Floats]:
    """What a message of each virtual stage is under way, forward and backward: nothing to the device it is on."""
    stages = devices * chunks
    if chunks == 1:
        lag_s = np.full(stages, transit_s)
        return lag_s, lag_s
    if not transit_s:
        return np.zeros(stages), np.zeros(stages)
    held = np.array([device_of(schedule, stage, devices, chunks) for stage in range(stages)])
    forward_s = transit_s * (held != np.roll(held, -1))
    return forward_s, np.roll(forward_s, 1)


def _f_then_b(
    forward_s: Floats, backward_s: Floats, micro_batches: int, forward_lag_s: Floats, backward_lag_s: Floats
) -> Floats:
    """Both phases are flow shops of equal jobs: the last job ends after all stages once and the slowest m - 1 times."""
    turn_s = forward_s.sum(-1) + (micro_batches - 1) * forward_s.max(-1) + forward_lag_s[..., :-1].sum(-1)
    from_last = backward_s[..., ::-1]
    waits_s = np.zeros_like(np.broadcast_to(backward_lag_s, backward_s.shape))
    waits_s[..., 1:] = backward_lag_s[..., :0:-1].cumsum(-1)
    tail_s = from_last.cumsum(-1) + (micro_batches - 1) * np.maximum.accumulate(from_last, -1) + waits_s
    ends_s: Floats = turn_s[..., None] + tail_s[..., ::-1]
    return ends_s


def _one_f_one_b(
    forward_s: Floats, backward_s: Floats, micro_batches: int, forward_lag_s: Floats, backward_lag_s: Floats
) -> Floats:
    """1F1B slot by slot: in slot t, stage s runs F of (t - s)/2 or B of (t - 2p + 1 + s)/2, whichever is whole.

    The slots respect every dependency, and all that a slot needs of the past is when each stage became free: its
    neighbour finished the very micro-batch it waits for in the slot before. Once a pair of slots moves every stage by
    the same time, all further ones do (the max-plus eigenvector is reached), so the rest of the steady state is added
    at once.
    """
    # stages first, and a stage at each end that nobody waits for, so that a slot is a few strided operations
    forward, backward = np.moveaxis(forward_s, -1, 0), np.moveaxis(backward_s, -1, 0)
    lags = None
    if forward_lag_s.any() or backward_lag_s.any():
        # what comes into a stage was under way for the lag of its sender
        into_s = np.roll(forward_lag_s, 1, -1), np.roll(backward_lag_s, -1, -1)
        lags = _stages_first(into_s[0], forward), _stages_first(into_s[1], forward)
    stages, m = len(forward), micro_batches
    free = np.full((stages + 2, *forward.shape[1:]), -np.inf)
    free[1:-1] = 0.0
    slot, last, steady_end = 0, 2 * (m + stages - 1), 2 * m
    while slot < last:
        before = free[1:-1].copy()
        for t in (slot, slot + 1):
            _slot(free, forward, backward, t, m, lags)
        steady, slot = 2 * stages <= slot - 2 and slot + 2 <= steady_end, slot + 2
        if steady:
            moved = free[1:-1] - before
            if np.all(np.abs(moved - moved[:1]) <= 1e-12 * free[1]):
                jumps = (steady_end - slot) // 2
                free[1:-1] += jumps * moved[:1]
                slot += 2 * jumps
    return np.moveaxis(free[1:-1], 0, -1)


def _stages_first(lag_s: Floats, like: Floats) -> Floats:
    """[..., stages] as [stages, ...] with as many axes as `like`."""
    first = np.moveaxis(lag_s, -1, 0)
    return first.reshape(len(first), *[1] * (like.ndim - first.ndim), *first.shape[1:])


def _slot(free: Floats, forward: Floats, backward: Floats, t: int, m: int, lags: tuple[Floats, Floats] | None) -> None:
    """Moves `free` on by slot t: [stages + 2, ...] when each stage is free, arrays of durations stages first.

    `lags` is what messages into each stage take, forward and backward; None spares the sums where they take nothing.
    """
    last = len(forward) - 1
    f, b = t - 2 * (m - 1), 2 * last + 1 - t
    first_f, end_f = (f if f > 0 else t % 2), min(t, last) + 1
    first_b, end_b = (b if b > 0 else (t + 1) % 2), min(b + 2 * (m - 1), last) + 1
    ran_f, ran_b = free[first_f + 1 : end_f + 1 : 2], free[first_b + 1 : end_b + 1 : 2]
    sent_f, sent_b = free[first_f:end_f:2], free[first_b + 2 : end_b + 2 : 2]
    if lags is not None:
        sent_f, sent_b = sent_f + lags[0][first_f:end_f:2], sent_b + lags[1][first_b:end_b:2]
    ended_f = np.maximum(ran_f, sent_f) + forward[first_f:end_f:2]
    ended_b = np.maximum(ran_b, sent_b) + backward[first_b:end_b:2]
    ran_f[...] = ended_f
    ran_b[...] = ended_b
