"""When a training saves, where, and how many checkpoints stay."""

from __future__ import annotations

from dataclasses import dataclass

from nebula.errors import BadInput

FOLDER, KEEP, FIRST = "checkpoints", 3, 10
"""FIRST: steps between the first saves where the interval follows from what they cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a run file says under `checkpoint`.

    Attributes:
        every: optimizer steps between two saves; 0: never.
        folder: relative to the run's folder, or absolute.
        keep: how many of the newest stay.
        mtbf_s: mean seconds between failures of the job; above 0 the interval follows what saves cost, and `every` is
            that of the first ones.
        asynchronous: training goes on while files are written; it waits for the copy to host memory alone.
    """

    every: int = 0
    folder: str = FOLDER
    keep: int = KEEP
    asynchronous: bool = True
    mtbf_s: float = 0.0

    def __post_init__(self) -> None:
        if self.every < 0 or self.keep < 1:
            raise BadInput(f"checkpoints every {self.every} steps, {self.keep} kept: both must be 1 or more")


NEVER = Policy()
"""No checkpoints."""
