"""What people ask a controller: how the job stands, what has happened, other bounds, a node to go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from nebula.elastic.authority import Identity
from nebula.elastic.chaos.values import FAIR, Weather
from nebula.elastic.protocol import VERSION
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.control_pb2_grpc import ControllerStub
from nebula.elastic.trust import Papers, check_partner, dial
from nebula.errors import BadInput, RunFailed

PATIENCE_S = 10.0
"""How long a controller may take to answer."""


class Client:
    """Talks to whichever of a job's controllers answers."""

    def __init__(self, addresses: str, identity: Identity | None) -> None:
        """Looks for a controller.

        Raises:
            RunFailed: none answers.
            BadInput: one is not trusted, or does not trust this side.
        """
        found: Callable[[str], grpc.Channel] = dial(Papers(identity) if identity else None, ())
        self.address = self._answering(addresses.split(","), identity)
        self._stub = ControllerStub(found(self.address))

    @staticmethod
    def _answering(addresses: list[str], identity: Identity | None) -> str:
        import socket

        why = ""
        for address in addresses:
            host, _, port = address.rpartition(":")
            try:
                if identity is not None:
                    check_partner(address, identity)
                else:
                    socket.create_connection((host, int(port)), 3).close()
            except OSError as error:
                why = f"{address}: {error.strerror or error}"
            else:
                return address
        raise RunFailed(f"no controller answers ({why}): is it running, and does it listen there?")

    def status(self) -> wire.StatusReply:
        """How the job stands."""
        with _plainly(self.address):
            reply: wire.StatusReply = self._stub.Status(wire.StatusRequest(protocol=VERSION), timeout=PATIENCE_S)
            return reply

    def events(self, *, after: int = 0, follow: bool = False) -> Iterator[wire.Event]:
        """What has happened; with `follow` also what happens, until the controller hangs up."""
        asked = wire.EventsRequest(protocol=VERSION, after=after, follow=follow)
        with _plainly(self.address):
            yield from self._stub.Events(asked, timeout=None if follow else PATIENCE_S)

    def scale(self, least: int, most: int) -> str:
        """Other bounds.

        Raises:
            BadInput: they cannot be.
        """
        return self._done(self._stub.Scale, wire.ScaleRequest(protocol=VERSION, least=least, most=most))

    def drain(self, node: str, because: str) -> str:
        """Has a node leave at the next step.

        Raises:
            BadInput: there is no such node.
        """
        return self._done(self._stub.Drain, wire.DrainRequest(protocol=VERSION, node=node, because=because))

    def inject(self, node: str, fault: str, *, seconds: float = 0.0, weather: Weather = FAIR) -> str:
        """Has something fail on purpose.

        Args:
            node: empty: the controller, or all nodes.

        Raises:
            BadInput: the controller does not allow it, or there is no such node.
        """
        asked = wire.InjectRequest(protocol=VERSION, node=node, fault=fault, seconds=seconds, weather=on_wire(weather))
        return self._done(self._stub.Inject, asked)

    def _done(self, call: Any, request: Any) -> str:
        with _plainly(self.address):
            answer: wire.Answer = call(request, timeout=PATIENCE_S)
        if not answer.done:
            raise BadInput(answer.sentence)
        return answer.sentence


def on_wire(weather: Weather) -> wire.Weather:
    """As a message."""
    return wire.Weather(
        delay_s=weather.delay_s,
        bytes_per_s=weather.bytes_per_s,
        loss=weather.loss,
        no_way_out=not weather.out,
        no_way_in=not weather.into,
    )


@contextmanager
def _plainly(address: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        code, details = error.code(), error.details()
        if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION):
            raise BadInput(f"{address}: {details}") from None
        raise RunFailed(f"the controller at {address} does not answer: {details}") from None
