"""What `nebula plan --json` prints: plan, reason, prediction, bound, search and who can execute it.

Keys are those that strangers' scripts rely on; more may join them, these keep their meaning.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from nebula.plan.files import dumps
from nebula.plan.legality import Executable
from nebula.plan.values import Plan, Prediction
from nebula.report.findings import Search


def plan_document(plan: Plan, search: Search, able: Executable) -> dict[str, Any]:
    """The document of a plan.

    Args:
        able: which engine can execute it, or what every engine lacks.
    """
    return {
        "plan": json.loads(dumps(plan)),
        "because": plan.because,
        "runner_up": asdict(plan.runner_up) if plan.runner_up else None,
        "prediction": prediction_document(plan.prediction) if plan.prediction else None,
        "bound": bound_document(plan),
        "search": {"seconds": search.seconds, "candidates": search.candidates, "cut": dict(search.cut)},
        "executable": {"engine": able.engine, "missing": list(able.missing)},
    }


def prediction_document(prediction: Prediction) -> dict[str, Any]:
    """A prediction; memory is that of each stage's fullest rank."""
    return {
        "step_time_s": prediction.step_time_s,
        "tokens_per_s": prediction.tokens_per_s,
        "mfu": prediction.mfu,
        "parts_s": {name.removesuffix("_s"): seconds for name, seconds in asdict(prediction.parts).items()},
        "memory_bytes": [m.total_bytes for m in prediction.memory],
        "interval_s": list(prediction.interval_s),
    }


def bound_document(plan: Plan) -> dict[str, float] | None:
    """The step time that no plan of the space beats, and how far above it the plan is; None when unknown."""
    if not plan.bound_s or plan.prediction is None:
        return None
    return {"step_time_s": plan.bound_s, "gap_pct": (plan.prediction.step_time_s / plan.bound_s - 1) * 100}
