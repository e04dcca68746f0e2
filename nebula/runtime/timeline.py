"""What one rank did in one step, as a file: forwards and backwards of micro-batches, the update, the device's log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from nebula.runtime.clock import Clock, Event
from nebula.runtime.forward_backward import Observer


class Span(NamedTuple):
    """A piece of a rank's step: `F` or `B` of a micro-batch, or `update` with micro-batch -1."""

    kind: str
    micro_batch: int
    start_s: float
    end_s: float


def observer(clock: Clock) -> Observer:
    """Puts begin and end of every forward and backward on the clock's log."""

    def mark(kind: str, micro_batch: int, moment: str) -> None:
        clock.mark(f"{kind} {micro_batch} {moment}")

    return mark


def spans(events: Iterable[Event]) -> list[Span]:
    """Pairs the marks `<kind> <micro-batch> begin` and `... end` of a log."""
    begun: dict[tuple[str, int], float] = {}
    found = []
    for event in events:
        words = event.name.split()
        if event.kind != "mark" or len(words) != 3:
            continue
        key = (words[0], int(words[1]))
        if words[2] == "begin":
            begun[key] = event.start_s
        elif key in begun:
            found.append(Span(*key, begun.pop(key), event.end_s))
    return found


def write(path: Path, *, origin_s: float, events: list[Event], facts: dict[str, Any]) -> None:
    """Writes a rank's step.

    Args:
        origin_s: the clock's time that becomes 0, the same for all ranks.
        facts: rank, stage, step, clock and whatever else a reader needs.
    """
    moved = [e._replace(start_s=e.start_s - origin_s, end_s=e.end_s - origin_s) for e in events]
    value = {
        **facts,
        "spans": [span._asdict() for span in spans(moved)],
        "events": [event._asdict() for event in moved if event.kind != "mark"],
    }
    path.write_text(json.dumps(value) + "\n")
