"""What a controller shows on a port of its own machine, without TLS: metrics, whether it lives, whether it leads.

Requests come in threads and are answered by the controller's event loop; one that does not answer in time does not
live. Nothing here changes anything, and addresses of other machines are refused.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from nebula.elastic.controller.metrics import Meter
from nebula.errors import BadInput

PATIENCE_S = 2.0
"""For so long the event loop may take to answer."""
TEXT = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"

Answer = tuple[int, str, bytes]
"""Status, type and body."""


class Window:
    """Serves until it is closed.

    Attributes:
        meter: of the job, once this controller leads it.
        waits_for: who leads instead.
    """

    def __init__(self, listen: str, loop: asyncio.AbstractEventLoop) -> None:
        """Opens it.

        Raises:
            BadInput: the port is taken.
        """
        self.meter: Meter | None = None
        self.waits_for = "the store"
        self._loop = loop
        host, _, port = listen.rpartition(":")
        try:
            self._server = ThreadingHTTPServer((host, int(port)), _handler(self))
        except OSError as error:
            raise BadInput(f"--metrics {listen}: the address cannot be used ({error.strerror})") from None
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="window", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Closes it."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> Answer:
        """What stands under a path; called in a thread."""
        views: dict[str, Callable[[], Answer]] = {
            "/metrics": self._metrics,
            "/healthz": lambda: (200, TEXT, b"alive\n"),
            "/readyz": self._ready,
        }
        view = views.get(path)
        if view is None:
            return 404, TEXT, f"there are {', '.join(views)}\n".encode()
        try:
            return asyncio.run_coroutine_threadsafe(_soon(view), self._loop).result(PATIENCE_S)
        except TimeoutError:
            return 503, TEXT, f"the controller has not answered for {PATIENCE_S:g} s\n".encode()

    def _metrics(self) -> Answer:
        return (200, METRICS, self.meter.text()) if self.meter else self._ready()

    def _ready(self) -> Answer:
        if self.meter is None:
            return 503, TEXT, f"stands by: {self.waits_for} leads\n".encode()
        return 200, TEXT, f"{self.meter.brain.state.phase.value}: {self.meter.brain.state.why}\n".encode()


async def _soon(view: Callable[[], Answer]) -> Answer:
    return view()


def _handler(window: Window) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers GET and HEAD."""

        timeout = 10.0

        def do_GET(self) -> None:
            """A view."""
            status, kind, body = window.answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *words: Any) -> None:
            """Says nothing."""

    return Handler
