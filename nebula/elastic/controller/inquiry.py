"""A rank hangs: which one? All agents are asked how far their ranks are before one is blamed.

The first that is found silent may only be waiting for another. What its agent told is kept; the rank that the others
wait for is blamed once all have answered, or after a short while, and its own agent tells of it, with its stacks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nebula.elastic.policy.blame import Silence, culprit
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
        self._generation, self._seen_s = 0, 0.0
        self._told: dict[int, tuple[str, wire.Failed]] = {}
        self._stand: dict[int, tuple[str, Silence]] = {}
        self._answered: set[str] = set()
        self._blamed = -1

    def hangs(self, node: str, failed: wire.Failed) -> None:
        """An agent has found a rank silent."""
        if self._brain.state.phase is not Phase.RUNNING or failed.generation != self._brain.state.generation:
            return
        if self._generation != failed.generation:
            self._open(failed)
        self._told[failed.rank] = (node, failed)
        if failed.rank == self._blamed:
            self._close(node, failed)

    def stand(self, node: str, standings: wire.Standings) -> None:
        """An agent says how far its ranks are."""
        if standings.generation != self._generation or self._blamed >= 0:
            return
        for one in standings.ranks:
            section = Section(one.section)
            silence = Silence(rank=one.rank, step=one.step, section=section, silent_s=one.silent_s, frozen=one.frozen)
            self._stand[one.rank] = (node, silence)
        self._answered.add(node)
        if self._answered >= self._asked():
            self._judge(self._generation)

    def _open(self, failed: wire.Failed) -> None:
        self._generation, self._seen_s, self._blamed = failed.generation, failed.seen_s, -1
        self._told, self._stand, self._answered = {}, {}, set()
        look = wire.Look(epoch=self._brain.lease.token, generation=failed.generation)
        for node in self._asked():
            self._brain.crowd.lines[node].tell(wire.ToAgent(look=look))
        asyncio.get_running_loop().call_later(ANSWER_S, self._judge, failed.generation)

    def _asked(self) -> set[str]:
        return {node for node in self._brain.state.members if node in self._brain.crowd.lines}

    def _judge(self, generation: int) -> None:
        """Blames one; where nobody has answered, who was told of first."""
        if generation != self._generation or self._blamed >= 0:
            return
        self._blamed = culprit(one for _, one in self._stand.values()).rank if self._stand else next(iter(self._told))
        if self._blamed in self._told:
            self._close(*self._told[self._blamed])
            return
        node, _ = self._stand[self._blamed]
        accuse = wire.Accuse(epoch=self._brain.lease.token, generation=generation, rank=self._blamed)
        if node in self._brain.crowd.lines:
            self._brain.crowd.lines[node].tell(wire.ToAgent(accuse=accuse))
        asyncio.get_running_loop().call_later(STACKS_S, self._without_stacks, generation)

    def _without_stacks(self, generation: int) -> None:
        """The blamed rank's agent has not told of it in time."""
        if generation == self._generation and self._blamed in self._stand:
            node, one = self._stand[self._blamed]
            failed = wire.Failed(
                generation=generation, rank=one.rank, fault="hang", cause=one.cause, seen_s=time.time()
            )
            self._close(node, failed)

    def _close(self, node: str, failed: wire.Failed) -> None:
        """One failure is told, as seen when the first silence was."""
        told = wire.Failed()
        told.CopyFrom(failed)
        told.seen_s = min(self._seen_s, failed.seen_s)
        self._generation = 0
        self._tell(node, told)
