"""One save under way: the thread that writes a rank's part, and what the save took.

Every rank's thread writes its file; rank 0's makes the checkpoint visible once all have (nebula.checkpoint.commit). No
thread takes part in collectives. What only an optimizer's update changes the thread may copy itself, beside the next
step's passes; the update waits for that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nebula.checkpoint.commit import abandon, commit, write_part
from nebula.checkpoint.folder import retain
from nebula.checkpoint.shard_file import Part
from nebula.runtime.fence import check_fence
from nebula.units import format_bytes, format_seconds

BEAT_S, LONG_S = 0.2, 60.0
"""Who waits for a save says so that often, and for so long since the save began: it may hang after that."""
LAST_S = 600.0
"""The same of a save for which a job stops: nothing else keeps what was trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRecord:
    """What a save took, in seconds of the host's clock.

    Attributes:
        step: optimizer steps that were done.
        bytes: of all ranks' files.
        stall_s: for which training stood still: the wait for the save before, the copy to host memory as far as no
            passes ran beside it, or all.
        written_s: from the begin of the save until the checkpoint was safe and visible.
    """

    step: int
    bytes: int
    stall_s: float
    written_s: float
    asynchronous: bool

    @property
    def line(self) -> str:
        """For people."""
        waited = f"training waited {format_seconds(self.stall_s)}"
        written = f", safe after {format_seconds(self.written_s)}" if self.asynchronous else ""
        return f"checkpoint of step {self.step} · {format_bytes(self.bytes)} · {waited}{written}"


class Save:
    """One save under way: the thread that writes it, and what came of it.

    Attributes:
        bytes: of all files, once rank 0 has made them visible; 0 elsewhere.
        safe_s: when that was.
    """

    def __init__(
        self,
        saving: Path,
        done: int,
        parts: Sequence[Part],
        later: Callable[[], Iterable[Part]],
        facts: Mapping[str, Any],
        rank: int,
        keep: int,
    ) -> None:
        """Prepares a save.

        Args:
            parts: copies in host memory.
            later: makes the other copies, in the thread.
        """
        self.saving, self.done, self.parts, self.facts = saving, done, parts, facts
        self._later, self._copied = later, threading.Event()
        self.rank, self.keep = rank, keep
        self.began_s = self.stall_s = self.safe_s = 0.0
        self.bytes = 0
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self.run, name=f"checkpoint of step {done}")

    def run(self) -> None:
        """Writes; what goes wrong is raised in the training's own thread."""
        try:
            self.parts = [*self.parts, *self._later()]
            self._copied.set()
            self._write()
        except BaseException as error:
            self.error = error
            if self.rank == 0:
                abandon(self.saving)
        finally:
            self._copied.set()
            self.parts = ()

    def wait(self, beat: Callable[[], None], long_s: float = LONG_S) -> None:
        """Waits until the thread ends.

        Args:
            beat: is called again and again, as long as no save should take longer than `long_s`.
        """
        self._until(self._ended, beat, long_s)

    def wait_for_copies(self, beat: Callable[[], None]) -> None:
        """Waits likewise until weights and optimizer states may change."""
        if not self._copied.is_set():
            began_s = time.monotonic()
            self._until(self._copied.wait, beat, LONG_S)
            self.stall_s += time.monotonic() - began_s

    def _ended(self, patience_s: float | None) -> bool:
        self.thread.join(patience_s)
        return not self.thread.is_alive()

    def _until(self, ended: Callable[[float | None], bool], beat: Callable[[], None], long_s: float) -> None:
        while not ended(BEAT_S if time.monotonic() - self.began_s < long_s else None):
            beat()

    def _write(self) -> None:
        write_part(self.saving, self.rank, self.parts)
        if self.rank == 0:
            check_fence(self.saving.parent)
            _, manifest = commit(
                self.saving,
                step=self.done,
                ranks=self.facts["ranks"],
                facts=self.facts,
                fence=lambda: check_fence(self.saving.parent),
            )
            self.bytes, self.safe_s = manifest.nbytes, time.monotonic()
            retain(self.saving.parent, self.keep)

    def record(self, *, asynchronous: bool) -> SaveRecord:
        """What the save took, once it is complete."""
        return SaveRecord(
            step=self.done,
            bytes=self.bytes,
            stall_s=self.stall_s,
            written_s=self.safe_s - self.began_s,
            asynchronous=asynchronous,
        )
