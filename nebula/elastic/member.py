"""A member's line to the roll: it learns its number, says where it listens, and hears of every change.

A thread talks. While no controller answers the member goes on with those it knows; it calls again until one does, with
the number that it has.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from nebula.elastic.protocol import VERSION
from nebula.elastic.protocol import roll_pb2 as wire
from nebula.elastic.protocol.roll_pb2_grpc import RollStub
from nebula.errors import BadInput, RunFailed
from nebula.runtime.hosts import PATIENCE_S
from nebula.runtime.replicas.members import Members

RETRY_S = 0.2
LAST_WORDS_S = 3.0
"""How long a member that has done all steps waits for that to be heard."""


class RollLine:
    """Knows who is a member (nebula.runtime.replicas.members.Roll), and where members are (hosts.Directory).

    Args:
        addresses: of the job's controllers.
        dial: makes a channel to one.
        node: where this member runs.
    """

    def __init__(self, addresses: Sequence[str], dial: Callable[[str], grpc.Channel], node: str) -> None:
        self._addresses, self._dial, self._node = addresses, dial, node
        self._heard: Callable[[Members], None] = lambda _: None
        self._members = Members(epoch=0, addresses={})
        self._change, self._over = threading.Condition(), False
        self._number: int | None = None
        self._token, self._refusal = b"", ""
        self._listening, self._fresh = "", True
        self._outbox: queue.SimpleQueue[wire.MemberSays | None] = queue.SimpleQueue()
        self._call: grpc.Call | None = None
        self._thread = threading.Thread(target=self._run, name="roll", daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        """This member's, once a controller has given it.

        Raises:
            BadInput: the controller refuses this member.
        """
        self._until(lambda: self._number is not None or bool(self._refusal), "no controller has answered")
        if self._refusal:
            raise BadInput(f"the controller refuses this member: {self._refusal}")
        assert self._number is not None
        return self._number

    def token(self) -> bytes:
        """By which members know each other."""
        assert self.number >= 0
        return self._token

    def tell(self, rank: int, address: str) -> None:
        """Says where this member listens: from now on it is one."""
        assert rank == self._number
        with self._change:
            self._listening = address
        self._say(listening=self._where())

    def find(self, rank: int) -> str:
        """Where a member listens.

        Raises:
            RunFailed: it is none any longer.
        """
        address = self._members.addresses.get(rank)
        if address is None:
            raise RunFailed(f"member {rank} is none in epoch {self._members.epoch}")
        return address

    def now(self) -> Members:
        """The newest members that are known of here."""
        return self._members

    def wait(self, epoch: int) -> None:
        """Returns once that epoch, or a later one, is known of here."""
        self._until(lambda: self._members.epoch >= epoch, f"no controller told of epoch {epoch}")

    def broken(self, epoch: int, why: str) -> None:
        """Says that members of an epoch do not reach each other."""
        self._say(broken=wire.Broken(epoch=epoch, why=why))

    def settled(self, epoch: int) -> None:
        """Says that all members of an epoch have the state."""
        self._fresh = False
        self._say(settled=wire.Settled(epoch=epoch))

    def tell_changes(self, heard: Callable[[Members], None]) -> None:
        """Has a function hear of every new membership, from the thread that talks."""
        self._heard = heard

    def close(self) -> None:
        """Says that all steps are done, and hangs up; a thread left in gRPC would break the process's end."""
        self._over = True
        self._say(done=wire.Done())
        self._outbox.put(None)
        self._thread.join(LAST_WORDS_S)
        if self._thread.is_alive() and self._call is not None:
            self._call.cancel()
            self._thread.join(LAST_WORDS_S)

    def _until(self, done: Callable[[], bool], why: str) -> None:
        with self._change:
            if not self._change.wait_for(done, PATIENCE_S):
                raise RunFailed(f"{why} for {PATIENCE_S:.0f} s")

    def _where(self) -> wire.Listening:
        return wire.Listening(
            address=self._listening,
            fresh=self._fresh,
            epoch=self._members.epoch,
            members=len(self._members.addresses),
        )

    def _say(self, **kind: Any) -> None:
        self._outbox.put(wire.MemberSays(**kind))

    def _run(self) -> None:
        turn, pause = 0, threading.Event()
        while not self._over:
            self._talk(self._addresses[turn % len(self._addresses)])
            turn += 1
            pause.wait(RETRY_S)

    def _talk(self, address: str) -> None:
        """One stream, from the call to its end."""
        outbox: queue.SimpleQueue[wire.MemberSays | None] = queue.SimpleQueue()
        known = self._number is not None
        outbox.put(
            wire.MemberSays(call=wire.Call(protocol=VERSION, node=self._node, known=known, number=self._number or 0))
        )
        channel = self._dial(address)
        try:
            self._call = messages = RollStub(channel).Enrol(_until_none(outbox))
            for message in messages:
                if message.HasField("number"):
                    self._numbered(message.number, outbox)
                else:
                    self._told(message.members)
        except grpc.RpcError:
            pass  # it is called again
        finally:
            outbox.put(None)
            channel.close()

    def _numbered(self, number: wire.Number, outbox: queue.SimpleQueue[wire.MemberSays | None]) -> None:
        with self._change:
            self._number, self._token, self._refusal = number.number, number.token, number.refusal
            self._outbox = outbox
            if self._listening:
                outbox.put(wire.MemberSays(listening=self._where()))
            self._change.notify_all()

    def _told(self, told: wire.AllMembers) -> None:
        members = Members(
            epoch=told.epoch,
            addresses={one.number: one.address for one in told.members},
            fresh=frozenset(one.number for one in told.members if one.fresh),
        )
        with self._change:
            if members.epoch <= self._members.epoch:
                return
            self._members = members
            self._change.notify_all()
        self._heard(members)


def _until_none(outbox: queue.SimpleQueue[wire.MemberSays | None]) -> Iterator[wire.MemberSays]:
    while (message := outbox.get()) is not None:
        yield message
