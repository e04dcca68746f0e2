"""When each micro-batch runs on each stage: event by event for any schedule, and in closed form for search.

A stage is a device stream: it does its actions in the order of the schedule, a send occupies it, and an action waits
until its input has arrived. How long an action takes is the caller's knowledge.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.plan.schedule import Action, actions


class Event(NamedTuple):
    """Something a stage does: `F`, `B`, `send`, `sync` (gradients) or `update`; micro_batch is -1 for the last two."""

    stage: int
    kind: str
    micro_batch: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What every stage does in one step, in the order of the stages, then of time."""

    events: tuple[Event, ...]

    @property
    def end_s(self) -> float:
        """When the last event ends."""
        return max((e.end_s for e in self.events), default=0.0)

    def by_stage(self) -> list[tuple[Event, ...]]:
        """The events of every stage."""
        return [tuple(events) for _, events in groupby(self.events, key=lambda event: event.stage)]

    def of(self, stage: int) -> tuple[Event, ...]:
        """The events of one stage."""
        return tuple(e for e in self.events if e.stage == stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """Seconds of each action, one entry per stage.

    Attributes:
        forward_s: compute (and communication inside the stage) of one forward.
        backward_s: the same of one backward.
        send_forward_s: what sending the outputs to the next stage occupies of the sender's stream; 0 for the last.
        send_backward_s: what sending gradients to the stage before occupies; 0 for the first.
        transit_s: time a message is under way after the sender is free again, 0 where a send blocks until arrival.
    """

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    send_forward_s: tuple[float, ...]
    send_backward_s: tuple[float, ...]
    transit_s: float = 0.0

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.forward_s)


def timeline(durations: Durations, schedule: str, micro_batches: int) -> Timeline:
    """Every event of one step's forwards and backwards, by simulation of the named schedule."""
    lists = actions(schedule, durations.stages, micro_batches)
    arrival: dict[tuple[int, Action], float] = {(0, Action("F", i)): 0.0 for i in range(micro_batches)}
    events: list[list[Event]] = [[] for _ in lists]
    free_s, done = [0.0] * len(lists), [0] * len(lists)
    able = list(range(len(lists)))
    while able:
        stage = able.pop()
        while done[stage] < len(lists[stage]) and (stage, action := lists[stage][done[stage]]) in arrival:
            start_s = max(free_s[stage], arrival[stage, action])
            free_s[stage] = _run(durations, stage, action, start_s, arrival, events[stage])
            done[stage] += 1
            neighbour = stage + 1 if action.kind == "F" else stage - 1
            if 0 <= neighbour < len(lists):
                able.append(neighbour)
    assert all(d == len(a) for d, a in zip(done, lists, strict=True)), "the schedule waits for itself"
    return Timeline(events=tuple(e for stage_events in events for e in stage_events))


def _run(
    durations: Durations,
    stage: int,
    action: Action,
    start_s: float,
    arrival: dict[tuple[int, Action], float],
    events: list[Event],
) -> float:
    """Runs one action and its send; returns when the stage is free again."""
    forward = action.kind == "F"
    compute_s = (durations.forward_s if forward else durations.backward_s)[stage]
    send_s = (durations.send_forward_s if forward else durations.send_backward_s)[stage]
    end_s = start_s + compute_s
    events.append(Event(stage, action.kind, action.micro_batch, start_s, end_s))
    target = stage + 1 if forward else stage - 1
    if forward and target == durations.stages:
        arrival[stage, Action("B", action.micro_batch)] = end_s
        return end_s
    if target < 0:
        return end_s
    if send_s:
        events.append(Event(stage, "send", action.micro_batch, end_s, end_s + send_s))
    arrival[target, action] = end_s + send_s + durations.transit_s
    return end_s + send_s


