"""A worker process as its agent sees it: a spare that waits for an order, or a rank of a generation.

Its end is seen through a pidfd, which a poll reports within milliseconds and which never means another process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nebula.elastic.agent.memory import MemoryWatch
from nebula.elastic.entry import worker as entry
from nebula.runtime.progress import VARIABLE, Watched

SHOWN_LINES = 15
"""Last lines of a log that go to the controller."""
STACK_LINES = 60
"""Of a rank that hangs, whose stacks were written there."""
_TAIL_BYTES = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a worker is to run.

    Attributes:
        rank: of the job.
        words: script and arguments.
        environment: beside that which the process was started with.
    """

    generation: int
    rank: int
    words: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path


class Worker:
    """A process that has been started; it runs nothing before `run`.

    Attributes:
        slot: of its node.
        memory: tells whether the kernel ended it for want of memory.
        pidfd: readable once the process has ended.
        order: None while it is a spare.
    """

    def __init__(self, slot: int, environment: Mapping[str, str], scratch: Path, *, idle: bool) -> None:
        """Starts a process that imports and waits.

        Args:
            environment: all of it, but for what an order adds.
            scratch: of the agent; receives progress and what the spare says.
            idle: whether it is to give way to all others.
        """
        self.slot = slot
        self.order: Order | None = None
        ready, tell = os.pipe()
        words = [sys.executable, "-m", entry.__name__, str(tell), str(os.getpid())]
        with (scratch / f"spare.{slot}.log").open("wb") as said:
            self.process = subprocess.Popen(
                words,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                pass_fds=[tell],
                start_new_session=True,
            )
        os.close(tell)
        if idle:
            with suppress(OSError):
                os.sched_setscheduler(self.process.pid, os.SCHED_IDLE, os.sched_param(0))
        self.pidfd = os.pidfd_open(self.process.pid)
        os.set_blocking(ready, False)
        self._ready, self._warm = ready, False
        self.watched = Watched(scratch / f"progress.{self.process.pid}")
        self._progress = scratch / f"progress.{self.process.pid}"
        self.ended_s = 0.0
        self.memory = MemoryWatch(self.process.pid)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    @property
    def fault_file(self) -> Path:
        """Where the process reads what it is to do to itself."""
        return self._progress.with_name(f"{self._progress.name}.fault")

    @property
    def warm(self) -> bool:
        """Whether its imports are done."""
        if not self._warm:
            with suppress(BlockingIOError):
                self._warm = os.read(self._ready, 1) == entry.READY
        return self._warm

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def run(self, order: Order) -> None:
        """Has a spare run a script as soon as its imports are done."""
        self.order = order
        if order.log.exists():
            order.log.replace(order.log.with_name(f"before.{order.log.name}"))
        order.log.write_bytes(b"")
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{self.pid}/task"):
                os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))
        document = {
            "words": list(order.words),
            "environment": {**order.environment, VARIABLE: str(self._progress)},
            "folder": str(order.folder),
            "log": str(order.log),
        }
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # its end is reported by its pidfd
            self.process.stdin.write(json.dumps(document).encode() + b"\n")
            self.process.stdin.close()

    def remarks(self) -> Iterator[tuple[Order, str, str]]:
        """What the rank has said in words since this was asked last, with its order: kind and sentence."""
        if self.order is not None:
            yield from ((self.order, *said) for said in self.watched.remarks())

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process, if it is there."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """Ends the process and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> int:
        """The exit code of a process that has ended (minus the signal that killed it), its descriptors closed."""
        code = self.process.wait()
        self.ended_s = time.time()
        os.close(self.pidfd)
        os.close(self._ready)
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        self._progress.unlink(missing_ok=True)
        self.watched.forget()
        self.memory.close()
        return code

    @property
    def frozen(self) -> bool:
        """Whether the process is stopped by a signal."""
        return _state(self.pid) in ("T", "t")

    @property
    def busy(self) -> bool:
        """Whether its main thread does not wait for anybody at this moment."""
        return is_busy(self.pid)

    @property
    def parked(self) -> bool:
        """Whether its main thread sleeps until another thread wakes it, as in a collective; not in a loop or a read."""
        waits_in = _waits_in(self.pid)
        return _state(self.pid) == "S" and (waits_in.startswith("futex") or waits_in in ("", "0"))

    def last_lines(self, count: int = SHOWN_LINES) -> list[str]:
        """The end of its log."""
        if self.order is None:
            return []
        try:
            with self.order.log.open("rb") as file:
                file.seek(max(0, self.order.log.stat().st_size - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-count:]


def ending(code: int) -> str:
    """How a process ended, in words.

    >>> ending(3), ending(-9)
    ('exited with code 3', 'was killed by SIGKILL')
    """
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def is_busy(pid: int) -> bool:
    """Whether a process's main thread computes, or would if there were a core for it, or sleeps for a while of its own.

    Who waits for another process or thread does neither. Kernels that do not tell where a process sleeps (wchan) show
    the former alone.
    """
    return _state(pid) == "R" or _waits_in(pid).endswith("nanosleep")


def _state(pid: int) -> str:
    """Of a process's main thread, as a letter."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _waits_in(pid: int) -> str:
    """The function of the kernel in which a process's main thread sleeps; empty or 0 where that is not told."""
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""
