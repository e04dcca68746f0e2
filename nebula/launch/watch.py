"""Follows a launched command to its end and leaves no process behind, however it ends.

The launcher has a session of its own, so that Ctrl-C reaches this process alone. Paddle's launcher gives each rank one
too, so what belongs to a launch is known by a mark in its environment, also after the launcher itself is gone.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

import psutil

from nebula.errors import RunFailed
from nebula.launch.command import NodeCommand
from nebula.launch.logs import Follower, first_failure

MARK = "NEBULA_LAUNCH"
"""Environment variable that marks the processes of one launch."""

POLL_S = 0.2
GRACE_S = 15.0
"""How long processes may take to end after they were asked to."""


def watch(command: NodeCommand, env: Mapping[str, str], folder: Path, out: TextIO) -> int:
    """Runs a node's command to its end, with rank 0's output on `out`.

    Raises:
        RunFailed: the command ended with another code than 0.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; all processes have ended.
    """
    follower = Follower(folder / "workerlog.0", out)
    with (folder / "launcher.log").open("w") as log, _signals_interrupt():
        mark = uuid.uuid4().hex
        marked = {**env, MARK: mark}
        process = subprocess.Popen(
            command.words, env=marked, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None:
                follower.copy_new()
                time.sleep(POLL_S)
        finally:
            end(process, mark)
    follower.copy_new()
    if process.returncode:
        raise _failed(folder, out)
    return 0


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP act as Ctrl-C does; only a main thread may say so."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Ends a launcher and what it started, if they still run: asked first, then made to.

    A second Ctrl-C skips the asking.
    """
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # the launcher ends its ranks
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        left = members(mark)
        for member in left:
            with suppress(psutil.NoSuchProcess):
                member.terminate()
        psutil.wait_procs(left, timeout=GRACE_S)
    finally:
        for member in members(mark):
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


def members(mark: str) -> list[psutil.Process]:
    """The live processes that carry a launch's mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _failed(folder: Path, out: TextIO) -> RunFailed:
    failure = first_failure(folder, (folder / "launcher.log").read_text(errors="replace"))
    if failure.rank:  # what rank 0 said is on `out` already
        print(f"--- last lines of rank {failure.rank} ({failure.log})", *failure.last_lines, sep="\n", file=out)
    cause = failure.cause.removeprefix("nebula: ")
    ending = f" ({failure.ending})" if failure.ending else ""
    return RunFailed(f"rank {failure.rank} failed{ending}: {cause}; its log is {failure.log}")
