"""What the controller answers over gRPC: sessions of agents, and the questions and wishes of people."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc

from nebula.elastic.authority import can_be_renewed
from nebula.elastic.chaos.values import Kind
from nebula.elastic.controller.brain import Brain
from nebula.elastic.controller.crowd import Line
from nebula.elastic.controller.journal import Happened
from nebula.elastic.policy import events
from nebula.elastic.policy.values import NodeState
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol import misfit
from nebula.elastic.protocol.control_pb2_grpc import ControllerServicer
from nebula.elastic.trust import Doorkeeper, OpenDoor
from nebula.errors import NebulaError


class Service(ControllerServicer):
    """Serves one brain, on its event loop."""

    def __init__(self, brain: Brain, holder: str, door: Doorkeeper | OpenDoor) -> None:
        self.brain, self.holder, self.door = brain, holder, door
        self._refused: dict[str, str] = {}

    async def Join(self, request_iterator: AsyncIterator[wire.FromAgent], context: Any) -> None:  # noqa: N802
        """An agent's session."""
        hello = (await anext(request_iterator)).hello
        refusal = self.door.refusal(context, hello.node) or misfit(
            hello.protocol, f"the agent of {hello.node or 'a node without a name'}"
        )
        line = None
        if not refusal:
            try:
                line = self.brain.attendance.joined(hello, lambda: self.door.refusal(context, hello.node))
            except NebulaError as error:
                refusal = str(error)
        if line is None:
            if self._refused.get(hello.node) != refusal:  # who may mend it asks again and again
                self.brain.note("refused", f"refused {hello.node}: {refusal}")
            self._refused[hello.node] = refusal
            told = wire.Refusal(sentence=refusal, passing=can_be_renewed(refusal))
            await context.write(wire.ToAgent(refusal=told))
            return
        self._refused.pop(hello.node, None)
        writing = asyncio.create_task(_write(line, context))
        reading = asyncio.create_task(self._read(hello.node, line, request_iterator))
        try:
            await asyncio.wait({writing, reading}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not writing.done():
                line.outbox.put_nowait(None)
                await asyncio.wait({writing}, timeout=1.0)
        finally:
            for task in (writing, reading):
                task.cancel()
            self.brain.attendance.gone(hello.node, line)

    async def _read(self, node: str, line: Line, messages: AsyncIterator[wire.FromAgent]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            async for message in messages:
                try:
                    self.brain.heard(node, line, message)
                except Exception as error:  # the next controller goes on from the store
                    self.brain.broken = error
                    self.brain.over.set()
                    raise

    async def Status(self, request: wire.StatusRequest, context: Any) -> wire.StatusReply:  # noqa: N802
        """How the job stands."""
        await self._admit(request.protocol, context)
        brain, state = self.brain, self.brain.state
        account, (_, most) = brain.account(), brain.crowd.steps(state.members, state.generation)
        return wire.StatusReply(
            job=brain.settings.name,
            phase=state.phase.value,
            epoch=brain.lease.token,
            generation=state.generation,
            step=max(most, state.step),
            restarts=state.restarts,
            why=state.why,
            least_nodes=state.bounds.least,
            most_nodes=state.bounds.most,
            split=brain.deeds.plan.split,
            step_s=brain.crowd.step_s(state.members),
            nodes=[self._node(name, node) for name, node in sorted(state.nodes.items())],
            controller=self.holder,
            account_s={category.value: spent_s for category, spent_s in account.seconds().items()},
            lost_steps=account.lost_steps,
        )

    def _node(self, name: str, node: NodeState) -> wire.NodeStatus:
        line, member = self.brain.crowd.lines.get(name), name in self.brain.state.members
        told = line.progress if line else wire.Progress()
        return wire.NodeStatus(
            node=name,
            state=node.word(member=member),
            slots=node.slots,
            step=told.least_step,
            warm=told.warm,
            detail=node.put_aside,
        )

    async def Events(self, request: wire.EventsRequest, context: Any) -> AsyncIterator[wire.Event]:  # noqa: N802
        """What has happened, and what happens."""
        await self._admit(request.protocol, context)
        if not request.follow:
            for event in self.brain.journal.after(request.after):
                yield on_wire(event)
            return
        async for event in self.brain.journal.follow(request.after):
            yield on_wire(event)

    async def Scale(self, request: wire.ScaleRequest, context: Any) -> wire.Answer:  # noqa: N802
        """Other bounds."""
        await self._admit(request.protocol, context)
        return self._asked(events.ScaleAsked(least=request.least, most=request.most), "scaled")

    async def Drain(self, request: wire.DrainRequest, context: Any) -> wire.Answer:  # noqa: N802
        """A node is to leave."""
        await self._admit(request.protocol, context)
        return self._asked(events.DrainAsked(node=request.node, cause=request.because or "somebody asked"), "drained")

    async def _admit(self, protocol: int, context: Any) -> None:
        refusal = self.door.refusal(context)
        if refusal:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)
        refusal = misfit(protocol, "this command")
        if refusal:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal)

    async def Inject(self, request: wire.InjectRequest, context: Any) -> wire.Answer:  # noqa: N802
        """Has something fail on purpose."""
        await self._admit(request.protocol, context)
        if not self.brain.settings.allows_faults:
            return wire.Answer(sentence="this controller was started without --allow-faults")
        if request.fault == Kind.CONTROLLER:
            os.kill(os.getpid(), signal.SIGKILL)
        if request.fault == Kind.TORN:
            try:
                return wire.Answer(done=True, sentence=self.brain.deeds.tear(request))
            except (NebulaError, OSError) as error:
                return wire.Answer(sentence=str(error))
        if request.node not in self.brain.crowd.lines:
            return wire.Answer(sentence=f"there is no node {request.node}")
        if request.fault == Kind.CERTIFICATE and not self.door.take_for_expired(request.node, request.seconds):
            return wire.Answer(sentence="this job runs without TLS: there are no certificates to expire")
        self.brain.deeds.inject(request)
        return wire.Answer(done=True, sentence=f"{request.node} was told")

    def _asked(self, event: events.Event, kind: str) -> wire.Answer:
        last = self.brain.journal.last
        self.brain.tell(event, kind)
        told = self.brain.journal.after(last)
        sentence = told[0].because if told else "the job is over"
        return wire.Answer(done=bool(told) and not sentence.startswith(("not ", "nothing ")), sentence=sentence)


def on_wire(event: Happened) -> wire.Event:
    """An event as a message."""
    return wire.Event(
        number=event.number,
        wall_s=event.wall_s,
        generation=event.generation,
        epoch=event.epoch,
        step=event.step,
        kind=event.kind,
        because=event.because,
        last_lines=event.last_lines,
        seconds=event.seconds,
        node=event.node,
        rank=event.rank,
        trace=event.trace,
    )


async def _write(line: Line, context: Any) -> None:
    """Tells an agent what there is to tell, until it is hung up on."""
    while (message := await line.outbox.get()) is not None:
        await context.write(message)
