"""The wavefronts of a schedule: which actions can run at the same time, and what each of them waits for.

A front is the actions of one unit of time, at most one per device, if every action took one unit and messages none;
messages that take time are fronts of their own, each behind the front that makes them.
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
    """A stretch of fronts; one row for each action or message, the rows of a front beside each other.

    Attributes:
        steps: of each front its first row, the row after it, and the rows that its rows look at: where what each
            needs was made, then what was before it. All are counted from the first row of the history.
        needed: [rows] how many rows back what it needs was made.
        before: [rows] how many rows back the action before it on its device is, or the message before it on its way.
        duration: [rows] which duration it takes: place in KINDS · virtual stages + virtual stage; behind these those of
            messages by the sending virtual stage, forward and then backward.
    """

    steps: tuple[tuple[int, int, Ints], ...]
    needed: Ints
    before: Ints
    duration: Ints


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
        last: [devices] how many rows before the end of `closing` its last action is, and its last message on each way.
    """

    opening: Fronts
    steady: Fronts
    periods: int
    closing: Fronts
    history: int
    waited: Ints
    last: tuple[tuple[int, ...], ...]


def program_of(schedule: str, shape: Shape, *, messages: bool = False) -> Program:
    """The fronts of a schedule: worked out for the fewest micro-batches that show the steady state, then repeated.

    Args:
        schedule: a name of the schedule language.
        shape: of the pipeline.
        messages: whether messages take time beside actions.
    """
    repeats, turn = period(schedule, shape)
    unrolled = -(-LEAST_PERIOD // turn)
    repeats, turn, periods = repeats * unrolled, turn * unrolled, 2
    while True:
        short = shortened(shape, repeats, periods)
        program = _program(schedule, short, turn, messages)
        if program.periods:
            return replace(program, periods=program.periods + (shape.micro_batches - short.micro_batches) // repeats)
        if short == shape:
            return program
        periods *= 2


class _Rows(NamedTuple):
    """All actions and messages of a step in the order of fronts, one row each; the last columns are those of Fronts.

    `lane` is a device of actions, and behind the devices a way of messages from one to another.
    """

    front: Ints
    lane: Ints
    device: Ints
    needed: Ints
    before: Ints
    duration: Ints


@lru_cache(maxsize=256)
def _program(schedule: str, shape: Shape, turn: int, messages: bool) -> Program:
    """The fronts of a step, without a steady state where none of `turn` units of time is found."""
    rows = _rows(schedule, shape, messages)
    turn *= 2 if messages else 1
    starts = [0, *np.cumsum(np.bincount(rows.front)).tolist()]
    first, periods = _steady(rows, starts, turn)
    edges = (0, first, first + turn, first + turn * periods, -1) if periods else (0, -1, -1, -1, -1)
    cuts = [starts[edge] for edge in edges]
    _, ends = np.unique(rows.lane[::-1], return_index=True)
    of = rows.device[::-1][ends]
    last = tuple(tuple((ends[of == d] + 1).tolist()) for d in range(shape.devices))
    closing_rows = cuts[4] - cuts[3]
    looked = [*_looked(rows, cuts[1], cuts[2]), *_looked(rows, cuts[3], cuts[4])]
    looked += [back - closing_rows for own in last for back in own if back > closing_rows]
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
    )


def _steady(rows: _Rows, starts: Sequence[int], turn: int) -> tuple[int, int]:
    """The first front of the longest stretch in which fronts repeat after `turn`, and how many periods it has.

    The stretch is believed if what a period looks back to has repeated too: then the next period is the same again.
    """
    signs: dict[bytes, int] = {}
    columns = np.stack([rows.needed, rows.before, rows.duration], axis=1)
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


def _rows(schedule: str, shape: Shape, messages: bool) -> _Rows:
    """The rows of a step, by running it in units of time."""
    lists = [tuple(SCHEDULES[schedule].order(shape, device)) for device in range(shape.devices)]
    first = np.cumsum([0, *map(len, lists)])
    needed, duration, front, target, sent = _run(schedule, shape, lists, first.tolist())
    device = np.repeat(np.arange(shape.devices), np.diff(first))
    before = np.arange(len(device)) - 1
    before[first[:-1]] = NOTHING
    lane = device
    if messages:
        sends, count = np.flatnonzero(sent != NOTHING), len(device)
        way = shape.devices * (1 + device[sends]) + target[sends]
        message = np.full(count + 1, NOTHING)
        message[sends] = count + np.arange(len(sends))
        needed = np.concatenate([np.where(needed == NOTHING, NOTHING, message[needed]), sends])
        # what is needed and sent by nobody is made on the device itself, by an action before
        before = np.concatenate([before, _one_before(way, count)])
        stages = shape.devices * shape.chunks
        duration = np.concatenate([duration, len(KINDS) * stages + sent[sends]])
        front = np.concatenate([2 * front, 2 * front[sends] + 1])
        lane, device = np.concatenate([device, way]), np.concatenate([device, device[sends]])
    # who needs no message waits for the device alone; who is first on a device, for the message alone
    needed, before = np.where(needed == NOTHING, before, needed), np.where(before == NOTHING, needed, before)
    order = np.lexsort((lane, front))
    row = np.empty(len(order) + 1, dtype=np.int64)
    row[order], row[NOTHING] = np.arange(len(order)), NOTHING
    needed, before = (np.arange(len(order)) - row[column[order]] for column in (needed, before))
    return _Rows(front[order], lane[order], device[order], needed, before, duration[order])


def _one_before(ways: Ints, count: int) -> Ints:
    """Of messages numbered from `count`, in order, the one before each on its way, or NOTHING."""
    found = np.full(len(ways), NOTHING)
    for way in np.unique(ways):
        own = np.flatnonzero(ways == way)
        found[own[1:]] = count + own[:-1]
    return found


def _run(schedule: str, shape: Shape, lists: Sequence[Sequence[Action]], first: Sequence[int]) -> tuple[Ints, ...]:
    """Of all actions, device by device: which it needs, its duration, its front, for whom it sends, and what."""
    stages, m = shape.devices * shape.chunks, shape.micro_batches
    duration, needs, makes, target, sent = _links(schedule, shape, lists)
    needed, front = [NOTHING] * first[-1], [0] * first[-1]
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
                needed[index] = source
                last = max(last, front[source])
            front[index] = last = last + 1
            done[device] += 1
            if makes[index] != NOTHING:
                made[makes[index]] = index
                able.append(target[index])
    assert done == list(first[1:]), f"{schedule} waits for itself"
    return tuple(np.array(column) for column in (needed, duration, front, target, sent))


def _links(schedule: str, shape: Shape, lists: Sequence[Sequence[Action]]) -> tuple[list[int], ...]:
    """Of all actions, device by device: its duration, the message it needs, the one it makes, for whom, and who sends.

    Messages are numbered by who waits for them: (backward, virtual stage, micro-batch). Who sends is the virtual stage,
    of backwards + virtual stages; NOTHING where what is made stays on the virtual stage.
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
    sent = np.select([onward, back], [stage, stages + stage], NOTHING)
    columns = (kind * stages + stage, needs, makes + micro_batch, target, sent)
    return tuple(column.tolist() for column in columns)


def _columns(lists: Sequence[Sequence[Action]]) -> Iterator[list[int]]:
    """Kind, by its place in KINDS, micro-batch and chunk of all actions, device by device."""
    place = {kind: index for index, kind in enumerate(KINDS)}
    yield [place[action[0]] for own in lists for action in own]
    yield [action[1] for own in lists for action in own]
    yield [action[2] for own in lists for action in own]
