"""The controller's gRPC server, put up anew when its certificate was renewed: agents call again at once, workers go on.

A server that runs could ask for its certificate at every handshake instead; but where a hundred agents call at once,
gRPC (1.85) then breaks handshakes that are under way, and some servers never answered again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from nebula.elastic.trust import Papers, fixed_credentials
from nebula.errors import BadInput

OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
)
"""A partner that is gone without a word is noticed in about 3 s; a port belongs to one server."""
GRACE_S, AGAIN_S, TRIES = 0.5, 0.05, 40
"""For calls that end when the server does; between two tries to have the port again."""


class Front:
    """Serves at one address.

    Attributes:
        port: where it listens, once it does.
    """

    def __init__(self, services: Sequence[Callable[[Any], None]], listen: str, papers: Papers | None) -> None:
        """Makes one that does not listen yet.

        Args:
            services: each adds itself to a server.
            listen: HOST:PORT; port 0: any.
            papers: None: without TLS.
        """
        self._services, self._listen, self._papers = services, listen, papers
        self._used = papers.current() if papers else None
        self._server: Any = None
        self.port = 0

    async def open(self) -> None:
        """Begins to listen.

        Raises:
            BadInput: the address cannot be used.
        """
        self._used = self._papers.current() if self._papers else None
        self._server = grpc.aio.server(options=OPTIONS)
        for add in self._services:
            add(self._server)
        self.port = self._bind()
        await self._server.start()

    @property
    def outdated(self) -> bool:
        """Whether the certificate was renewed."""
        return self._papers is not None and self._papers.current() is not self._used

    async def open_again(self) -> None:
        """Hangs up and listens at the same address again, with the newest certificate.

        Raises:
            BadInput: the address was taken by another.
        """
        await self.close()
        self._listen = f"{self._listen.rpartition(':')[0]}:{self.port}"
        for left in reversed(range(TRIES)):
            try:
                await self.open()
                return
            except BadInput:
                if not left:
                    raise
            await asyncio.sleep(AGAIN_S)

    async def close(self, grace_s: float = GRACE_S) -> None:
        """Hangs up."""
        await self._server.stop(grace_s)

    def _bind(self) -> int:
        try:
            if self._used is None:
                return int(self._server.add_insecure_port(self._listen))
            return int(self._server.add_secure_port(self._listen, fixed_credentials(self._used)))
        except RuntimeError:
            told = "the address cannot be used; is another server on that port?"
            raise BadInput(f"--listen {self._listen}: {told}") from None
