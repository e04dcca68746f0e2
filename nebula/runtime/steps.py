"""What is said and kept of every step: a line for people, a JSON line for machines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from nebula.units import format_bytes, format_count, format_seconds


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


def kept_lines(path: Path, steps: int) -> list[str]:
    """The lines of the first `steps` steps of an interrupted run, whose last line may be cut off."""
    if not steps or not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= steps]
