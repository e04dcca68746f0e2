"""A bar on a terminal's stderr that says how far a search is: how near its bound has come to the best plan found."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING

from nebula.units import format_seconds

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from nebula.planner.search import Progress

CELLS = 24
PAUSE_S = 0.1
"""Between two drawings."""


class SearchBar:
    """Shows the progress of a search, ten times a second at most; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._drawn_s = -math.inf

    def __call__(self, progress: Progress) -> None:
        """Shows how far the search is."""
        now_s = time.monotonic()
        if not sys.stderr.isatty() or now_s - self._drawn_s < PAUSE_S:
            return
        self._drawn_s = now_s
        bar = self._bar or self._started()
        bar.update(bar.task_ids[0], completed=proved(progress), words=search_words(progress), refresh=True)

    def clear(self) -> None:
        """Takes the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _started(self) -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        fitted = Column(no_wrap=True, overflow="ellipsis")
        columns = (TextColumn("searching"), BarColumn(CELLS), TextColumn("{task.fields[words]}", table_column=fitted))
        self._bar = Bar(*columns, console=Console(file=sys.stderr), transient=True, auto_refresh=False)
        self._bar.add_task("", total=1.0, words="")
        self._bar.start()
        return self._bar


def proved(progress: Progress) -> float:
    """How near the bound has come to the best, from 0 to 1: a search is over when they meet.

    Example:
        >>> from nebula.planner.search import Progress
        >>> proved(Progress(priced=3, best_s=2.0, bound_s=1.5))
        0.75
    """
    return min(1.0, progress.bound_s / progress.best_s) if 0.0 < progress.best_s < math.inf else 0.0


def search_words(progress: Progress) -> str:
    """The figures beside the bar.

    Example:
        >>> from nebula.planner.search import Progress
        >>> search_words(Progress(priced=1234, best_s=2.0, bound_s=1.6))
        '1,234 priced · best 2 s · gap 25 %'
    """
    gap = f"{100 * (progress.best_s / progress.bound_s - 1.0):.3g} %" if progress.bound_s else "not known yet"
    return f"{progress.priced:,} priced · best {format_seconds(progress.best_s)} · gap {gap}"
