"""What the policy knows of a job and its nodes, what can happen to them, and what it can ask for.

A *generation* is one membership of the job: the nodes whose workers train together. Its number only rises; whatever
carries an older one is refused. Seconds are of one clock that the caller chooses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from nebula.elastic.policy.slow import Slowness
from nebula.errors import BadInput


class Phase(str, Enum):
    """What a job does: waits for nodes, trains, stops a generation, or has ended well or badly."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether nothing follows."""
        return self in (Phase.DONE, Phase.FAILED)


class Fault(str, Enum):
    """How a worker failed."""

    EXIT = "exit"
    HANG = "hang"
    MISTAKE = "mistake"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many nodes a job may have.

    Attributes:
        least, most: both included.
        unit: nodes that come and go together, such as the two ends of a cable; a membership is a multiple of it.
    """

    least: int
    most: int
    unit: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise BadInput(f"{self.least}:{self.most} nodes: write MIN:MAX with 1 <= MIN <= MAX")
        if self.unit < 1 or self.least % self.unit or self.most % self.unit:
            raise BadInput(f"{self.least}:{self.most} nodes are no multiples of a unit of {self.unit}")

    def usable(self, nodes: int) -> int:
        """The largest membership that so many nodes allow; 0 where they are too few.

        >>> Bounds(least=2, most=8, unit=2).usable(5)
        4
        """
        count = min(nodes, self.most) // self.unit * self.unit
        return count if count >= self.least else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How patient the policy is.

    Attributes:
        gather_s: for how long a job that could begin waits for further nodes.
        join_s: the same before a job that trains stops for one that has joined: each stop costs seconds.
        grace_s: for how long a node that is not heard of may come back before it counts as lost.
        controller_grace_s: the same after the controller itself was away.
        fruitless: failures in a row, without a step in between, after which the job fails.
        backoff_s: pause before the second fruitless attempt; it doubles with each further one, up to a minute.
        node_failures: a node that fails by so many more than the others within `window_s` is put aside, where enough
            others are left and its failures, `failure_s` each, cost more than its share of the work.
        slow_gain: a slow node is put aside where training gets so much faster without it.
        slowness: from when on a node counts as slow.
    """

    gather_s: float = 3.0
    join_s: float = 2.0
    grace_s: float = 1.0
    controller_grace_s: float = 10.0
    fruitless: int = 5
    backoff_s: float = 1.0
    node_failures: int = 3
    window_s: float = 600.0
    failure_s: float = 30.0
    slow_gain: float = 1.2
    slowness: Slowness = field(default_factory=Slowness)

    def pause_s(self, fruitless: int) -> float:
        """Before an attempt after so many fruitless ones.

        >>> [Limits().pause_s(n) for n in (0, 1, 2, 3, 20)]
        [0.0, 0.0, 1.0, 2.0, 60.0]
        """
        return 0.0 if fruitless < 2 else min(60.0, self.backoff_s * 2.0 ** (min(fruitless, 20) - 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """A node that has joined.

    Attributes:
        number: by which nodes are ordered; a node that comes back has the same.
        slots: workers that it can run.
        back_by_s: until when a node that is not heard of may come back; infinite while it is heard of.
        draining: it is asked to leave.
        put_aside: why it is not used any longer; empty while it may be.
        failures_s: when its workers failed.
    """

    number: int
    slots: int
    back_by_s: float = math.inf
    draining: bool = False
    put_aside: str = ""
    failures_s: tuple[float, ...] = ()

    @property
    def heard(self) -> bool:
        """Whether it is connected."""
        return self.back_by_s == math.inf

    @property
    def able(self) -> bool:
        """Whether a generation may begin on it."""
        return self.back_by_s == math.inf and not (self.draining or self.put_aside)

    def word(self, *, member: bool) -> str:
        """What it does: member, standby, away, draining or aside."""
        if not self.heard:
            return "away"
        if self.draining or self.put_aside:
            return "draining" if self.draining else "aside"
        return "member" if member else "standby"

    def failures_since(self, since_s: float) -> tuple[float, ...]:
        """Those after a time."""
        return tuple(at_s for at_s in self.failures_s if at_s > since_s)

    def lost(self, now_s: float) -> bool:
        """Whether its grace is over."""
        return now_s >= self.back_by_s


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """A job.

    Attributes:
        generation: of `members`; 0 before the first.
        members: nodes that train together, in the order of their ranks.
        nodes: every node that has joined and is not lost, by name.
        numbers: number of every node that ever joined.
        step: the most optimizer steps that all ranks of a generation have done.
        begun_at_step: `step` when the generation began.
        fruitless: failures in a row without a step in between.
        restarts: generations that ended with a failure.
        gather_until_s, not_before_s: until when to wait for further nodes, and with the next attempt.
        why: the sentence of the last decision that mattered.
        apart: the workers are replicas, which fail and join one by one.
        planless: memberships for which there was no plan, see `membership.label`.
    """

    bounds: Bounds
    apart: bool = False
    phase: Phase = Phase.WAITING
    generation: int = 0
    members: tuple[str, ...] = ()
    nodes: Mapping[str, NodeState] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    step: int = 0
    begun_at_step: int = 0
    fruitless: int = 0
    restarts: int = 0
    gather_until_s: float = math.inf
    not_before_s: float = 0.0
    why: str = ""
    planless: tuple[tuple[str, ...], ...] = ()

    def wake_s(self) -> float:
        """When the policy wants to be asked again, if nothing happens before; infinite: never."""
        if self.phase.over:
            return math.inf
        waits = [] if self.phase is Phase.STOPPING else [self.gather_until_s]
        waits += [self.not_before_s or math.inf] if self.phase is Phase.WAITING else []
        return min([*(node.back_by_s for node in self.nodes.values()), *waits], default=math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """End the workers of a generation; its members then answer, and the caller says Stopped.

    Attributes:
        at_boundary: let them finish a step and save it first.
        dump: have them write their stacks first.
        node: the one node whose workers are to end, which nobody answers for; empty: all.
    """

    generation: int
    at_boundary: bool = False
    dump: bool = False
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Begin a generation on these nodes, whose order is that of the ranks."""

    generation: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Begin one worker anew, whose others go on."""

    node: str
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Let a node go: its agent ends."""

    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The job is over; `failed` with the reason of the decision."""

    failed: bool


Action = Stop | Start | Again | Release | End


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The state after an event, what to do, and why in a sentence; without one nothing worth telling happened."""

    state: JobState
    actions: tuple[Action, ...] = ()
    because: str = ""
