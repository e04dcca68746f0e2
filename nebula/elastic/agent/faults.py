"""Does to this node's workers what a test asks for; nothing, unless the agent was started with --allow-faults.

What a worker does to itself it reads from a file beside its progress when it gets SIGUSR2.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from nebula.elastic.agent.worker import Worker
from nebula.elastic.chaos.values import Kind

SIGNALS = {Kind.KILL: signal.SIGKILL, Kind.TERM: signal.SIGTERM, Kind.SEGV: signal.SIGSEGV}
SLICE_S = 0.2
"""A slow worker is stopped and goes on in turns of so long."""


def inject(kind: Kind, worker: Worker | None, seconds: float, cut: Callable[[float], None]) -> None:
    """Has a fault happen.

    Args:
        worker: the victim, where one is.
        cut: cuts the line to the controller for some seconds.
    """
    if kind is Kind.NODE:
        os.kill(os.getpid(), signal.SIGKILL)  # the kernel kills the workers with it
    elif kind is Kind.LINE:
        cut(seconds)
    elif worker is None:
        return
    elif kind in SIGNALS:
        worker.signal(SIGNALS[kind])
    elif kind is Kind.FREEZE:
        worker.signal(signal.SIGSTOP)
        if seconds:
            threading.Timer(seconds, worker.signal, [signal.SIGCONT]).start()
    elif kind is Kind.SLOW:
        threading.Thread(target=_slow, args=(worker, seconds), daemon=True).start()
    else:
        worker.fault_file.write_text(kind.value)
        worker.signal(signal.SIGUSR2)


def _slow(worker: Worker, seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        for number in (signal.SIGSTOP, signal.SIGCONT):
            try:
                worker.signal(number)
            except OSError:
                return  # it has ended
            time.sleep(SLICE_S)
