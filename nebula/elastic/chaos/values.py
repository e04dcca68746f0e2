"""Faults as values: what fails, where, when. Pure: randomness is an argument."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
    LINK = "link"
    PARTITION = "partition"
    CERTIFICATE = "certificate"
    TORN = "torn"
    CONTROLLER = "controller"

    @property
    def of_the_job(self) -> bool:
        """Whether no single node is the victim."""
        return self in (Kind.TORN, Kind.CONTROLLER)

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
    Kind.DATA: "a worker waits for its next data for ever",
    Kind.MEMORY: "a worker takes memory until the limit of its cgroup, or its own where no cgroup can be made",
    Kind.DISK: "a worker's files may not grow beyond 1 MiB, as on a full disk, for `seconds`, if given",
    Kind.NAN: "a worker's next gradient is no number",
    Kind.NODE: "an agent and its workers are killed together",
    Kind.LINE: "an agent does not reach the controller for `seconds`",
    Kind.LINK: "an agent's lines are slow (`delay`, `rate`) or lossy (`loss`), for `seconds`",
    Kind.PARTITION: "nothing leaves (`way: out`) or reaches (`way: in`) an agent, or neither, for `seconds`",
    Kind.CERTIFICATE: "the controller takes an agent's certificate for expired, for `seconds`",
    Kind.TORN: "the newest checkpoint on the disk loses bytes, and all nodes their copies in memory and their workers",
    Kind.CONTROLLER: "the controller is killed; something else has to start it again",
}
_LASTING = (Kind.SLOW, Kind.LINE, Kind.LINK, Kind.PARTITION, Kind.CERTIFICATE)


class Way(str, Enum):
    """Which way a partition cuts, as the node sees it."""

    BOTH = "both"
    OUT = "out"
    IN = "in"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What bytes on a node's lines to the controller and to other nodes meet.

    Attributes:
        delay_s: each way.
        bytes_per_s: of each line and way; 0: as many as there are.
        loss: share of pieces that have to be sent again, which holds up those behind them.
        out, into: whether bytes leave the node, and reach it.
    """

    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    loss: float = 0.0
    out: bool = True
    into: bool = True


FAIR = Weather()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One line of a schedule.

    Attributes:
        node: the victim's node, or `any`.
        at_s, at_step: when it happens, since the begin; one of them or `every_s` is given.
        every_s: mean of the times between two of a kind that comes again and again, as a Poisson process.
        seconds: how long it lasts; 0: until somebody does something about it.
        weather: of the lines, where they are the victim.
    """

    kind: Kind
    node: str = ANY
    at_s: float = -1.0
    at_step: int = -1
    every_s: float = 0.0
    seconds: float = 0.0
    weather: Weather = field(default=FAIR)

    def __post_init__(self) -> None:
        name, of_link = self.kind.value, (self.weather.delay_s, self.weather.bytes_per_s, self.weather.loss)
        given = (self.at_s >= 0) + (self.at_step >= 0) + (self.every_s > 0)
        if given != 1:
            raise BadInput(f"fault {name}: give one of at, at_step and every, not {given} of them")
        if self.kind in _LASTING and not self.seconds:
            raise BadInput(f"fault {name}: say for how long, such as `seconds: 5`")
        if self.kind.of_the_job and self.node != ANY:
            raise BadInput(f"fault {name}: it happens to the whole job: leave out `node: {self.node}`")
        if self.kind is Kind.LINK and not any(of_link):
            raise BadInput(
                f"fault {name}: say how bad the lines are, such as `delay: 100ms`, `rate: 1MB/s` or `loss: 0.05`"
            )
        if self.kind is not Kind.LINK and any(of_link):
            raise BadInput(f"fault {name}: delay, rate and loss go with `fault: link`")
        if (self.kind is Kind.PARTITION) != (not (self.weather.out and self.weather.into)):
            raise BadInput(f"fault {name}: `way` goes with `fault: partition`")


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
