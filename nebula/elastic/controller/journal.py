"""What has happened to a job, in order: every decision with its reason, kept in the store and told to who follows."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice

KEPT, KEPT_BYTES = 10_000, 32 << 20
"""Events that stay in memory, and how long their texts may be together; the newest stays whatever its length."""
LINES, LINE_CHARACTERS = 60, 500
"""Of a log that an event keeps: its last lines, and of each the beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """An event.

    Attributes:
        number: from 1, without gaps.
        wall_s: seconds since 1970 by the controller's clock, never less than of the event before.
        kind: joined, failed, started, ...
        because: the sentence.
        last_lines: of the failing rank's log.
        seconds: what took how long, where something ended.
        phase, stepping, share, afresh: of the job after the event; see nebula.elastic.goodput.Moment.
        node, rank: whom it is about; empty and -1: nobody.
        trace: of the recovery that it is part of; empty: of none.
    """

    number: int
    wall_s: float
    epoch: int
    generation: int
    step: int
    kind: str
    because: str
    last_lines: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    phase: str = ""
    stepping: bool = False
    share: float = 1.0
    afresh: bool = False
    node: str = ""
    rank: int = -1
    trace: str = ""


class Journal:
    """The events of a job."""

    def __init__(self, write: Callable[[str, str], None], kept: Sequence[str] = ()) -> None:
        """Goes on after what the store has.

        Args:
            write: puts a text under a key.
            kept: texts of earlier events, in order.
        """
        self._write = write
        self._events: deque[tuple[Happened, int]] = deque()
        self._nbytes = 0
        for text in kept[-KEPT:]:
            self._keep(loads(text), len(text))
        self._changed = asyncio.Condition()

    @property
    def last(self) -> int:
        """The number of the newest event; 0 without one."""
        return self._events[-1][0].number if self._events else 0

    def add(self, event: Happened) -> None:
        """Keeps an event."""
        assert event.number == self.last + 1
        text = json.dumps(asdict(event))
        self._keep(event, len(text))
        self._write(key(event.number), text)

    def _keep(self, event: Happened, nbytes: int) -> None:
        """Has an event in memory, and the oldest go where they are too many."""
        self._events.append((event, nbytes))
        self._nbytes += nbytes
        while len(self._events) > KEPT or (self._nbytes > KEPT_BYTES and len(self._events) > 1):
            self._nbytes -= self._events.popleft()[1]

    async def tell(self) -> None:
        """Wakes those who follow."""
        async with self._changed:
            self._changed.notify_all()

    def after(self, number: int) -> list[Happened]:
        """The events after a number, as far as they are kept."""
        first = self._events[0][0].number if self._events else 0
        return [event for event, _ in islice(self._events, max(0, number + 1 - first), None)]

    async def follow(self, number: int) -> AsyncIterator[Happened]:
        """The events after a number, then those that come."""
        while True:
            for event in self.after(number):
                yield event
                number = event.number
            async with self._changed:
                while self.last <= number:
                    await self._changed.wait()


def key(number: int) -> str:
    """Where an event stands in the store; keys sort as their numbers do.

    >>> key(7)
    'event/0000000007'
    """
    return f"event/{number:010}"


def end_of_log(lines: Sequence[str]) -> tuple[str, ...]:
    """What an event keeps of a log, however much of it an agent sends.

    >>> [len(line) for line in end_of_log(["first"] + ["x" * 10_000] * LINES)] == [LINE_CHARACTERS] * LINES
    True
    """
    return tuple(line[:LINE_CHARACTERS] for line in lines[-LINES:])


def loads(text: str) -> Happened:
    """An event from its text."""
    plain = json.loads(text)
    return Happened(**{**plain, "last_lines": tuple(plain["last_lines"])})
