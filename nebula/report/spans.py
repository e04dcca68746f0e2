"""Timelines as the drawings and the Chrome trace want them: spans of work on lanes.

A lane is a stage in a prediction and a rank in a measurement; both kinds of timeline start at 0 seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nebula.cost_model.simulate import Event

WORDS = {
    "F": "forward",
    "B": "backward",
    "I": "backward of the inputs",
    "W": "backward of the weights",
    "send": "send",
    "sync": "gradient synchronisation",
    "update": "update",
}
COMMUNICATION = ("send", "sync")


class Span(NamedTuple):
    """Work on one lane.

    Attributes:
        thread: `compute` or `communication`.
        kind: as the simulator has it (`F`, `B`, `I`, `W`, `send`, `sync`, `update`); WORDS has the words for people.
        micro_batch: -1 where the work belongs to none.
    """

    lane: int
    thread: str
    kind: str
    micro_batch: int
    start_s: float
    end_s: float

    @property
    def words(self) -> str:
        """What it is, for people."""
        name = WORDS.get(self.kind, self.kind)
        return f"{name} of micro-batch {self.micro_batch}" if self.micro_batch >= 0 else name


def predicted_spans(events: Iterable[Event]) -> tuple[Span, ...]:
    """The simulator's events as spans on the lanes of their stages."""
    return tuple(Span(e.stage, thread_of(e.kind), e.kind, e.micro_batch, e.start_s, e.end_s) for e in events)


def thread_of(kind: str) -> str:
    """Whether a kind of event is compute or communication."""
    return "communication" if kind in COMMUNICATION else "compute"


def end_s(spans: Sequence[Span]) -> float:
    """When the last span ends."""
    return max((s.end_s for s in spans), default=0.0)


class Block(NamedTuple):
    """Neighbouring spans of one lane drawn as one: the kinds in it and how many spans."""

    kinds: frozenset[str]
    spans: int
    first: Span
    start_s: float
    end_s: float


def merged(spans: Sequence[Span], least_s: float) -> tuple[Block, ...]:
    """The spans of one lane in order of start, those too short to be seen joined to their neighbours.

    Three or more of one kind in a row stay a block of that kind, so that warm-up and drain of a pipeline are seen;
    kinds that alternate become one mixed block.

    Args:
        least_s: spans and gaps below it cannot be told apart in the drawing.
    """
    runs: list[list[Span]] = []
    for span in spans:
        if runs and runs[-1][-1].kind == span.kind and _close(runs[-1][-1], span, least_s):
            runs[-1].append(span)
        else:
            runs.append([span])
    blocks: list[Block] = []
    mixing = False
    for run in runs:
        short = len(run) < 3 and run[-1].end_s - run[-1].start_s < least_s
        if mixing and short and run[0].start_s - blocks[-1].end_s < least_s:
            last = blocks[-1]
            kinds = last.kinds | {run[0].kind}
            blocks[-1] = Block(kinds, last.spans + len(run), last.first, last.start_s, run[-1].end_s)
        else:
            blocks.append(Block(frozenset((run[0].kind,)), len(run), run[0], run[0].start_s, run[-1].end_s))
        mixing = short
    return tuple(blocks)


def _close(before: Span, after: Span, least_s: float) -> bool:
    """Whether two spans are both too short to be seen and nothing visible lies between them."""
    longest = max(before.end_s - before.start_s, after.end_s - after.start_s, after.start_s - before.end_s)
    return longest < least_s
