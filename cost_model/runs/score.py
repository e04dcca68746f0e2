"""How far predictions are from measurements: errors over all rows, and by source, device and stack.

An error is predicted over measured minus 1, so that negative is too fast. The document is what `nebula validate --json`
prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nebula.cost_model.runs.case import Case, Describe, Refused, case_of
from nebula.cost_model.runs.predict import Predicted, predict
from nebula.cost_model.runs.sanity import Doubt, doubts
from nebula.cost_model.runs.schema import Row


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
    """

    predicted: Predicted
    time_pct: float | None
    memory_pct: float | None

    @property
    def row(self) -> Row:
        """The row."""
        return self.predicted.case.row

    @property
    def worst_pct(self) -> float:
        """What rows are sorted by: the amount of the time's error, else of the memory's."""
        return abs(self.time_pct if self.time_pct is not None else self.memory_pct or 0.0)


GROUPS: dict[str, Callable[[Row], str]] = {
    "source": lambda row: row.origin,
    "device": lambda row: row.device,
    "stack": lambda row: row.execution.stack or "unknown",
}
"""By what rows are grouped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """All rows of a file: those that were predicted, worst first, those that were not, and what looks misread."""

    scored: tuple[Scored, ...]
    refused: tuple[Refused, ...]
    doubts: tuple[Doubt, ...]

    @property
    def time(self) -> Errors:
        """Of all times."""
        return _errors(self.scored, "time_pct")

    @property
    def memory(self) -> Errors:
        """Of all peaks."""
        return _errors(self.scored, "memory_pct")

    def by(self, group: str) -> dict[str, Validation]:
        """The validation of each value of a group of GROUPS, in the order of their names."""
        key = GROUPS[group]
        rows = [*(s.row for s in self.scored), *(r.row for r in self.refused)]
        names = sorted({key(row) for row in rows})
        return {
            name: Validation(
                scored=tuple(s for s in self.scored if key(s.row) == name),
                refused=tuple(r for r in self.refused if key(r.row) == name),
                doubts=(),
            )
            for name in names
        }

    @property
    def document(self) -> dict[str, Any]:
        """What `nebula validate --json` prints."""
        return {
            "time": self.time.document,
            "memory": self.memory.document,
            "by": {group: {name: _part(part) for name, part in self.by(group).items()} for group in GROUPS},
            "unsupported": [{"id": r.row.id, "reason": r.reason} for r in self.refused],
            "doubts": [
                {
                    "id": d.id,
                    "model": d.model,
                    "what": d.what,
                    "described": d.described,
                    "expected": d.expected,
                    "error_pct": round(d.error_pct, 3),
                }
                for d in self.doubts
            ],
            "rows": [_row_document(s) for s in self.scored],
        }


def validate(rows: Iterable[Row], describe: Describe) -> Validation:
    """Predicts every row and holds it against what was measured.

    Args:
        rows: of a runs file.
        describe: writes the model of a row.
    """
    scored: list[Scored] = []
    refused: list[Refused] = []
    found: list[Doubt] = []
    for row in rows:
        case = case_of(row, describe)
        outcome = predict(case) if isinstance(case, Case) else case
        if isinstance(case, Case):
            found.extend(doubts(case))
        if isinstance(outcome, Refused):
            refused.append(outcome)
        else:
            scored.append(_scored(outcome))
    scored.sort(key=lambda s: -s.worst_pct)
    return Validation(scored=tuple(scored), refused=tuple(refused), doubts=tuple(found))


def _scored(predicted: Predicted) -> Scored:
    measured = predicted.case.measured
    return Scored(
        predicted=predicted,
        time_pct=_percent(predicted.time_s, measured.time_s),
        memory_pct=_percent(predicted.peak_bytes, measured.peak_bytes if predicted.peak_bytes else 0.0),
    )


def _percent(predicted: float, measured: float) -> float | None:
    return 100.0 * (predicted / measured - 1.0) if measured else None


def _errors(scored: Iterable[Scored], field: str) -> Errors:
    return errors_of([p for s in scored if (p := getattr(s, field)) is not None])


def _part(part: Validation) -> dict[str, Any]:
    return part.time.document | {"memory": part.memory.document, "unsupported": len(part.refused)}


def _row_document(scored: Scored) -> dict[str, Any]:
    predicted, measured, row = scored.predicted, scored.predicted.case.measured, scored.row
    groups = {name: key(row) for name, key in GROUPS.items()}
    memory = {
        "predicted": predicted.peak_bytes,
        "measured": measured.peak_bytes or None,
        "error_pct": scored.memory_pct,
    }
    return {
        "id": row.id,
        "kind": row.kind,
        "predicted": predicted.time_s,
        "measured": measured.time_s or None,
        "error_pct": scored.time_pct,
        "memory": memory,
        **groups,
    }
