"""Who is there: agents that come, that are gone, that say nothing any longer, or that are not trusted any longer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from nebula.elastic.authority import can_be_renewed
from nebula.elastic.controller.admission import Admission
from nebula.elastic.controller.crowd import Line
from nebula.elastic.policy import events
from nebula.elastic.policy.fitness import Unfit
from nebula.elastic.protocol import VERSION
from nebula.elastic.protocol import control_pb2 as wire
from nebula.errors import BadInput

if TYPE_CHECKING:
    from nebula.elastic.controller.brain import Brain

SEATS = "seats"
"""Key of the store: which node of the cluster each node stands for."""
SKEW_S = 60.0
"""A node's clock may differ from the controller's by so much before a warning is given."""
LATE_S = 0.5
"""A controller that looks later than this was away itself, so that nobody can be blamed for that time."""


class Attendance:
    """Takes agents in and notices that they are gone; runs on the controller's event loop."""

    def __init__(self, brain: Brain) -> None:
        """Reads the seats from the store."""
        self._brain = brain
        self._seats: dict[str, str] = json.loads(brain.stored(SEATS) or "{}")
        self._admission = Admission(brain.settings.limits.slowness)
        self._look_s = 0.0

    def seats(self, nodes: Iterable[str]) -> list[str]:
        """For which nodes of the cluster some stand."""
        return [self._seats[node] for node in nodes]

    def joined(self, hello: wire.Hello, refusal: Callable[[], str]) -> Line:
        """Takes an agent in.

        Args:
            refusal: tells later on whether it is still trusted.

        Raises:
            BadInput: it cannot be used; the sentence goes to it.
        """
        brain = self._brain
        there = brain.crowd.lines.get(hello.node)
        self._check(hello, there)
        self._sit_down(hello)
        if there is not None:
            there.outbox.put_nowait(None)
        line = Line(hello=hello, heard_s=time.monotonic(), refusal=refusal)
        line.holds(hello.copies)
        brain.crowd.lines[hello.node] = line
        line.tell(wire.ToAgent(welcome=self._welcome()))
        skew_s = hello.wall_s - time.time()
        if abs(skew_s) > SKEW_S:
            brain.note("clock", f"the clock of {hello.node} is {skew_s:+.0f} s off: set it, or certificates will fail")
        brain.tell(events.Joined(node=hello.node, slots=hello.slots, generation=hello.generation), "joined")
        if hello.HasField("fitness"):
            self._try(hello, line)
        brain.deeds.joined(hello.node, line)
        return line

    def gone(self, node: str, line: Line) -> None:
        """Notices that an agent's line has ended."""
        if self._brain.crowd.lines.get(node) is not line:
            return
        del self._brain.crowd.lines[node]
        self._admission.left(node)
        line.outbox.put_nowait(None)
        if self._brain.over.is_set():
            return
        self._brain.tell(events.Gone(node=node), "gone")
        self._brain.deeds.stopped(node)
        self._brain.deeds.departures.gone(node)

    def probed(self, node: str, probed: wire.Probed) -> None:
        """A node has tried its ways to others."""
        self._unfit(self._admission.probed(node, probed))

    def watch(self) -> None:
        """Tells agents that the way to them is there, cuts off who says nothing or is not trusted; again and again."""
        brain, now_s = self._brain, time.monotonic()
        every_s = brain.settings.silence_s / 4
        late_s = now_s - self._look_s - every_s if self._look_s else 0.0
        self._look_s = now_s
        if late_s > LATE_S:
            brain.crowd.forgive(late_s)
        for node in brain.crowd.silent(now_s - brain.settings.silence_s):
            self.gone(node, brain.crowd.lines[node])
        beat = wire.ToAgent(beat=wire.Beat(epoch=brain.lease.token))
        for node, line in list(brain.crowd.lines.items()):
            line.tell(beat)
            if why := line.refusal():
                line.tell(wire.ToAgent(refusal=wire.Refusal(sentence=why, passing=can_be_renewed(why))))
                brain.note("refused", f"{node} is turned away: {why}")
                self.gone(node, line)
        asyncio.get_running_loop().call_later(every_s, self.watch)

    def _check(self, hello: wire.Hello, there: Line | None) -> None:
        if there is not None and there.hello.instance != hello.instance:
            raise BadInput(f"another agent is connected as {hello.node}: give each node a name of its own with --name")
        epoch = self._brain.lease.token
        if hello.epoch > epoch:
            raise BadInput(f"it has seen epoch {hello.epoch}, this controller has {epoch}: it is a stale one")

    def _sit_down(self, hello: wire.Hello) -> None:
        """Gives a node its seat: the one that it had, or a free one."""
        known = self._brain.state.nodes
        taken = {node: seat for node, seat in self._seats.items() if node == hello.node or node in known}
        seats = {**taken, hello.node: self._brain.plans.seat(hello.node, hello.slots, taken)}
        if seats != self._seats:
            self._seats = seats
            self._brain.write_soon(SEATS, lambda: json.dumps(self._seats))

    def _welcome(self) -> wire.Welcome:
        settings = self._brain.settings
        return wire.Welcome(
            protocol=VERSION,
            epoch=self._brain.lease.token,
            job=settings.name,
            heartbeat_s=settings.pace_s,
            environment=settings.environment,
            memory_every=settings.memory_every,
        )

    def _try(self, hello: wire.Hello, line: Line) -> None:
        """Judges what a node measured of itself, and has it measure its ways to others."""
        self._unfit(self._admission.joined(hello))
        addresses = {name: there.peer for name, there in self._brain.crowd.lines.items()}
        if peers := self._admission.peers(hello.node, addresses):
            line.tell(wire.ToAgent(probe=wire.Probe(epoch=self._brain.lease.token, peers=peers)))

    def _unfit(self, found: Iterable[Unfit]) -> None:
        """Tells the policy of nodes that were found unfit."""
        for one in found:
            self._brain.tell(events.Slow(node=one.node, factor=one.factor, cause=one.because), "slow")
