"""What a worker does to itself when a test asks for it; called from a signal handler in its main thread.

What is to happen at a place of its step, a gradient or the wait for data, is left there for the step to take.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

ROOM_BYTES = 1 << 20
"""Of each file, on a disk that is full."""


class Asked(Exception):
    """An exception that a test asked for."""


def do(kind: str, amount: float) -> None:
    """Fails in that way; `amount` are seconds, or for memory whether a cgroup limits it."""
    print(f"a test asks this worker for: {kind}", flush=True)
    {
        "exit": _exit,
        "exception": _raise,
        "loop": _loop,
        "lock": _hold_the_lock,
        "data": _no_data,
        "memory": _take_memory if amount else _no_memory,
        "disk": lambda: _no_disk(amount),
        "nan": _no_number,
    }[kind]()


def asked(path: Path) -> None:
    """Does what a file says, once."""
    try:
        kind, _, amount = path.read_text().partition(" ")
        path.unlink()
    except OSError:
        return
    do(kind, float(amount))


def _exit() -> None:
    os._exit(1)


def _raise() -> None:
    raise Asked("a test asked for an exception")


def _loop() -> None:
    while True:
        pass


def _hold_the_lock() -> None:
    """No other thread of the process runs any longer: the call does not give the interpreter's lock up."""
    import ctypes

    ctypes.PyDLL(None).sleep(1_000_000)


def _no_data() -> None:
    """The next data do not come: wherever the signal has met it, the process waits once it is ready for them."""
    from nebula.runtime import progress

    progress.LATE.append(_wait)


def _wait() -> None:
    time.sleep(1_000_000)


def _no_memory() -> None:
    """The process may get no more; what Python asks for next fails."""
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used, used))
    bytearray(1 << 30)


def _take_memory() -> None:
    """Until the kernel ends it."""
    taken = []
    while True:
        taken.append(bytearray(b"x" * (8 << 20)))


def _no_disk(seconds: float) -> None:
    """Files do not grow beyond ROOM_BYTES any longer: those of a checkpoint are torn in the middle."""
    import resource
    import threading

    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, most))
    if seconds:
        timer = threading.Timer(seconds, resource.setrlimit, [resource.RLIMIT_FSIZE, (most, most)])
        timer.daemon = True
        timer.start()


def _no_number() -> None:
    """The next gradient is NaN."""
    from nebula.runtime import finite

    finite.SPOILT.append("nan")
