"""What `nebula explain --json` prints: the same sentences as the text, beside the figures that they speak of."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from nebula.plan.degrees import degrees_of
from nebula.plan.values import Plan
from nebula.planner.alternatives import Alternative, Explanation
from nebula.planner.rejected import Rejection
from nebula.planner.why_not import WhyNot
from nebula.report.document import bound_document, prediction_document


def explanation_document(found: Explanation) -> dict[str, Any]:
    """The document of an explanation."""
    plan = found.plan
    return {
        "plan": brief(plan),
        "because": found.because,
        "runner_up": asdict(plan.runner_up) if plan.runner_up else None,
        "better": list(found.better),
        "bound": {**(bound_document(plan) or {}), "sentence": found.bound},
        "alternatives": [_alternative(each) for each in found.alternatives],
        "rejected": [rejection_document(each) for each in found.rejections],
        "notes": list(found.notes),
    }


def why_not_document(found: WhyNot, plan: Plan) -> dict[str, Any]:
    """The document of an alternative against a plan; figures that there are none of are None."""
    compared, memory = found.outcome in ("slower", "equal", "faster"), found.outcome == "memory" and found.plans
    return {
        "why_not": dict(found.degrees),
        "outcome": found.outcome,
        "sentence": found.sentence,
        "rule": found.rule or None,
        "facts": list(found.facts),
        "remedies": list(found.remedies),
        "plan": brief(plan),
        "alternative": brief(found.plans[0]) if found.plans else None,
        "more_s": found.more_s if compared else None,
        "term": found.term if compared else None,
        "term_more_s": found.term_more_s if compared else None,
        "stage": found.stage if memory else None,
        "over_bytes": found.over_bytes if memory else None,
    }


def brief(plan: Plan) -> dict[str, Any]:
    """A plan without its ranks: what people compare."""
    return {
        "split": plan.split,
        "degrees": degrees_of(plan),
        "layers": [list(stage.layers) for stage in plan.stages],
        "devices": plan.world_size,
        "micro_batches": plan.micro_batches,
        "prediction": prediction_document(plan.prediction) if plan.prediction else None,
    }


def _alternative(each: Alternative) -> dict[str, Any]:
    return {
        **brief(each.plan),
        "more_s": each.more_s,
        "term": each.term,
        "term_more_s": each.term_more_s,
        "sentence": each.sentence,
    }


def rejection_document(each: Rejection) -> dict[str, Any]:
    """What one rule left out."""
    return {
        "rule": each.rule,
        "count": each.count,
        "counted": each.counted,
        "meaning": each.meaning,
        "facts": list(each.facts),
        "remedies": list(each.remedies),
    }
