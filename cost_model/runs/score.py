"""How far predictions are from measurements: errors over all rows, and by source, device and stack.

An error is predicted over measured minus 1, so that negative is too fast. What `nebula validate --json` prints of it is
in score_document.py.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nebula.cost_model.confidence import run_interval
from nebula.cost_model.runs.case import Case, Describe, Refused, case_of
from nebula.cost_model.runs.parts import time_parts
from nebula.cost_model.runs.predict import Predicted, predicted
from nebula.cost_model.runs.pricing import SharedBlocks
from nebula.cost_model.runs.sanity import Doubt, doubts, unit_mistakes
from nebula.cost_model.runs.schema import Row
from nebula.errors import BadInput, Suspicious


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Errors of several rows in percent; zeros when there are none.

    Attributes:
        rows: how many.
        median_abs_pct: median of their amounts.
        mean_abs_pct: mean of their amounts.
        p90_abs_pct: nine in ten are smaller.
        bias_pct: mean with their signs.
    """

    rows: int = 0
    median_abs_pct: float = 0.0
    mean_abs_pct: float = 0.0
    p90_abs_pct: float = 0.0
    bias_pct: float = 0.0

    @property
    def document(self) -> dict[str, Any]:
        """For machines; figures are null where there are no rows."""
        names = ("median_abs_pct", "mean_abs_pct", "p90_abs_pct", "bias_pct")
        return {"rows": self.rows} | {n: round(getattr(self, n), 3) if self.rows else None for n in names}


