"""When is the next save due? Every so many steps, or by what saves cost and how often the job fails.

The latter is the interval of least expected time (nebula.cost_model.goodput, after Daly 2006), from the hold-up of the
saves so far, the steps in between, and the mean time between failures; no save begins before the one before is safe.
"""

from __future__ import annotations

import math
import os
import statistics
from collections import deque
from collections.abc import Mapping, Sequence

from nebula.checkpoint.policy import Policy
from nebula.cost_model.goodput import Exposure, chosen_interval_s
from nebula.runtime.progress import MTBF
from nebula.runtime.save import SaveRecord
from nebula.units import format_seconds

KEPT = 8
"""Saves that count."""


class SaveInterval:
    """The steps between two saves; the same on all ranks.

    Attributes:
        every: now.
    """

    def __init__(self, policy: Policy, env: Mapping[str, str] = os.environ) -> None:
        self.every, self._next = policy.every, 0
        self._mtbf_s = float(env.get(MTBF, policy.mtbf_s)) if policy.mtbf_s else 0.0
        self._ends_s: deque[float] = deque(maxlen=64)

    @property
    def follows(self) -> bool:
        """Whether it follows what saves cost."""
        return self._mtbf_s > 0

    def stepped(self, now_s: float) -> None:
        """A step has ended; before a save."""
        self._ends_s.append(now_s)

    def due(self, done: int) -> bool:
        """Whether a save is due after so many steps."""
        return done >= self._next if self._next else done % self.every == 0

    def wanted(self, records: Sequence[SaveRecord]) -> int:
        """The steps until the save after this one, as one rank sees it; 0 while it knows too little."""
        times = [after - before for before, after in zip(self._ends_s, [*self._ends_s][1:], strict=False)]
        if not self.follows or not records or not times:
            return 0
        step_s, latest = max(statistics.median(times), 1e-6), records[-KEPT:]
        save_s = statistics.median(record.stall_s for record in latest)
        durable_s = statistics.median(record.written_s for record in latest)
        interval_s = chosen_interval_s(
            Exposure(
                failures_per_s=1.0 / self._mtbf_s,
                save_s=max(save_s, 1e-6),
                durable_s=durable_s,
                restart_s=0.0,
                least_interval_s=step_s,
            )
        )
        return max(1, math.ceil(interval_s / step_s))

    def agree(self, done: int, wanted: int) -> str:
        """Takes what one rank wants, once all know it, and says what has changed."""
        if not self.follows:
            return ""
        before, self.every = self.every, wanted or self.every
        self._next = done + self.every
        if self.every == before:
            return ""
        return (
            f"saves every {self.every} steps from here on, as their cost and a failure in "
            f"{format_seconds(self._mtbf_s)} ask for"
        )
