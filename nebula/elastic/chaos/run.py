"""Carries a schedule of faults out against a running job, and says what came of each.

Faults go through the controller to the agent of the victim, so that the job may run anywhere; agents do them only where
they were started with --allow-faults. What came of a fault is read from the job's own events.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nebula.elastic.chaos.values import ANY, Fault, Kind, Schedule
from nebula.elastic.client import Client
from nebula.elastic.protocol import control_pb2 as wire
from nebula.errors import NebulaError, RunFailed

POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """A fault that was done; seconds since 1970.

    Attributes:
        refused: why it was not.
    """

    fault: Fault
    node: str
    wall_s: float
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a fault.

    Attributes:
        seen_s: until the controller's event; negative where none came.
        back_s: until all ranks stepped again; negative where they did not, or never stopped.
        lost_steps: that were done again.
        because: the controller's sentence.
    """

    injected: Injected
    seen_s: float = -1.0
    back_s: float = -1.0
    lost_steps: int = 0
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a schedule: `phase` is the job's at the end, `steps` were done meanwhile."""

    outcomes: Sequence[Outcome]
    phase: str
    steps: int
    seconds: float


def run(schedule: Schedule, client: Client, say: Callable[[str], None]) -> Result:
    """Does what a schedule says, until it is over or the job is.

    Raises:
        RunFailed: the controller does not answer, other than because a fault killed it.
    """
    rng, began_s, first = random.Random(schedule.seed), time.time(), client.status()
    timed, by_step = list(schedule.timed()), list(schedule.by_step())
    done: list[Injected] = []
    last = first
    seen_s = began_s
    while (now_s := time.time()) - began_s < schedule.lasts_s and last.phase not in ("done", "failed"):
        last, seen_s = _status(client, last, done, seen_s)
        due = [timed.pop(0)[1]] if timed and now_s - began_s >= timed[0][0] else []
        due += [by_step.pop(0)] if by_step and last.step >= by_step[0].at_step else []
        for fault in due:
            done.append(_inject(client, fault, last, rng))
            say(_told(done[-1]))
        if not (timed or by_step) and _all_over(client, done):
            break
        time.sleep(POLL_S)
    last, _ = _status(client, last, done, time.time())
    return Result(
        outcomes=outcomes(done, _events(client)),
        phase=last.phase,
        steps=last.step - first.step,
        seconds=time.time() - began_s,
    )


def outcomes(done: Sequence[Injected], events: Sequence[wire.Event]) -> list[Outcome]:
    """What came of each fault: the first failure that is told after it, and the first step after that."""
    found = []
    for number, one in enumerate(done):
        until_s = next((later.wall_s for later in done[number + 1 :] if not later.refused), float("inf"))
        after = [event for event in events if one.wall_s <= event.wall_s < until_s]
        seen = next((event for event in after if event.kind in _SEEN), None)
        back = next((event for event in after if event.kind == "stepping"), None)
        found.append(
            Outcome(
                injected=one,
                seen_s=seen.wall_s - one.wall_s if seen else -1.0,
                back_s=back.wall_s - one.wall_s if back else -1.0,
                lost_steps=int(back.seconds.get("lost_steps", 0)) if back else 0,
                because=one.refused or (seen.because if seen else "nothing was noticed"),
            )
        )
    return found


_SEEN = ("failed", "hang", "gone", "lost", "controller", "drained", "unsaved", "damaged", "refused")


def _told(one: Injected) -> str:
    where = f" on {one.node}" if one.node else ""
    return f"{one.fault.kind.value}{where}" + (f" was refused: {one.refused}" if one.refused else "")


def _inject(client: Client, fault: Fault, status: wire.StatusReply, rng: random.Random) -> Injected:
    members = sorted(one.node for one in status.nodes if one.state == "member")
    node = "" if fault.kind.of_the_job else fault.node
    if node == ANY:
        node = rng.choice(members) if members else ""
    began_s, refused = time.time(), ""
    try:
        client.inject(node, fault.kind.value, seconds=fault.seconds, weather=fault.weather)
    except RunFailed:
        refused = "" if fault.kind is Kind.CONTROLLER else "the controller does not answer"
    except NebulaError as error:
        refused = str(error)
    return Injected(fault=fault, node=node, wall_s=began_s, refused=refused)


def _status(
    client: Client, last: wire.StatusReply, done: Sequence[Injected], seen_s: float
) -> tuple[wire.StatusReply, float]:
    """How the job stands; as last known while a controller that was killed on purpose is away."""
    try:
        return client.status(), time.time()
    except RunFailed:
        killed = any(one.fault.kind is Kind.CONTROLLER for one in done)
        if last.phase == "running" and not killed and time.time() - seen_s > 5.0:
            raise
        return last, seen_s


def _events(client: Client) -> list[wire.Event]:
    try:
        return list(client.events())
    except RunFailed:
        return []


def _all_over(client: Client, done: Sequence[Injected]) -> bool:
    """Whether training goes on after the last fault."""
    waited = [one for one in done if not one.refused]
    found = outcomes(waited, _events(client))
    return bool(found) and found[-1].back_s >= 0
