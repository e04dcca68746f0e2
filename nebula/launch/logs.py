"""What the processes of a launch say: rank 0's lines as they come, and why a rank failed."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

SHOWN_LINES = 15
"""Lines of a failed rank's log that a person sees."""


class Follower:
    """Copies what a file gains to a stream; the file may not exist yet."""

    def __init__(self, path: Path, out: TextIO) -> None:
        self.path, self.out, self.offset = path, out, 0

    def copy_new(self) -> None:
        """Copies what was written since the last call."""
        if not self.path.is_file():
            return
        with self.path.open(errors="replace") as file:
            file.seek(self.offset)
            text = file.read()
            self.offset = file.tell()
        if text:
            self.out.write(text)
            self.out.flush()


ERROR = re.compile(r"^nebula: |^[\w.]*(Error|Exception|Interrupt)(:|$)|^FatalError|out of memory", re.MULTILINE)
"""How a log says that its process failed."""
AFTER_A_PEER = re.compile(r"gloo|[Cc]onnection (closed|reset)|abort signal|Termination signal|CustomDevice error")
"""How it says so when another process failed first."""
SILENT = "it ended without a word"
KILLED = ", as when the system kills a process (out of host memory?)"
NAMED = re.compile(r"Container rank (\d+) status failed .* code (-?\d+) log")
"""How Paddle's launcher names a rank that failed, and its exit code (minus the signal that killed it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The rank that failed first.

    Attributes:
        log: its log, or the launcher's when it has none.
        last_lines: of that log.
        cause: the line that says what went wrong.
        ending: `exit 3` or `killed by SIGKILL`; empty when the launcher saw another rank fail.
    """

    rank: int
    log: Path
    last_lines: tuple[str, ...]
    cause: str
    ending: str


def first_failure(log_dir: Path, launcher_log: str) -> Failure:
    """The rank to blame.

    In this order: one that met an error of its own; one that says nothing, because it was killed; the one that Paddle's
    launcher names. Of several alike, the one whose exit code the launcher told. The others only lost a peer.
    """
    logs = {rank: path.read_text(errors="replace") for rank, path in worker_logs(log_dir)}
    own = [(rank, line) for rank, text in logs.items() for line in _errors(text) if not AFTER_A_PEER.search(line)]
    silent = [(rank, SILENT) for rank, text in logs.items() if not ERROR.search(text)]
    codes = {int(rank): int(code) for rank, code in NAMED.findall(launcher_log)}
    for found in (own, silent):
        found.sort(key=lambda one: one[0] not in codes)
    last = (_errors(launcher_log) or _lines(launcher_log) or [SILENT])[-1]
    rank, cause = (own + silent + [(next(iter(codes), 0), last)])[0]
    text = logs.get(rank, launcher_log)
    return Failure(
        rank=rank,
        log=log_dir / (f"workerlog.{rank}" if rank in logs else "launcher.log"),
        last_lines=tuple(_lines(text)[-SHOWN_LINES:]),
        cause=cause.strip() + (KILLED if cause == SILENT and rank not in codes else ""),
        ending=_ending(codes[rank]) if rank in codes else "",
    )


def _ending(code: int) -> str:
    """An exit code in words.

    >>> _ending(3), _ending(-9)
    ('exit 3', 'killed by SIGKILL, as by the system when host memory runs out')
    """
    if code >= 0:
        return f"exit {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (", as by the system when host memory runs out" if name == "SIGKILL" else "")


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _errors(text: str) -> list[str]:
    return [line for line in _lines(text) if ERROR.search(line)]


def worker_logs(log_dir: Path) -> Iterator[tuple[int, Path]]:
    """Local rank and log of each process that started."""
    paths = sorted(log_dir.glob("workerlog.*"), key=lambda path: int(path.suffix[1:]))
    return ((int(path.suffix[1:]), path) for path in paths)
