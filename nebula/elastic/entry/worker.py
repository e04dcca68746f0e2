"""The process of a worker: it imports what training needs, then waits for an order and runs the script of it.

So a new generation finds processes that have imported Paddle already. Until its order comes the process gives way to
all others; it ends when its agent does. An order is one line of JSON on its standard input (nebula.elastic.agent.worker
writes it): words, environment, folder, log.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import runpy
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

READY = b"R"
IMPORTS = (
    "paddle",
    "paddle.distributed.fleet",
    "nebula.runtime.trainer",
    "nebula.launch.training",
    "nebula.launch.emulated_clock",
)
"""What trainings import; a module that is not there is left to the script."""
_PR_SET_PDEATHSIG = 1


def main(ready: int, parent: int) -> None:
    """Waits for an order and carries it out.

    Args:
        ready: descriptor that is told when the imports are done.
        parent: the agent's process.
    """
    _end_with(parent)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    signal.signal(signal.SIGUSR2, _do_what_a_test_asks)
    for name in IMPORTS:
        with suppress(ImportError):
            import_module(name)
    os.write(ready, READY)
    os.close(ready)
    line = sys.stdin.readline()
    if not line:
        os._exit(0)  # the agent has no use for this process any longer
    order = json.loads(line)
    _wake_up()
    _write_to(order["log"])
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    script = order["words"][0]
    sys.argv[:] = order["words"]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name="__main__")


def _do_what_a_test_asks(*_: object) -> None:
    from nebula.elastic.entry.own_faults import asked

    asked(Path(f"{os.environ.get('NEBULA_PROGRESS', '')}.fault"))


def _end_with(parent: int) -> None:
    """Has the kernel kill this process when its agent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _wake_up() -> None:
    """Gives all threads of this process the usual priority."""
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):
            os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))


def _write_to(log: str) -> None:
    """Sends what the process says to its log."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
