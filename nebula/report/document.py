"""What `nebula plan --json` prints: plan, reason, prediction, bound, search and who can execute it.

Keys are those that strangers' scripts rely on; more may join them, these keep their meaning.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from nebula.cost_model.economy import Outlook
from nebula.plan.conditions import PowerUse, Reliability
from nebula.plan.files import dumps
from nebula.plan.legality import Executable
from nebula.plan.values import Plan, Prediction
from nebula.report.findings import Search


def plan_document(plan: Plan, search: Search, able: Executable, outlook: Outlook | None = None) -> dict[str, Any]:
    """The document of a plan.

    Args:
        able: which engine can execute it, or what every engine lacks.
        outlook: days, goodput, money and energy, which join the prediction.
    """
    return {
        "plan": json.loads(dumps(plan)),
        "because": plan.because,
        "runner_up": asdict(plan.runner_up) if plan.runner_up else None,
        "prediction": prediction_document(plan.prediction, outlook) if plan.prediction else None,
        "bound": bound_document(plan),
        "search": {"seconds": search.seconds, "candidates": search.candidates, "cut": dict(search.cut)},
        "executable": {"engine": able.engine, "missing": list(able.missing)},
    }


def prediction_document(prediction: Prediction, outlook: Outlook | None = None) -> dict[str, Any]:
    """A prediction; memory is that of each stage's fullest rank."""
    return {
        "step_time_s": prediction.step_time_s,
        "tokens_per_s": prediction.tokens_per_s,
        "mfu": prediction.mfu,
        "parts_s": {name.removesuffix("_s"): seconds for name, seconds in asdict(prediction.parts).items()},
        "memory_bytes": [m.total_bytes for m in prediction.memory],
        "interval_s": list(prediction.interval_s),
        "provenance": dict(prediction.provenance),
        **(outlook_document(outlook) if outlook else {}),
    }


def outlook_document(outlook: Outlook) -> dict[str, Any]:
    """What a plan comes to; what is not known, not asked or without end is None."""
    time, saved, days = outlook.goodput, outlook.checkpoint, outlook.days
    under, budget = outlook.conditions, bool(outlook.days.tokens)
    goodput = {name: getattr(time, name) for name in ("useful", "checkpointing", "lost_work", "restart", "degraded")}
    totals = {
        "with_failures": days.with_failures,
        "without_failures": days.without_failures,
        "interval": (days.low, days.high),
        "failures": days.failures,
        "device_hours": outlook.device_hours,
    }
    times = {"interval_s": time.interval_s, "mtbf_s": time.mtbf_s, "save_s": saved.save_s, "load_s": saved.load_s}
    return {
        "goodput": {**goodput, **_finite(times), "checkpoint_bytes": saved.total_bytes},
        "days": {"tokens": days.tokens, "tokens_per_day": days.tokens_per_day, **_finite(totals, known=budget)},
        "money": _priced(asdict(outlook.money), budget=budget),
        "energy": _priced(asdict(outlook.energy), budget=budget),
        "conditions": {"reliability": _said(under.reliability), "energy": _said(under.power)},
    }


def _said(value: Reliability | PowerUse) -> dict[str, Any]:
    """Conditions with their sources."""
    return {**asdict(value), "sources": dict(value.sources)}


def _priced(figures: dict[str, Any], *, budget: bool) -> dict[str, Any]:
    """Money or energy: nothing where a price or a power is unknown, no total without a budget."""
    names = {"unknown": list(figures.pop("unknown"))} | (
        {"sources": dict(s)} if (s := figures.pop("sources", ())) else {}
    )
    totals = {name: None for name in figures if name.startswith("budget") and not budget}
    return {**_finite(figures, known=not names["unknown"]), **totals, **names}


def _finite(figures: dict[str, Any], *, known: bool = True) -> dict[str, Any]:
    """The figures with None for what is infinite, all None where they are not known."""
    return {name: _plain(value) if known else None for name, value in figures.items()}


def _plain(value: float | tuple[float, ...]) -> float | list[float | None] | None:
    """A number or an interval; None for what is infinite."""
    if isinstance(value, tuple):
        return [end if math.isfinite(end) else None for end in value]
    return value if math.isfinite(value) else None


def bound_document(plan: Plan) -> dict[str, float] | None:
    """The step time that no plan of the space beats, and how far above it the plan is; None when unknown."""
    if not plan.bound_s or plan.prediction is None:
        return None
    return {"step_time_s": plan.bound_s, "gap_pct": (plan.prediction.step_time_s / plan.bound_s - 1) * 100}
