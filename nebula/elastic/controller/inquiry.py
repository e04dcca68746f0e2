"""A rank hangs: which one? All agents are asked how far their ranks are before one is blamed.

The first that is found silent may only be waiting for another. The rank that the others wait for is blamed once all
agents have answered, or after a short while, and its own agent tells of it, with its stacks. Where all go on by then
nobody is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nebula.elastic.policy.blame import SILENT_S, STILL, Silence, culprit, waits_for_told
from nebula.elastic.policy.values import Phase
from nebula.elastic.protocol import control_pb2 as wire
from nebula.runtime.progress import Section

if TYPE_CHECKING:
    from nebula.elastic.controller.brain import Brain

ANSWER_S, STACKS_S = 0.3, 1.0
"""How long all may take to say how far they are, and the blamed rank's agent to tell of it."""


class Inquiry:
    """At most one at a time; runs on the controller's event loop."""

    def __init__(self, brain: Brain, tell: Callable[[str, wire.Failed], None]) -> None:
        """Makes one that is not open.

        Args:
            tell: hears of the node and of the failure of the rank that is blamed.
        """
        self._brain, self._tell = brain, tell
        self._generation, self._seen_s, self._alarm_s = 0, 0.0, 0.0
        self._stand: dict[int, tuple[str, Silence]] = {}
        self._answered: set[str] = set()
        self._blamed: Silence | None = None

    def stand(self, node: str, standings: wire.Standings) -> None:
        """An agent says how far its ranks are: that one hangs, or because it was asked."""
        running = self._brain.state.phase is Phase.RUNNING and standings.generation == self._brain.state.generation
        if standings.hangs and running and self._generation != standings.generation:
            self._open(standings.generation, max((one.silent_s for one in standings.ranks), default=0.0))
        if standings.generation != self._generation:
            return
        if self._blamed:
            rank = self._blamed.rank
            if any(one.rank == rank and one.silent_s < STILL * SILENT_S for one in standings.ranks):
                self._generation, self._blamed = 0, None  # it goes on after all
            return
        self._stand |= {one.rank: (node, _silence(one)) for one in standings.ranks}
        self._answered.add(node)
        if self._answered >= self._asked():
            self._judge(self._generation)

    def failed(self, node: str, failed: wire.Failed) -> None:
        """An agent tells of the rank that is blamed, with its stacks."""
        if failed.generation == self._generation and self._blamed and failed.rank == self._blamed.rank:
            self._close(node, failed)

    def _open(self, generation: int, alarm_s: float) -> None:
        self._generation, self._seen_s, self._alarm_s = generation, time.time(), alarm_s
        self._stand, self._answered, self._blamed = {}, set(), None
        look = wire.Look(epoch=self._brain.lease.token, generation=generation)
        for node in self._asked():
            self._brain.crowd.lines[node].tell(wire.ToAgent(look=look))
        asyncio.get_running_loop().call_later(ANSWER_S, self._judge, generation)

    def _asked(self) -> set[str]:
        return {node for node in self._brain.state.members if node in self._brain.crowd.lines}

    def _judge(self, generation: int) -> None:
        """Blames one, and has its agent tell of it."""
        if generation != self._generation or self._blamed:
            return
        told = [one for _, one in self._stand.values()]
        blamed = culprit(told)
        went_on = blamed.silent_s < STILL * max(self._alarm_s, SILENT_S)
        if went_on or waits_for_told(blamed, told):  # agents ask again as long as it lasts
            self._generation = 0
            return
        self._blamed = blamed
        node, _ = self._stand[self._blamed.rank]
        accuse = wire.Accuse(epoch=self._brain.lease.token, generation=generation, rank=self._blamed.rank)
        if node in self._brain.crowd.lines:
            self._brain.crowd.lines[node].tell(wire.ToAgent(accuse=accuse))
        asyncio.get_running_loop().call_later(STACKS_S, self._without_stacks, generation)

    def _without_stacks(self, generation: int) -> None:
        """The blamed rank's agent has not told of it in time."""
        if generation == self._generation and self._blamed:
            rank, cause = self._blamed.rank, self._blamed.cause
            failed = wire.Failed(generation=generation, rank=rank, fault="hang", cause=cause, seen_s=self._seen_s)
            self._close(self._stand[rank][0], failed)

    def _close(self, node: str, failed: wire.Failed) -> None:
        """One failure is told, as seen when the first silence was."""
        self._generation, self._blamed = 0, None
        failed.seen_s = min(self._seen_s, failed.seen_s)
        self._tell(node, failed)


def _silence(one: wire.Standing) -> Silence:
    return Silence(
        rank=one.rank,
        step=one.step,
        section=Section(one.section),
        silent_s=one.silent_s,
        frozen=one.frozen,
        parked=one.parked,
    )
