"""How long the stages of a recovery take, from the failure that an agent saw to the first new step of all ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Recovery:
    """A recovery under way; seconds since 1970.

    Attributes:
        seen_s: when the failure was seen on its node.
        before: the most steps that a rank had done when its generation ended.
        trace: names it in events, logs and traces: 32 hexadecimal digits.
    """

    seen_s: float
    before: int = 0
    marks: dict[str, float] = field(default_factory=dict)
    trace: str = field(default_factory=lambda: os.urandom(16).hex())

    def mark(self, stage: str, now_s: float) -> None:
        """Ends a stage, the first time that it is said."""
        self.marks.setdefault(stage, now_s)

    def seconds(self) -> Mapping[str, float]:
        """Of each stage in order, and of all."""
        took, before_s = {}, self.seen_s
        for stage, at_s in sorted(self.marks.items(), key=lambda mark: mark[1]):
            took[stage], before_s = round(at_s - before_s, 4), at_s
        return {**took, "all": round(before_s - self.seen_s, 4)}
