"""What the processes of a launch say: rank 0's lines as they come, and why a rank failed."""

from __future__ import annotations

import re
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The rank that failed first, where its log is, and that log's last lines."""

    rank: int
    log: Path
    last_lines: tuple[str, ...]

    @property
    def cause(self) -> str:
        """The line that says what went wrong: the last that names an error, else the last."""
        named = [line for line in self.last_lines if re.search(r"error|killed|nebula:", line, re.IGNORECASE)]
        return (named or list(self.last_lines) or ["it wrote nothing"])[-1].strip()


def first_failure(log_dir: Path, launcher_log: str) -> Failure:
    """The rank to blame: the one that Paddle's launcher names, else the first whose log holds an error."""
    logs = dict(worker_logs(log_dir))
    named = re.search(r"failed container.*?rank (\d+)|Container rank (\d+) status failed", launcher_log, re.DOTALL)
    suspects = [int(next(filter(None, named.groups())))] if named else []
    suspects += [rank for rank, path in logs.items() if "Error" in path.read_text(errors="replace")]
    suspects += [*logs, 0]
    rank = next(r for r in suspects if r in logs or r == 0)
    path = logs.get(rank, log_dir / f"workerlog.{rank}")
    text = path.read_text(errors="replace") if path.is_file() else launcher_log
    lines = [line for line in text.splitlines() if line.strip()]
    return Failure(rank=rank, log=path, last_lines=tuple(lines[-SHOWN_LINES:]))


def worker_logs(log_dir: Path) -> Iterator[tuple[int, Path]]:
    """Local rank and log of each process that started."""
    paths = sorted(log_dir.glob("workerlog.*"), key=lambda path: int(path.suffix[1:]))
    return ((int(path.suffix[1:]), path) for path in paths)
