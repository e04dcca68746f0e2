"""The wavefronts of a schedule: which actions can run at the same time, and what each of them waits for.

A front is the actions of one unit of time, at most one per device, if every action took one unit and messages none.
The order that this gives holds for any durations. From some front on the fronts repeat, so a step of many micro-batches
is an opening, one period many times, and a closing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nebula.plan.action_orders import Action, Shape
from nebula.plan.schedule import SCHEDULES, chain_length, period, shortened, virtual_stage_of

Ints: TypeAlias = NDArray[np.int64]

KINDS = "FBIW"
NOTHING = -1

LEAST_PERIOD = 24
"""A period is taken as many fronts long as this at least, so that comparing its ends costs little beside running it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fronts:
    """A stretch of fronts; one row for each action, the rows of a front beside each other.

    Attributes:
        steps: of each front its first row, the row after it, and the rows that its actions look at: where what each
            needs was made, then what each device did before. All are counted from the first row of the history.
        needed: [rows] how many rows back what the action needs was made.
        before: [rows] how many rows back the action before it on its device is.
        duration: [rows] which duration it takes: place in KINDS · virtual stages + virtual stage.
        lag: [rows] whose message it waits for: the sending virtual stage, for backwards + virtual stages; no message:
            2 · virtual stages.
    """

    steps: tuple[tuple[int, int, Ints], ...]
    needed: Ints
    before: Ints
    duration: Ints
    lag: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The fronts of a step.

    Attributes:
        opening: before the steady state; looks back to zeros.
        steady: one period of the steady state.
        periods: how often that is.
        closing: after it.
        history: how many rows before them `steady` and `closing` look back to.
        waited: those rows of the history that anything looks back to.
        last: [devices] how many rows before the end of `closing` each device did its last action.
    """

    opening: Fronts
    steady: Fronts
    periods: int
    closing: Fronts
    history: int
    waited: Ints
    last: tuple[int, ...]


def program_of(schedule: str, shape: Shape) -> Program:
    """The fronts of a schedule: worked out for the fewest micro-batches that show the steady state, then repeated."""
    repeats, turn = period(schedule, shape)
    unrolled = -(-LEAST_PERIOD // turn)
    repeats, turn, periods = repeats * unrolled, turn * unrolled, 2
    while True:
        short = shortened(shape, repeats, periods)
        program = _program(schedule, short, turn)
        if program.periods:
            return replace(program, periods=program.periods + (shape.micro_batches - short.micro_batches) // repeats)
        if short == shape:
            return program
        periods *= 2


class _Rows(NamedTuple):
    """All actions of a step in the order of fronts, one row each; the last four columns are those of Fronts."""

    front: Ints
    device: Ints
    needed: Ints
    before: Ints
    duration: Ints
    lag: Ints


@lru_cache(maxsize=256)
def _program(schedule: str, shape: Shape, turn: int) -> Program:
    """The fronts of a step, without a steady state where none of `turn` fronts is found."""
    rows = _rows(schedule, shape)
    starts = [0, *np.cumsum(np.bincount(rows.front)).tolist()]
    first, periods = _steady(rows, starts, turn)
    edges = (0, first, first + turn, first + turn * periods, -1) if periods else (0, -1, -1, -1, -1)
    cuts = [starts[edge] for edge in edges]
    last = tuple(int(len(rows.front) - np.flatnonzero(rows.device == d)[-1]) for d in range(shape.devices))
    closing_rows = cuts[4] - cuts[3]
    looked = [*_looked(rows, cuts[1], cuts[2]), *_looked(rows, cuts[3], cuts[4])]
    looked += [back - closing_rows for back in last if back > closing_rows]
    history = max([1, *looked])
    return Program(
        opening=_fronts(rows, cuts[0], cuts[1], history),
        steady=_fronts(rows, cuts[1], cuts[2], history),
        periods=periods,
        closing=_fronts(rows, cuts[3], cuts[4], history),
        history=history,
        waited=np.unique(history - np.array(looked, dtype=np.int64)),
        last=last,
    )


def _looked(rows: _Rows, start: int, end: int) -> list[int]:
    """How many rows before `start` the rows from there to `end` look back to, where they do."""
    own = np.arange(end - start)
    backs = np.concatenate([rows.needed[start:end] - own, rows.before[start:end] - own])
    found: list[int] = backs[backs > 0].tolist()
    return found


def _fronts(rows: _Rows, start: int, end: int, history: int) -> Fronts:
    """Some rows, whole fronts, as a stretch of their own."""
    needed, before = rows.needed[start:end], rows.before[start:end]
    own = np.arange(history, history + end - start)
    looked = np.stack([own - needed, own - before])
    edges = np.flatnonzero(np.diff(rows.front[start:end], prepend=NOTHING, append=NOTHING)).tolist()
    return Fronts(
        steps=tuple((history + a, history + b, looked[:, a:b].ravel()) for a, b in pairwise(edges)),
        needed=needed,
        before=before,
        duration=rows.duration[start:end],
        lag=rows.lag[start:end],
    )


def _steady(rows: _Rows, starts: Sequence[int], turn: int) -> tuple[int, int]:
    """The first front of the longest stretch in which fronts repeat after `turn`, and how many periods it has.

    The stretch is believed if what a period looks back to has repeated too: then the next period is the same again.
    """
    signs: dict[bytes, int] = {}
    columns = np.stack([rows.needed, rows.before, rows.duration, rows.lag], axis=1)
    fronts = np.array([signs.setdefault(columns[a:b].tobytes(), len(signs)) for a, b in pairwise(starts)])
    repeats = np.concatenate([[False], fronts[turn:] == fronts[:-turn], [False]]).astype(np.int8)
    begins, stops = np.flatnonzero(np.diff(repeats) == 1), np.flatnonzero(np.diff(repeats) == -1)
    if not len(begins):
        return 0, 0
    longest = int(np.argmax(stops - begins))
    first, stop = int(begins[longest]), int(stops[longest])
    looked = max([0, *_looked(rows, starts[first], starts[first + turn])])
    if starts[stop] - starts[first] < looked + starts[first + turn] - starts[first]:
        return 0, 0
    return first, (stop - first + turn) // turn


def _rows(schedule: str, shape: Shape) -> _Rows:
    """The rows of a step, by running it in units of time."""
    lists = [tuple(SCHEDULES[schedule].order(shape, device)) for device in range(shape.devices)]
    first = np.cumsum([0, *map(len, lists)])
    needed, lag, duration, front = _run(schedule, shape, lists, first.tolist())
    device = np.repeat(np.arange(shape.devices), np.diff(first))
    before = np.arange(len(device)) - 1
    before[first[:-1]] = NOTHING
    # who needs no message waits for the device alone; who is first on a device, for the message alone
    needed, before = np.where(needed == NOTHING, before, needed), np.where(before == NOTHING, needed, before)
    order = np.lexsort((device, front))
    row = np.empty(len(order) + 1, dtype=np.int64)
    row[order], row[NOTHING] = np.arange(len(order)), NOTHING
    needed, before = (np.arange(len(order)) - row[column[order]] for column in (needed, before))
    return _Rows(front[order], device[order], needed, before, duration[order], lag[order])


def _run(schedule: str, shape: Shape, lists: Sequence[Sequence[Action]], first: Sequence[int]) -> tuple[Ints, ...]:
    """Of all actions, device by device: which action it needs, the lag between, its duration, and its front."""
    stages, m = shape.devices * shape.chunks, shape.micro_batches
    duration, needs, makes, target, sent = _links(schedule, shape, lists)
    needed, lag, front = [NOTHING] * first[-1], [2 * stages] * first[-1], [0] * first[-1]
    made = [NOTHING] * (2 * stages * m)
    done, able = list(first[:-1]), list(range(shape.devices))
    while able:
        device = able.pop()
        last = front[done[device] - 1] if done[device] > first[device] else NOTHING
        for index in range(done[device], first[device + 1]):
            if needs[index] != NOTHING:
                source = made[needs[index]]
                if source == NOTHING:
                    break
                needed[index], lag[index] = source, sent[source]
                last = max(last, front[source])
            front[index] = last = last + 1
            done[device] += 1
            if makes[index] != NOTHING:
                made[makes[index]] = index
                able.append(target[index])
    assert done == list(first[1:]), f"{schedule} waits for itself"
    return tuple(np.array(column) for column in (needed, lag, duration, front))


def _links(schedule: str, shape: Shape, lists: Sequence[Sequence[Action]]) -> tuple[list[int], ...]:
    """Of all actions, device by device: its duration, the message it needs, the one it makes, for whom, with what lag.

    Messages are numbered by who waits for them: (backward, virtual stage, micro-batch).
    """
    stages, m, length = shape.devices * shape.chunks, shape.micro_batches, chain_length(schedule, *shape[:3:2])
    every = range(shape.chunks)
    held = np.array([[virtual_stage_of(schedule, d, c, shape.devices) for c in every] for d in range(shape.devices)])
    home = np.empty(stages + 2, dtype=np.int64)
    home[held] = np.arange(shape.devices)[:, None]
    kind, micro_batch, chunk = (np.array(column) for column in _columns(lists))
    device = np.repeat(np.arange(shape.devices), [len(own) for own in lists])
    stage = held[device, chunk]
    forward, weight = kind == KINDS.index("F"), kind == KINDS.index("W")
    first, last = stage % length == 0, (stage + 1) % length == 0
    onward, back = forward & ~last, ~forward & ~weight & ~first
    makes = np.select(
        [onward, forward, back],
        [(stage + 1) * m, (stages + stage) * m, (stages + stage - 1) * m],
        NOTHING - micro_batch,
    )
    needs = np.where(weight | (forward & first), NOTHING, (stage + np.where(forward, 0, stages)) * m + micro_batch)
    target = np.select([onward, back], [home[stage + 1], home[stage - 1]], device)
    sent = np.select([onward, back], [stage, stages + stage], 2 * stages)
    columns = (kind * stages + stage, needs, makes + micro_batch, target, sent)
    return tuple(column.tolist() for column in columns)


def _columns(lists: Sequence[Sequence[Action]]) -> Iterator[list[int]]:
    """Kind, by its place in KINDS, micro-batch and chunk of all actions, device by device."""
    place = {kind: index for index, kind in enumerate(KINDS)}
    yield [place[action[0]] for own in lists for action in own]
    yield [action[1] for own in lists for action in own]
    yield [action[2] for own in lists for action in own]
