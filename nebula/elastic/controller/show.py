"""What others may see of a controller: a window with metrics, and traces; nothing unless it was asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nebula.elastic.controller.watch import Watch, Watches
from nebula.elastic.telling import SILENT, Tell

if TYPE_CHECKING:
    from nebula.elastic.controller.brain import Brain
    from nebula.elastic.controller.tracing import Tracer
    from nebula.elastic.controller.window import Window


class Show:
    """Opened when a controller begins, closed when it ends."""

    def __init__(self, metrics: str = "", tracer: Tracer | None = None, say: Tell = SILENT) -> None:
        """Shows nothing yet.

        Args:
            metrics: HOST:PORT for metrics and health; empty: none.
        """
        self._metrics, self._tracer, self._say = metrics, tracer, say
        self._window: Window | None = None

    def open(self) -> None:
        """Opens the window; call it in the event loop that answers.

        Raises:
            BadInput: its port is taken.
        """
        if self._metrics:
            from nebula.elastic.controller.window import Window

            self._window = Window(self._metrics, asyncio.get_running_loop())
            host = self._metrics.rpartition(":")[0]
            self._say(f"/metrics, /healthz and /readyz are at http://{host}:{self._window.port}")

    def waits_for(self, holder: str) -> None:
        """Another controller leads."""
        if self._window:
            self._window.waits_for = holder

    def leads(self, brain: Brain) -> Watch:
        """This controller leads; who watches it."""
        watches: list[Watch] = [self._tracer] if self._tracer else []
        if self._window:
            from nebula.elastic.controller.metrics import Meter

            self._window.meter = Meter(brain)
            watches.append(self._window.meter)
        return Watches(watches)

    def close(self) -> None:
        """Closes the window and sends what is left of traces."""
        if self._window:
            self._window.close()
        if self._tracer:
            self._tracer.close()
