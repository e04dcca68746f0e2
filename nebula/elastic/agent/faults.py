"""Does to this node's workers what a test asks for; nothing, unless the agent was started with --allow-faults.

What a worker does to itself it reads from a file beside its progress when it gets SIGUSR2.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Protocol

from nebula.elastic.agent.worker import Worker
from nebula.elastic.chaos.values import Kind, Weather
from nebula.elastic.protocol import control_pb2 as wire

SIGNALS = {Kind.KILL: signal.SIGKILL, Kind.TERM: signal.SIGTERM, Kind.SEGV: signal.SIGSEGV}
SLICE_S = 0.2
"""A slow worker is stopped and goes on in turns of so long."""


class Lines(Protocol):
    """The node's lines to the controller and to other nodes."""

    def cut(self, seconds: float) -> None:
        """Breaks the line to the controller and keeps it down for a while."""

    def weather(self, weather: Weather, seconds: float) -> None:
        """Has all of them meet that for a while."""


def inject(asked: wire.Inject, worker: Worker | None, lines: Lines, say: Callable[[str], None]) -> None:
    """Has a fault happen.

    Args:
        worker: the victim, where one is.
        say: receives how it is done, where there are several ways.
    """
    kind, seconds = Kind(asked.fault), asked.seconds
    if kind is Kind.NODE:
        os.kill(os.getpid(), signal.SIGKILL)  # the kernel kills the workers with it
    elif kind is Kind.LINE:
        lines.cut(seconds)
    elif kind in (Kind.LINK, Kind.PARTITION):
        lines.weather(of_wire(asked.weather), seconds)
    elif worker is not None:
        _to_worker(kind, worker, seconds, say)


def _to_worker(kind: Kind, worker: Worker, seconds: float, say: Callable[[str], None]) -> None:
    if kind in SIGNALS:
        worker.signal(SIGNALS[kind])
    elif kind is Kind.FREEZE:
        worker.signal(signal.SIGSTOP)
        if seconds:
            threading.Timer(seconds, worker.signal, [signal.SIGCONT]).start()
    elif kind is Kind.SLOW:
        threading.Thread(target=_slow, args=(worker, seconds), daemon=True).start()
    elif kind is Kind.MEMORY:
        why_not = worker.memory.confine()
        say(f"its memory is limited by {f'itself ({why_not})' if why_not else 'a cgroup of its own'}")
        _ask(worker, "memory", 0.0 if why_not else 1.0)
    elif kind is not Kind.CERTIFICATE:  # which the controller does
        _ask(worker, kind.value, seconds)


def _ask(worker: Worker, what: str, amount: float) -> None:
    """Has a worker do something to itself."""
    worker.fault_file.write_text(f"{what} {amount}")
    worker.signal(signal.SIGUSR2)


def of_wire(weather: wire.Weather) -> Weather:
    """From its message."""
    return Weather(
        delay_s=weather.delay_s,
        bytes_per_s=weather.bytes_per_s,
        loss=weather.loss,
        out=not weather.no_way_out,
        into=not weather.no_way_in,
    )


def _slow(worker: Worker, seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        for number in (signal.SIGSTOP, signal.SIGCONT):
            try:
                worker.signal(number)
            except OSError:
                return  # it has ended
            time.sleep(SLICE_S)