def last_backward_s(
    forward_s: NDArray[np.float64],
    backward_s: NDArray[np.float64],
    micro_batches: int,
    schedule: str = "1f1b",
    transit_s: float = 0.0,
) -> NDArray[np.float64]:
    """When each stage has done its last action, without building events; equal to `timeline` to rounding.

    Args:
        forward_s: [..., stages], sends included; leading axes are independent cases.
        backward_s: likewise.
        micro_batches: of one step.
        schedule: `1f1b` or `fthenb`.
        transit_s: as in Durations.

    Returns:
        [..., stages].
    """
    if schedule == "fthenb":
        return _f_then_b(forward_s, backward_s, micro_batches, transit_s)
    assert schedule == "1f1b", schedule
    return _one_f_one_b(forward_s, backward_s, micro_batches, transit_s)


def _f_then_b(
    forward_s: NDArray[np.float64], backward_s: NDArray[np.float64], micro_batches: int, transit_s: float
) -> NDArray[np.float64]:
    """Both phases are flow shops of equal jobs: the last job ends after all stages once and the slowest m - 1 times."""
    stages = forward_s.shape[-1]
    turn_s = forward_s.sum(-1) + (micro_batches - 1) * forward_s.max(-1) + (stages - 1) * transit_s
    from_last = backward_s[..., ::-1]
    waits = np.arange(stages) * transit_s
    tail_s = from_last.cumsum(-1) + (micro_batches - 1) * np.maximum.accumulate(from_last, -1) + waits
    ends_s: NDArray[np.float64] = turn_s[..., None] + tail_s[..., ::-1]
    return ends_s


def _one_f_one_b(
    forward_s: NDArray[np.float64], backward_s: NDArray[np.float64], micro_batches: int, transit_s: float
) -> NDArray[np.float64]:
    """1F1B slot by slot: in slot t, stage s runs F of (t - s)/2 or B of (t - 2p + 1 + s)/2, whichever is whole.

    The slots respect every dependency, and all that a slot needs of the past is when each stage became free: its
    neighbour finished the very micro-batch it waits for in the slot before. Once a pair of slots moves every stage by
    the same time, all further ones do (the max-plus eigenvector is reached), so the rest of the steady state is added
    at once.
    """
    # stages first, and a stage at each end that nobody waits for, so that a slot is a few strided operations
    forward, backward = np.moveaxis(forward_s, -1, 0), np.moveaxis(backward_s, -1, 0)
    stages, m = len(forward), micro_batches
    free = np.full((stages + 2, *forward.shape[1:]), -np.inf)
    free[1:-1] = 0.0
    slot, last, steady_end = 0, 2 * (m + stages - 1), 2 * m
    while slot < last:
        before = free[1:-1].copy()
        for t in (slot, slot + 1):
            _slot(free, forward, backward, t, m, transit_s)
        steady, slot = 2 * stages <= slot - 2 and slot + 2 <= steady_end, slot + 2
        if steady:
            moved = free[1:-1] - before
            if np.all(np.abs(moved - moved[:1]) <= 1e-12 * free[1]):
                jumps = (steady_end - slot) // 2
                free[1:-1] += jumps * moved[:1]
                slot += 2 * jumps
    return np.moveaxis(free[1:-1], 0, -1)


def _slot(
    free: NDArray[np.float64],
    forward: NDArray[np.float64],
    backward: NDArray[np.float64],
    t: int,
    m: int,
    transit_s: float,
) -> None:
    """Moves `free` on by slot t: [stages + 2, ...] when each stage is free, arrays of durations stages first."""
    last = len(forward) - 1
    f, b = t - 2 * (m - 1), 2 * last + 1 - t
    first_f, end_f = (f if f > 0 else t % 2), min(t, last) + 1
    first_b, end_b = (b if b > 0 else (t + 1) % 2), min(b + 2 * (m - 1), last) + 1
    ran = free[first_f + 1 : end_f + 1 : 2], free[first_b + 1 : end_b + 1 : 2]
    sent = free[first_f:end_f:2] + transit_s, free[first_b + 2 : end_b + 2 : 2] + transit_s
    ended_f = np.maximum(ran[0], sent[0]) + forward[first_f:end_f:2]
    ended_b = np.maximum(ran[1], sent[1]) + backward[first_b:end_b:2]
    ran[0][...] = ended_f
    ran[1][...] = ended_b
