"""What a worker does to itself when a test asks for it; called from a signal handler in its main thread."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Asked(Exception):
    """An exception that a test asked for."""


def do(kind: str) -> None:
    """Fails in that way."""
    print(f"a test asks this worker for: {kind}", flush=True)
    {
        "exit": _exit,
        "exception": _raise,
        "loop": _loop,
        "lock": _hold_the_lock,
        "data": _wait,
        "memory": _no_memory,
        "disk": _no_disk,
        "nan": _no_number,
    }[kind]()


def asked(path: Path) -> None:
    """Does what a file says, once."""
    try:
        kind = path.read_text()
        path.unlink()
    except OSError:
        return
    do(kind)


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


def _wait() -> None:
    time.sleep(1_000_000)


def _no_memory() -> None:
    """The process may get no more; what Python asks for next fails."""
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used, used))
    bytearray(1 << 30)


def _no_disk() -> None:
    """Files may not grow any longer."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _no_number() -> None:
    """The next gradient is NaN."""
    from nebula.runtime import finite

    finite.SPOILT.append("nan")
