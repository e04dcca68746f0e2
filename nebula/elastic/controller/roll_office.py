"""The controller's side of a group of replicas: a stream for each member, and news of every change to all.

Runs on the controller's event loop. What counts is who is connected: a process that dies hangs up, within milliseconds
and whatever its agent says.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from nebula.elastic.policy import roll as policy
from nebula.elastic.protocol import misfit
from nebula.elastic.protocol import roll_pb2 as wire
from nebula.elastic.protocol.roll_pb2_grpc import RollServicer

Told = Callable[[policy.Roll, str], None]
"""Takes the roll after a change, and the sentence that says why; empty: nothing worth telling."""


@dataclass(eq=False, slots=True)
class _Line:
    """A member's stream; `None` in the outbox ends it."""

    number: int
    node: str
    outbox: asyncio.Queue[wire.MemberHears | None] = field(default_factory=asyncio.Queue)


class RollOffice(RollServicer):
    """Keeps the roll of one job.

    Args:
        token: by which members know each other.
        wanted: members that training waits for at first.
        gather_s: for how long, once one is there.
        told: of what changes.
        first_number: for a new member, above all that another controller may have given.
    """

    def __init__(self, *, token: bytes, wanted: int, gather_s: float, told: Told, first_number: int = 0) -> None:
        self.roll = policy.Roll(wanted=wanted, next_number=first_number)
        self._token, self._gather_s, self._told = token, gather_s, told
        self._lines: dict[int, _Line] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def Enrol(self, request_iterator: AsyncIterator[wire.MemberSays], context: Any) -> None:  # noqa: N802
        """A member's stream, for as long as it lives."""
        call = (await anext(request_iterator)).call
        refusal = misfit(call.protocol, f"a member on {call.node}")
        if refusal:
            await context.write(wire.MemberHears(number=wire.Number(refusal=refusal)))
            return
        number = call.number
        if not call.known:
            self.roll, number = policy.numbered(self.roll)
        await context.write(wire.MemberHears(number=wire.Number(number=number, token=self._token)))
        line = _Line(number, call.node)
        writing = asyncio.create_task(_write(line, context))
        reading = asyncio.create_task(self._read(line, request_iterator))
        try:
            await asyncio.wait({writing, reading}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, reading):
                task.cancel()
            self._gone(line)

    async def _read(self, line: _Line, messages: AsyncIterator[wire.MemberSays]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            async for message in messages:
                kind = message.WhichOneof("kind")
                if kind == "listening":
                    self._enrolled(line, message.listening)
                elif kind == "broken":
                    self._broken(line, message.broken)
                elif kind == "done":
                    self._become(policy.done(self.roll, line.number), "")
                elif kind == "settled":
                    self._become(*policy.settled(self.roll, message.settled.epoch))

    def _enrolled(self, line: _Line, listening: wire.Listening) -> None:
        if (there := self._lines.get(line.number)) is not None:
            there.outbox.put_nowait(None)
        self._lines[line.number] = line
        self.expect(max(self.roll.wanted, listening.members))
        member = policy.Member(node=line.node, address=listening.address, fresh=listening.fresh)
        roll, because = policy.enrolled(self.roll, line.number, member, listening.epoch)
        self._become(roll, because)
        if self.roll.begins:
            self._begin()
        elif self.roll.waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._gather_s, self._begin)

    def expect(self, members: int) -> None:
        """Has training wait for so many at first."""
        if self.roll.waiting:
            self.roll = replace(self.roll, wanted=members)

    def _begin(self) -> None:
        """Those who are there train."""
        if self.roll.waiting and self.roll.members:
            count = len(self.roll.members)
            self._become(policy.begun(self.roll), f"training goes on with {count} member{'s' * (count != 1)}")

    def _broken(self, line: _Line, broken: wire.Broken) -> None:
        roll = policy.broken(self.roll, broken.epoch)
        if roll.epoch != self.roll.epoch:
            self._become(roll, f"member {line.number} on {line.node} cannot reach others: {broken.why}")

    def _gone(self, line: _Line) -> None:
        if self._lines.get(line.number) is not line:
            return
        del self._lines[line.number]
        self._become(*policy.left(self.roll, line.number))

    def _become(self, roll: policy.Roll, because: str) -> None:
        """Another roll, of which all members hear if its epoch is another."""
        before, self.roll = self.roll, roll
        if roll != before:
            self._told(roll, because)
        if roll.epoch == before.epoch or roll.waiting:
            return
        told = wire.MemberHears(
            members=wire.AllMembers(
                epoch=roll.epoch,
                members=[
                    wire.OneMember(number=number, address=member.address, fresh=member.fresh)
                    for number, member in sorted(roll.members.items())
                ],
            )
        )
        for line in self._lines.values():
            line.outbox.put_nowait(told)


async def _write(line: _Line, context: Any) -> None:
    while (message := await line.outbox.get()) is not None:
        await context.write(message)
