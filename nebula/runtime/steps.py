"""What is said and kept of every step: a line for people, a JSON line for machines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from nebula.errors import BadInput, RunFailed
from nebula.units import format_bytes, format_count, format_seconds
from nebula.whole_file import write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One optimizer step, as in steps.jsonl.

    Attributes:
        step: from 1.
        loss: mean over the global batch, before the update.
        tokens: of the step.
        predicted_s: 0 when the plan has no prediction.
        took_s: on `clock`.
        clock: `virtual` or `wall`.
        memory_bytes: peak of this rank so far.
        mfu: 0 when the plan has no prediction to scale it by.
    """

    step: int
    loss: float
    tokens: int
    predicted_s: float
    took_s: float
    clock: str
    memory_bytes: int
    mfu: float

    @property
    def line(self) -> str:
        """The step in one line; every time says which clock it is of."""
        rate = format_count(self.tokens / self.took_s) if self.took_s else "-"
        parts = [f"step {self.step}", f"loss {self.loss:.4g}", f"{rate} tok/s"]
        if self.mfu:
            parts.append(f"MFU {100 * self.mfu:.1f} %")
        parts.append(f"memory {format_bytes(self.memory_bytes)}")
        predicted = f"predicted {format_seconds(self.predicted_s)}, " if self.predicted_s else ""
        parts.append(f"{predicted}took {format_seconds(self.took_s)} ({self.clock})")
        return " · ".join(parts)

    def write(self, file: IO[str]) -> None:
        """Appends the step to steps.jsonl, at once."""
        file.write(json.dumps(asdict(self)) + "\n")
        file.flush()


class Journal:
    """steps.jsonl of a training that may have been interrupted before.

    Lines of steps that are done again are replaced by the first of them, not sooner: a process that is killed before it
    has done a step leaves the file as it was, and so does one that is killed while it replaces it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def write(self, record: StepRecord) -> None:
        """Appends a step, at once.

        Raises:
            RunFailed: the disk does not take it.
        """
        try:
            if self._file is None:
                write_whole(self._path, "".join(kept_lines(self._path, record.step - 1)))
                self._file = self._path.open("a", encoding="utf-8")
            record.write(self._file)
        except (BadInput, OSError) as error:
            raise RunFailed(f"{self._path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None

    def close(self) -> None:
        """Nothing further is written."""
        if self._file is not None:
            self._file.close()


def kept_lines(path: Path, steps: int) -> list[str]:
    """The lines of the first `steps` steps of an interrupted run, whose last line may be cut off."""
    if not steps or not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= steps]
