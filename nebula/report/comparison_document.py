"""What `nebula compare --json` prints: both plans with their figures, what differs, and the verdict of the text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from nebula.planner.compare import NEITHER, Comparison
from nebula.report.comparison_text import Side
from nebula.report.document import outlook_document
from nebula.report.explanation_document import brief


def comparison_document(found: Comparison, sides: tuple[Side, Side]) -> dict[str, Any]:
    """The document of a comparison; what is not known is None."""
    judged = found.judgement
    return {
        "plans": [_side(side) for side in sides],
        "verdict": judged.verdict,
        "better": None if judged.better == NEITHER else sides[judged.better].name,
        "term": judged.term or None,
        "term_s": judged.term_s or None,
        "more_s": judged.more_s if all(side.plan.prediction for side in sides) else None,
        "differences": [each._asdict() for each in found.differences],
        "notes": list(found.notes),
    }


def _side(side: Side) -> dict[str, Any]:
    plan = side.plan
    ahead = outlook_document(side.outlook) if side.outlook else {"days": None, "money": None, "energy": None}
    limits = [m.limit_bytes for m in plan.prediction.memory] if plan.prediction else None
    return {
        "name": side.name,
        "made_from": asdict(plan.made_from),
        **brief(plan),
        "memory_limit_bytes": limits,
        **{name: ahead[name] for name in ("days", "money", "energy")},
    }
