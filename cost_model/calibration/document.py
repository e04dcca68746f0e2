"""A calibration for machines: the document that `nebula calibrate --json` prints, and the content of its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nebula.cost_model.calibration.calibrate import Moved, Refit

Refusals = Sequence[tuple[str, str]]
"""Pairs of a run's id and why it has no price."""


def document(refit: Refit, refused: Refusals = ()) -> dict[str, Any]:
    """What moved, what could not be told, and the errors before, after and on sources left out."""
    left = {
        one.source: {"parameters": {n: _digits(v) for n, v in one.values.items()}, "told_by_it_alone": list(one.alone)}
        for one in refit.left_out
    }
    return {
        "rows": len(refit.runs),
        "sources": list(refit.sources),
        "parameters": {m.parameter.name: _moved(m) for m in refit.moved},
        "kept": [{"parameters": [p.name for p in k.parameters], "reason": k.sentence} for k in refit.kept],
        "errors": errors(refit),
        "left_out": left,
        "unsupported": [{"id": name, "reason": reason} for name, reason in refused],
    }


def errors(refit: Refit) -> dict[str, Any]:
    """By `before`, `after` and `unseen` the errors of all runs and of each source."""
    kinds = {"before": refit.before, "after": refit.after, "unseen": refit.unseen}
    found: dict[str, Any] = {}
    for kind, percents in kinds.items():
        if percents:
            each = refit.errors(percents)
            by = {s: each[s].document for s in refit.sources}
            found[kind] = each[""].document | {"by_source": by}
    return found


def file_content(refit: Refit, made: Mapping[str, str]) -> dict[str, Any]:
    """The file: efficiencies of device types as a cluster file takes them, parameters, errors, and how it was made.

    Args:
        refit: what was fitted.
        made: `date`, and whatever else says how; `date` goes into the source.
    """
    source = f"fitted to runs: {len(refit.runs)} of {len(refit.sources)} sources, nebula calibrate, {made['date']}"
    devices = {
        name: {"product_efficiency": _digits(m.after)} for m in refit.moved for name in sorted(m.parameter.types)
    }
    return {
        "source": source,
        **({"devices": devices} if devices else {}),
        "parameters": {m.parameter.name: _moved(m) for m in refit.moved},
        "errors": errors(refit),
        "made": {**made, "rows": len(refit.runs), "sources": list(refit.sources)},
    }


def _moved(moved: Moved) -> dict[str, Any]:
    return {
        "before": _digits(moved.parameter.value),
        "after": _digits(moved.after),
        "standard_error": _digits(moved.error),
        "unit": moved.parameter.unit,
        "rows": moved.rows,
        "sources": moved.sources,
    }


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
