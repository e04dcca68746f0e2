"""What an agent answers to other agents: copies of the training's state, to fetch and to keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from nebula.elastic.agent.copies import Copies
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.control_pb2_grpc import PeerServicer
from nebula.elastic.trust import Doorkeeper, OpenDoor
from nebula.errors import NebulaError


class Peer(PeerServicer):
    """Serves the copies of a node."""

    def __init__(self, copies: Copies, door: Doorkeeper | OpenDoor) -> None:
        self._copies, self._door = copies, door

    def Fetch(self, request: wire.FetchRequest, context: Any) -> Iterator[wire.Chunk]:  # noqa: N802
        """A file in pieces."""
        self._admit(context)
        try:
            yield from self._copies.chunks(request.name)
        except NebulaError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))

    def Keep(self, request_iterator: Iterator[wire.Chunk], context: Any) -> wire.Answer:  # noqa: N802
        """Keeps a file."""
        self._admit(context)
        try:
            self._copies.keep(request_iterator)
        except NebulaError as error:
            context.abort(grpc.StatusCode.DATA_LOSS, str(error))
        return wire.Answer(done=True)

    def Swallow(self, request_iterator: Iterator[wire.Chunk], context: Any) -> wire.Answer:  # noqa: N802
        """Takes bytes and forgets them."""
        self._admit(context)
        for _ in request_iterator:
            pass
        return wire.Answer(done=True)

    def _admit(self, context: Any) -> None:
        refusal = self._door.refusal(context)
        if refusal:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)
