"""Nodes that leave: when is each let go? Once nobody needs what it holds in memory.

Others need it while a generation begins; where none begins, what those who leave hold alone is written to the disk
first. Runs on the controller's event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from nebula.elastic.controller.restore import Copy, Restorable, newest
from nebula.elastic.controller.starts import sources_of
from nebula.elastic.policy.membership import listed
from nebula.elastic.policy.values import Phase
from nebula.elastic.protocol import control_pb2 as wire

if TYPE_CHECKING:
    from nebula.elastic.controller.brain import Brain

HOLD_S = 30.0
"""A node that leaves keeps its copies for the next generation until it steps, but no longer than this."""
RESCUE_S = 600.0
"""How long copies may take to be written to the disk."""


class Departures:
    """Who is to leave, and what is still to be done before.

    Attributes:
        safe_step: the newest step whose copies were written to the disk; -1: none.
    """

    def __init__(self, brain: Brain, let_go: Callable[[str], None]) -> None:
        """Makes departures of nobody.

        Args:
            let_go: tells a node that it may go.
        """
        self._brain, self._tell_to_go = brain, let_go
        self._leaving: set[str] = set()
        self._writer, self._writes = "", 0
        self.safe_step = -1

    def leave(self, node: str) -> None:
        """A node is to leave; others that leave with it are told in the same breath."""
        self._leaving.add(node)
        if self._is_settled():
            self._let_go(node)
            return
        asyncio.get_running_loop().call_soon(self._look)
        asyncio.get_running_loop().call_later(HOLD_S, self._held_long, node)

    def settled(self) -> None:
        """A generation steps, or nothing is left to be saved: nobody needs the copies of nodes that leave."""
        for node in sorted(self._leaving):
            self._let_go(node)

    def gone(self, node: str) -> None:
        """A node's line has ended: if it was writing, another has to."""
        self._leaving.discard(node)
        if node == self._writer:
            self._writer = ""
            self._look()

    def rescued(self, node: str, told: wire.Rescued) -> None:
        """What was held in memory is on the disk, or cannot be written."""
        if node != self._writer:
            return
        if told.cause:
            self._brain.note("unsaved", f"{node} could not write step {self._writes}: {told.cause}", node=node)
        else:
            self.safe_step = self._writes
            self._brain.note("saved", f"step {self._writes} is on the disk: {told.checkpoint}", node=node)
        self._written()

    def _look(self) -> None:
        """Where no generation begins, has what would be lost written, and then lets go who leaves."""
        brain = self._brain
        if not self._leaving or self._writer or brain.state.phase is not Phase.WAITING:
            return
        found = lost_without(brain.crowd.copies(), self._leaving)
        if found is None or found.step <= self.safe_step:
            self.settled()
        else:
            self._rescue(found)

    def _rescue(self, found: Restorable) -> None:
        """Has the node write that holds the most."""
        brain, held = self._brain, Counter(copy.node for copy in found.copies)
        self._writer, self._writes = max(sorted(held), key=held.__getitem__), found.step
        who = listed(sorted(self._leaving))
        told = f"step {found.step} goes to the disk before {who} may go: nobody who stays has it in memory"
        brain.note("saving", told, node=self._writer)
        rescue = wire.Rescue(
            epoch=brain.lease.token,
            generation=brain.state.generation,
            sources=sources_of(found, brain.crowd.lines),
        )
        brain.crowd.lines[self._writer].tell(wire.ToAgent(rescue=rescue))
        asyncio.get_running_loop().call_later(RESCUE_S, self._wrote_long, self._writer, found.step)

    def _wrote_long(self, writer: str, step: int) -> None:
        if (writer, step) == (self._writer, self._writes):
            self._brain.note("unsaved", f"{writer} has not written step {step} in {RESCUE_S:g} s", node=writer)
            self._written()

    def _written(self) -> None:
        """Nobody writes any longer; a generation that began meanwhile still needs the copies."""
        self._writer = ""
        if self._brain.state.phase is Phase.WAITING:
            self.settled()
            return
        for node in self._leaving:
            asyncio.get_running_loop().call_later(HOLD_S, self._held_long, node)

    def _held_long(self, node: str) -> None:
        """The generation that needs the copies takes long, or has failed before its first step."""
        if self._brain.state.phase is Phase.WAITING:
            self._look()
        elif not self._writer:
            self._let_go(node)

    def _is_settled(self) -> bool:
        brain = self._brain
        begins = brain.recovery is not None or brain.steps.beginning is not None
        return brain.state.phase is Phase.RUNNING and (brain.state.apart or not begins)  # replicas hold no copies

    def _let_go(self, node: str) -> None:
        if node in self._leaving:
            self._leaving.discard(node)
            self._tell_to_go(node)


def lost_without(copies: Iterable[Copy], leaving: Iterable[str]) -> Restorable | None:
    """The newest step in memory, if those who stay cannot take it up without those who leave. Pure."""
    there, without = list(copies), set(leaving)
    found = newest(there)
    left = newest(copy for copy in there if copy.node not in without)
    if found is None or (left is not None and left.step >= found.step):
        return None
    return found
