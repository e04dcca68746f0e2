"""Faults as values: what fails, where, when. Pure: randomness is an argument."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from nebula.errors import BadInput

ANY = "any"


class Kind(str, Enum):
    """What can fail on purpose.

    The first group is done to a worker from outside, the second by a worker to itself, the third to more than a worker.
    """

    KILL = "kill"
    TERM = "term"
    SEGV = "segv"
    FREEZE = "freeze"
    SLOW = "slow"

    EXIT = "exit"
    EXCEPTION = "exception"
    LOOP = "loop"
    LOCK = "lock"
    DATA = "data"
    MEMORY = "memory"
    DISK = "disk"
    NAN = "nan"

    NODE = "node"
    LINE = "line"
    CONTROLLER = "controller"

    @property
    def of_worker(self) -> bool:
        """Whether a worker is the victim."""
        return self not in (Kind.NODE, Kind.LINE, Kind.CONTROLLER)

    @property
    def from_within(self) -> bool:
        """Whether the worker does it to itself."""
        return self in (Kind.EXIT, Kind.EXCEPTION, Kind.LOOP, Kind.LOCK, Kind.DATA, Kind.MEMORY, Kind.DISK, Kind.NAN)

    @property
    def meaning(self) -> str:
        """In a sentence's words."""
        return _MEANING[self]


_MEANING = {
    Kind.KILL: "a worker gets SIGKILL",
    Kind.TERM: "a worker gets SIGTERM",
    Kind.SEGV: "a worker gets SIGSEGV",
    Kind.FREEZE: "a worker gets SIGSTOP, and SIGCONT after `seconds`, if given",
    Kind.SLOW: "a worker is stopped half of the time, for `seconds`",
    Kind.EXIT: "a worker ends itself with os._exit(1)",
    Kind.EXCEPTION: "a worker raises an exception",
    Kind.LOOP: "a worker loops for ever",
    Kind.LOCK: "a worker holds the interpreter's lock for ever",
    Kind.DATA: "a worker waits for data for ever",
    Kind.MEMORY: "a worker gets no more memory",
    Kind.DISK: "a worker may write no more to files, as on a full disk",
    Kind.NAN: "a worker's next gradient is no number",
    Kind.NODE: "an agent and its workers are killed together",
    Kind.LINE: "an agent does not reach the controller for `seconds`",
    Kind.CONTROLLER: "the controller is killed; something else has to start it again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One line of a schedule.

    Attributes:
        node: the victim's node, or `any`.
        at_s, at_step: when it happens, since the begin; one of them or `every_s` is given.
        every_s: mean of the times between two of a kind that comes again and again, as a Poisson process.
        seconds: how long it lasts; 0: until somebody does something about it.
    """

    kind: Kind
    node: str = ANY
    at_s: float = -1.0
    at_step: int = -1
    every_s: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        given = (self.at_s >= 0) + (self.at_step >= 0) + (self.every_s > 0)
        if given != 1:
            raise BadInput(f"fault {self.kind.value}: give one of at, at_step and every, not {given} of them")
        if self.kind in (Kind.SLOW, Kind.LINE) and not self.seconds:
            raise BadInput(f"fault {self.kind.value}: say for how long, such as `seconds: 5`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What fails in a test.

    Attributes:
        lasts_s: how long it runs.
        seed: of all that is drawn.
    """

    faults: tuple[Fault, ...]
    lasts_s: float
    seed: int = 0

    def timed(self) -> Sequence[tuple[float, Fault]]:
        """All faults that come at a time, in order; those that come again and again are drawn."""
        rng = random.Random(self.seed)
        found = [(fault.at_s, fault) for fault in self.faults if fault.at_s >= 0]
        for fault in self.faults:
            found += [(at_s, fault) for at_s in _poisson(fault.every_s, self.lasts_s, rng)]
        return sorted(found, key=lambda one: one[0])

    def by_step(self) -> Sequence[Fault]:
        """Those that come at a step, in order."""
        return sorted((fault for fault in self.faults if fault.at_step >= 0), key=lambda fault: fault.at_step)


def _poisson(mean_s: float, until_s: float, rng: random.Random) -> Iterator[float]:
    """Times of a Poisson process."""
    at_s = rng.expovariate(1 / mean_s) if mean_s > 0 else until_s
    while at_s < until_s:
        yield at_s
        at_s += rng.expovariate(1 / mean_s)
