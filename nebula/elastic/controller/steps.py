"""When were steps done, and what did the seconds before the first new one go into? For the account of a job's time.

Progress comes a few times a second, so times are exact to that. All seconds are of one clock that does not run back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from nebula.elastic.goodput import Category
from nebula.runtime.progress import Section


@dataclass(slots=True)
class Beginning:
    """A generation whose first new step is still to come.

    Attributes:
        before: steps that were done before it.
        resumed: step that it took up; -1: not known yet.
        marks: when its ranks were loading, had loaded, had done a step, and all that were lost.
    """

    before: int
    resumed: int = -1
    marks: dict[str, float] = field(default_factory=dict)

    def progressed(self, now_s: float, section: int, least: int) -> bool:
        """Takes what ranks tell; whether a step that is new is done.

        Args:
            section: the earliest that a rank is in.
            least: steps that all have done.
        """
        if section >= Section.LOAD:
            self.marks.setdefault("loading", now_s)
        if section >= Section.DATA:
            self.marks.setdefault("loaded", now_s)
            self.resumed = least if self.resumed < 0 else self.resumed
        if least > self.resumed >= 0:
            self.marks.setdefault("first", now_s)
            if least >= self.before:
                self.marks.setdefault("redone", now_s)
        return least > max(self.before, self.resumed) and self.resumed >= 0

    @property
    def lost(self) -> int:
        """Steps that had to be done again."""
        return max(0, self.before - self.resumed) if self.resumed >= 0 else 0

    def seconds(self, now_s: float) -> Mapping[str, float]:
        """What the seconds up to the first new step went into, as far as that is known."""
        loading, loaded = self.marks.get("loading", now_s), self.marks.get("loaded", now_s)
        first, redone = self.marks.get("first", now_s), self.marks.get("redone", now_s)
        return {
            Category.PRODUCTIVE.value: now_s - redone,
            Category.RECOMPUTING.value: redone - first,
            Category.STARTING.value: first - loaded,
            Category.RESTORING.value: loaded - loading,
        }


@dataclass(slots=True)
class Steps:
    """What a controller knows of the steps of its job.

    Attributes:
        last_s: when a step was done last.
        boundary: the generation ends at a step.
        saving_s: by which saves held steps up, not told to the account yet.
    """

    beginning: Beginning | None = None
    last_s: float = math.inf
    boundary: bool = False
    saving_s: float = 0.0
    _least: int = 0
    _slowest_s: float = 0.0
    _written: dict[str, Mapping[str, int]] = field(default_factory=dict)

    def begin(self, before: int, resumed: int) -> None:
        """A generation begins; `resumed` is -1 where that is not known yet."""
        self.beginning, self.boundary, self.last_s = Beginning(before, resumed), False, math.inf
        self._least, self._slowest_s, self._written = 0, 0.0, {}

    def did(self, now_s: float, least: int) -> int:
        """All ranks have done so many steps; how many more those are."""
        more = least - self._least if self._least else 0
        if least > self._least:
            self._least, self.last_s = least, now_s
        return max(0, more)

    def saved(self, saving_s: float) -> float:
        """Saves have held up a node for so long in this generation; by how much more that is than any was before."""
        more_s = max(0.0, saving_s - self._slowest_s)
        self._slowest_s += more_s
        self.saving_s += more_s
        return more_s

    def wrote(self, node: str, written_bytes: Mapping[str, int]) -> Mapping[str, int]:
        """A node has written so many bytes in this generation, by tier; how many more those are."""
        before = self._written.get(node, {})
        self._written[node] = dict(written_bytes)
        return {
            tier: nbytes - before.get(tier, 0) for tier, nbytes in written_bytes.items() if nbytes > before.get(tier, 0)
        }

    def since_s(self, now_s: float) -> float:
        """How long ago a step was done; 0 where none was."""
        return max(0.0, now_s - self.last_s) if self.last_s != math.inf else 0.0

    def take_saving_s(self) -> float:
        """What saves have cost since this was asked last."""
        taken, self.saving_s = self.saving_s, 0.0
        return taken