def errors_of(percents: Sequence[float]) -> Errors:
    """The errors of rows.

    Example:
        >>> errors_of([-10.0, 20.0, 30.0]).mean_abs_pct, errors_of([-10.0, 10.0]).bias_pct
        (20.0, 0.0)
    """
    if not percents:
        return Errors()
    signed = np.array(percents)
    amounts = np.abs(signed)
    return Errors(
        rows=len(percents),
        median_abs_pct=float(np.median(amounts)),
        mean_abs_pct=float(amounts.mean()),
        p90_abs_pct=float(np.percentile(amounts, 90)),
        bias_pct=float(signed.mean()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A predicted row.

    Attributes:
        time_pct: error of the time; None when no time was measured.
        memory_pct: error of the peak; None when none was measured.
        interval_s: low and high end of the predicted time.
        parts_s: where the predicted time of a step goes, as `time_parts` says.
    """

    predicted: Predicted
    time_pct: float | None
    memory_pct: float | None
    interval_s: tuple[float, float]
    parts_s: dict[str, float]

    @property
    def row(self) -> Row:
        """The row."""
        return self.predicted.case.row

    @property
    def worst_pct(self) -> float:
        """What rows are sorted by: the amount of the time's error, else of the memory's."""
        return abs(self.time_pct if self.time_pct is not None else self.memory_pct or 0.0)

    @property
    def time_within(self) -> bool | None:
        """Whether the measured time lies in the interval; None when none was measured."""
        return None if self.time_pct is None else _within(self.predicted.case.measured.time_s, self.interval_s)

    @property
    def memory_within(self) -> bool | None:
        """Whether the measured peak lies in its interval; None when none was measured or predicted."""
        peak = self.predicted.peak
        if self.memory_pct is None or peak is None:
            return None
        return _within(self.predicted.case.measured.peak_bytes, peak.interval_bytes)

    @property
    def assumed_hardware(self) -> tuple[str, ...]:
        """What of its devices and links the row does not tell, a device with what stands for it."""
        cluster = self.predicted.case.cluster
        stand_in = " and ".join(dict.fromkeys(g.device.name for g in cluster.groups))
        assumed = (name for name, origin in cluster.origin if origin == "assumed")
        return tuple(f"{n} is not known: predicted as {stand_in}" if n.startswith("device ") else n for n in assumed)


GROUPS: dict[str, Callable[[Row], str]] = {
    "source": lambda row: row.origin,
    "device": lambda row: row.device or "unknown",
    "stack": lambda row: row.execution.stack or "unknown",
}
"""By what rows are grouped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A sentence on a value of a row that is legal and probably not meant."""

    id: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """All rows of a file.

    Attributes:
        scored: those that were predicted, worst first.
        refused: those that were not.
        doubts: models that may have been misread.
        suspicious: values that may be mistakes of units.
    """

    scored: tuple[Scored, ...]
    refused: tuple[Refused, ...]
    doubts: tuple[Doubt, ...] = ()
    suspicious: tuple[Suspicion, ...] = ()

    @property
    def time(self) -> Errors:
        """Of all times."""
        return errors_of([s.time_pct for s in self.scored if s.time_pct is not None])

    @property
    def memory(self) -> Errors:
        """Of all peaks."""
        return errors_of([s.memory_pct for s in self.scored if s.memory_pct is not None])

    @property
    def time_within_pct(self) -> float | None:
        """Of the measured times, how many in a hundred lie in their interval; None when there are none."""
        return _share_pct([s.time_within for s in self.scored])

    @property
    def memory_within_pct(self) -> float | None:
        """The same of peaks."""
        return _share_pct([s.memory_within for s in self.scored])

    def by(self, group: str) -> dict[str, Validation]:
        """The validation of each value of a group of GROUPS, in the order of their names."""
        key = GROUPS[group]
        scored: dict[str, list[Scored]] = {}
        refused: dict[str, list[Refused]] = {}
        for one in self.scored:
            scored.setdefault(key(one.row), []).append(one)
        for other in self.refused:
            refused.setdefault(key(other.row), []).append(other)
        return {
            name: Validation(scored=tuple(scored.get(name, ())), refused=tuple(refused.get(name, ())))
            for name in sorted({*scored, *refused})
        }


OURS = "an error of Nebula, please report it with this row"
"""Begins the reason of a row that should have been predicted or refused with a reason of its own."""

Progress = Callable[[int], None]
"""Is told after each row how many are done."""


def validate(rows: Iterable[Row], describe: Describe, progress: Progress = lambda _: None) -> Validation:
    """Predicts every row and holds it against what was measured.

    Args:
        rows: of a runs file.
        describe: writes the model of a row.
        progress: is told how far it is.
    """
    scored: list[Scored] = []
    refused: list[Refused] = []
    found: list[Doubt] = []
    suspicious: list[Suspicion] = []
    shared = SharedBlocks()
    for done, row in enumerate(rows, 1):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", Suspicious)
            outcome = _outcome(row, describe, shared)
        suspicious += [Suspicion(id=row.id, sentence=str(w.message)) for w in caught]
        if isinstance(outcome, Refused):
            refused.append(outcome)
        else:
            scored.append(outcome)
            found += doubts(outcome.predicted.case)
            suspicious += [Suspicion(id=row.id, sentence=s) for s in unit_mistakes(outcome.predicted)]
        progress(done)
    scored.sort(key=lambda s: -s.worst_pct)
    return Validation(scored=tuple(scored), refused=tuple(refused), doubts=tuple(found), suspicious=tuple(suspicious))


def _outcome(row: Row, describe: Describe, shared: SharedBlocks) -> Scored | Refused:
    """A row predicted, or why not. An error of ours is said with its row instead of taking the other rows with it."""
    try:
        case = case_of(row, describe)
        return case if isinstance(case, Refused) else _scored(case, shared)
    except BadInput as error:
        return Refused(row=row, reason=str(error))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        return Refused(row=row, reason=f"{OURS}: {type(error).__name__}: {error}")


def _scored(case: Case, shared: SharedBlocks) -> Scored:
    """A case with its prediction.

    Raises:
        BadInput: the plan does not fit the graph, or its numbers come to no time.
    """
    found = predicted(case, shared.pricing(case))
    if not (math.isfinite(found.time_s) and math.isfinite(found.peak_bytes) and found.time_s > 0):
        raise BadInput(f"its numbers come to {found.time_s:g} s, which is no time")
    measured = case.measured
    return Scored(
        predicted=found,
        time_pct=_percent(found.time_s, measured.time_s),
        memory_pct=_percent(found.peak_bytes, measured.peak_bytes if found.peak_bytes else 0.0),
        interval_s=run_interval(found.time_s, case.cluster, case.execution),
        parts_s=time_parts(found),
    )


def _percent(predicted: float, measured: float) -> float | None:
    return 100.0 * (predicted / measured - 1.0) if measured else None


def _within(value: float, interval: tuple[float, float]) -> bool:
    return interval[0] <= value <= interval[1]


def _share_pct(flags: Iterable[bool | None]) -> float | None:
    known = [flag for flag in flags if flag is not None]
    return 100.0 * sum(known) / len(known) if known else None
