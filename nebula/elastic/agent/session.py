"""The agent's line to the controller: one stream, taken up again whenever it breaks.

A thread of its own talks; what is heard goes to a function that must be quick and may be called from that thread. What
was on its way when the stream broke is lost: after the next Welcome the agent says again how it stands.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from nebula.elastic.agent.relay import Relay
from nebula.elastic.chaos.values import Weather
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.control_pb2_grpc import ControllerStub
from nebula.elastic.trust import Papers, check_partner
from nebula.errors import BadInput

RETRY_S = (0.05, 1.0)
"""The shortest pause between two attempts, and the longest."""
SHARE = 0.2
"""A pause is this part of the time that the line is down: who comes back is found soon, and a long absence is cheap."""

DEAF_S = 5.0
"""A controller that has not been heard for so long is called anew: what it says may be lost on the way."""

Dial = Callable[[str], grpc.Channel]


@dataclass(frozen=True, slots=True)
class Lost:
    """The line broke, or was never there; `why` in gRPC's words."""

    why: str


@dataclass(frozen=True, slots=True)
class Untrusted:
    """The controller, or this agent by it, is not trusted."""

    why: str


class Session:
    """Talks to whichever of the controllers answers."""

    def __init__(
        self,
        addresses: Sequence[str],
        dial: Dial,
        hello: Callable[[], wire.Hello],
        heard: Callable[[Any], None],
        papers: Papers | None = None,
        relay: Relay | None = None,
    ) -> None:
        """Makes a session that has not begun.

        Args:
            papers: by which the partners know each other; None: without TLS.
            relay: by which controllers are reached, so that the lines can be made bad on purpose.
        """
        self._addresses, self._dial, self._hello, self._heard = addresses, dial, hello, heard
        self._papers, self._relay = papers, relay
        self._used = papers.current() if papers else None
        self._outbox: queue.SimpleQueue[wire.FromAgent | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._heard_s = float("inf")
        self._down_until_s = 0.0
        self._call: grpc.Call | None = None
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)

    def start(self) -> None:
        """Begins to talk."""
        self._thread.start()

    def send(self, **kind: Any) -> None:
        """Sends a message of that kind, if the line is up: `send(failed=wire.Failed(...))`."""
        self._outbox.put(wire.FromAgent(**kind))

    def cut(self, seconds: float) -> None:
        """Breaks the line and keeps it down for a while, as a test asks for."""
        self._down_until_s = time.monotonic() + seconds
        self._outbox.put(None)

    def weather(self, weather: Weather, seconds: float) -> None:
        """Has all lines of this node meet that for a while, as a test asks for."""
        assert self._relay is not None, "faults are allowed, so that lines go through a relay"
        self._relay.set(weather, seconds)

    def look(self) -> None:
        """Hangs up where nothing was heard for too long."""
        call = self._call
        if call is not None and time.monotonic() - self._heard_s > DEAF_S:
            call.cancel()

    def renew(self) -> bool:
        """Hangs up where this node's certificate was renewed, to call again with the new one; whether it was."""
        if self._papers is None or self._papers.current() is self._used:
            return False
        self._used = self._papers.current()
        self._outbox.put(None)
        return True

    def close(self, patience_s: float = 1.0) -> None:
        """Says what is still to be said and hangs up; a thread left in gRPC would break the process's end."""
        self._over.set()
        self._outbox.put(None)
        self._thread.join(patience_s)
        call = self._call
        if self._thread.is_alive() and call is not None:
            call.cancel()
            self._thread.join(patience_s)

    def _run(self) -> None:
        broke_s, turn = time.monotonic(), 0
        while not self._over.is_set():
            self._over.wait(max(0.0, self._down_until_s - time.monotonic()))
            welcomed, why = self._talk(self._addresses[turn % len(self._addresses)])
            self._heard(Lost(why))
            if welcomed:
                broke_s = time.monotonic()
            turn += not welcomed
            self._over.wait(min(RETRY_S[1], max(RETRY_S[0], SHARE * (time.monotonic() - broke_s))))

    def _talk(self, address: str) -> tuple[bool, str]:
        """One stream from Hello to its end: whether there was a Welcome, and why it ended."""
        outbox: queue.SimpleQueue[wire.FromAgent | None] = queue.SimpleQueue()
        outbox.put(wire.FromAgent(hello=self._hello()))
        self._outbox, welcomed = outbox, False
        through = self._relay.through(address) if self._relay else address
        try:
            if self._papers is not None:
                self._used = self._papers.current()
                check_partner(address, self._used, through)
        except OSError as error:
            return False, f"{address}: {error.strerror or error}"
        except BadInput as error:
            self._heard(Untrusted(str(error)))
            return False, str(error)
        channel = self._dial(through)
        try:
            self._heard_s = time.monotonic()
            self._call = messages = ControllerStub(channel).Join(_until_none(outbox))
            for message in messages:
                self._heard_s = time.monotonic()
                welcomed = welcomed or message.HasField("welcome")
                if message.HasField("leave"):
                    self._over.set()
                self._heard(message)
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.CANCELLED and not self._over.is_set():
                return welcomed, f"nothing was heard for {DEAF_S:g} s"
            return welcomed, str(error.details() if isinstance(error, grpc.Call) else error)
        finally:
            self._call = None
            outbox.put(None)
            channel.close()
        return welcomed, "the controller hung up"


def _until_none(outbox: queue.SimpleQueue[wire.FromAgent | None]) -> Iterator[wire.FromAgent]:
    while (message := outbox.get()) is not None:
        yield message
