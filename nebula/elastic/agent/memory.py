"""Did the kernel kill a worker for want of memory? Read from the counts of its cgroup, version 1 or 2.

A test can have a worker put into a cgroup of its own with a limit (`Confined`); it is a child of the worker's cgroup,
so that the limits above hold on. Where none can be made, the reason is told.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nebula.units import format_bytes

ROOT = Path("/sys/fs/cgroup")
LIMIT_BYTES = 64 << 20
"""What a worker that is confined may take in addition to what it has."""
_UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A cgroup that counts memory; `unified`: of version 2."""

    folder: Path
    unified: bool

    def killed(self) -> int:
        """Processes that the kernel has killed there for want of memory."""
        file, key = ("memory.events", "oom_kill") if self.unified else ("memory.oom_control", "oom_kill")
        with suppress(OSError, ValueError):
            for line in (self.folder / file).read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == key:
                    return int(count)
        return 0

    def limit_bytes(self) -> int:
        """The least that it and those above allow; 0: no limit."""
        file, found = self._file(), []
        for folder in (self.folder, *self.folder.parents):
            if folder == ROOT.parent:
                break
            with suppress(OSError, ValueError):
                found.append(int((folder / file).read_text()))
        least = min(found, default=0)
        return least if least < _UNLIMITED else 0

    def confined(self, pid: int, limit_bytes: int) -> Group:
        """Puts a process into a child of its own.

        Raises:
            OSError: this process may not, or the kernel does not count memory there.
        """
        child = Group(folder=self.folder / f"nebula-{pid}", unified=self.unified)
        child.folder.mkdir()
        try:
            (child.folder / child._file()).write_text(str(limit_bytes))
            (child.folder / "cgroup.procs").write_text(str(pid))
        except OSError:
            child.remove()
            raise
        return child

    def remove(self) -> None:
        """Removes it, once its processes have ended."""
        with suppress(OSError):
            self.folder.rmdir()

    def _file(self) -> str:
        return "memory.max" if self.unified else "memory.limit_in_bytes"


def group_of(pid: int | str, root: Path = ROOT, proc: Path = Path("/proc")) -> Group | None:
    """The cgroup that counts a process's memory; None where none does."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    fields = [line.split(":", 2) for line in lines]
    for _, controllers, path in fields:
        if "memory" in controllers.split(","):
            return _there(root / "memory", path, unified=False)
    for number, controllers, path in fields:
        if number == "0" and not controllers:
            return _there(root, path, unified=True)
    return None


def _there(root: Path, path: str, *, unified: bool) -> Group | None:
    """Within a container the path of the outside may not be there; the root then stands for it."""
    inside = root / path.lstrip("/")
    folder = inside if inside.is_dir() else root
    found = Group(folder=folder, unified=unified)
    return found if (folder / ("memory.events" if unified else "memory.oom_control")).is_file() else None


class MemoryWatch:
    """What is told of a worker that was killed."""

    def __init__(self, pid: int) -> None:
        self._pid, self._group = pid, group_of(os.getpid())
        self._own: Group | None = None
        self._before = self._group.killed() if self._group else 0

    def confine(self) -> str:
        """Gives the worker a cgroup with a limit; empty where that is done, else why not."""
        if self._group is None:
            return "no cgroup counts this agent's memory"
        try:
            self._own = self._group.confined(self._pid, LIMIT_BYTES)
        except OSError as error:
            return f"no cgroup can be made in {self._group.folder}: {error.strerror}"
        return ""

    def why(self) -> str:
        """A clause for the cause of a worker that got SIGKILL; empty where it was not for want of memory."""
        group = self._own or self._group
        if group is None or group.killed() <= (0 if self._own else self._before):
            return ""
        limit = group.limit_bytes()
        return f" by the kernel: its cgroup had no more memory{f' than {format_bytes(limit)}' if limit else ''}"

    def close(self) -> None:
        """Removes what `confine` made."""
        if self._own:
            self._own.remove()
