"""Any schedule along its wavefronts: all actions that can run at the same time as one step of array arithmetic.

fronts.py says which actions those are; here real durations, whatever they are, flow through that order. Once a period
of the steady state moves everything that is still waited for by the same time, all further periods do (the max-plus
eigenvector is reached: Baccelli et al., Synchronization and Linearity, 1992, chapter 3), so they are added at once.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.fronts import Fronts, Program, program_of
from nebula.plan.action_orders import Shape

Floats: TypeAlias = NDArray[np.float64]

SAME = 1e-13
"""Two moves are one if they differ by less than this part of the time: what rounding leaves of equal ones."""

FEW = 40
"""Below so many actions of all cases in one front, plain numbers are faster than arrays."""

CASES = 256
"""Cases that run together, so that the fronts they look back to stay in the cache."""

SETTLED = 0.2
"""The part of the cases that must have reached their steady state before they are taken from those that run on."""


def wavefront(
    schedule: str, shape: Shape, durations_s: tuple[Floats, Floats, Floats], sends_s: tuple[Floats, Floats]
) -> Floats:
    """When each device has done all its actions and messages.

    Args:
        schedule: a name of the schedule language.
        shape: of the pipeline.
        durations_s: [..., virtual stages] of forwards, whole backwards and their weight gradients.
        sends_s: [..., virtual stages] what sending forward and backward takes beside compute.

    Returns:
        [..., devices].
    """
    forward_s, backward_s, weight_s, *sent = np.broadcast_arrays(*durations_s, *sends_s)
    cases = forward_s.shape[:-1]
    work = _below_each_other(forward_s, backward_s, backward_s - weight_s, weight_s, *sent)
    program = program_of(schedule, shape, messages=any(each.any() for each in sent))
    count = work.shape[1]
    if count * shape.devices < FEW:
        ends = np.array([_one(program, work[:, case]) for case in range(count)])
    else:
        blocks = [slice(first, first + CASES) for first in range(0, count, CASES)]
        ends = np.concatenate([_many(program, work[:, block]) for block in blocks], axis=1).T
    return ends.reshape(*cases, shape.devices)


def _below_each_other(*arrays: Floats) -> Floats:
    """Arrays [..., n] as rows, cases last: the durations as Fronts numbers them."""
    return np.concatenate([a.reshape(-1, a.shape[-1]).T for a in arrays])


def _one(program: Program, work: Floats) -> list[float]:
    """One case, number by number: [devices]."""
    history = program.history
    times = [0.0] * history
    _append(times, _rows(program.opening, work))
    steady = _rows(program.steady, work) if program.periods else []
    for left in range(program.periods - 1, -1, -1):
        before = times[-history:]
        _append(times, steady)
        now = times[-history:]
        moves = [now[row] - before[row] for row in program.waited]
        if max(moves) - min(moves) <= SAME * now[-1]:
            times = [time + left * moves[0] for time in now]
            break
    _append(times, _rows(program.closing, work))
    return [max(times[-back] for back in ends) for ends in program.last]


def _rows(fronts: Fronts, work: Floats) -> list[tuple[int, int, float]]:
    """Of each action and message how far back the two ends are that it waits for, and what it takes."""
    return list(zip(fronts.needed.tolist(), fronts.before.tolist(), work[fronts.duration].tolist(), strict=True))


def _append(times: list[float], rows: list[tuple[int, int, float]]) -> None:
    """Runs them behind the times that there are."""
    for needed, before, cost_s in rows:
        ready_s, free_s = times[-needed], times[-before]
        times.append((ready_s if ready_s > free_s else free_s) + cost_s)


def _many(program: Program, work: Floats) -> Floats:
    """Several cases, front by front: [devices, cases]."""
    window = _run(program.opening, np.zeros((program.history, work.shape[1])), work)[-program.history :]
    window = _steady(program, window, work)
    times = _run(program.closing, window, work)
    return np.stack([times[[-back for back in ends]].max(axis=0) for ends in program.last])


def _steady(program: Program, window: Floats, work: Floats) -> Floats:
    """The history after all periods; cases that have settled jump there, the others go on."""
    end, running = np.empty_like(window), np.arange(work.shape[1])
    for left in range(program.periods - 1, -1, -1):
        now = _run(program.steady, window, work)[-program.history :]
        moved = now[program.waited] - window[program.waited]
        window = now
        settled = (moved.max(0) - moved.min(0) <= SAME * now[-1]) if left else np.ones(len(running), dtype=bool)
        if settled.mean() < SETTLED:
            continue
        end[:, running[settled]] = window[:, settled] + left * moved[0, settled]
        running, window = running[~settled], window[:, ~settled]
        work = work[:, ~settled]
        if not len(running):
            break
    return end if program.periods else window


def _run(fronts: Fronts, window: Floats, work: Floats) -> Floats:
    """[history + rows, cases]: what came before, and the end of each action and message."""
    history, cases = window.shape
    times = np.empty((history + len(fronts.duration), cases))
    times[:history] = window
    costs = work.take(fronts.duration, 0)
    for start, end, looked in fronts.steps:
        ready, free = times.take(looked, 0).reshape(2, end - start, cases)
        np.maximum(ready, free, out=ready)
        np.add(ready, costs[start - history : end - history], out=times[start:end])
    return times
