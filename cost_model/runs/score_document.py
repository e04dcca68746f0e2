"""What `nebula validate --json` prints: errors in percent, times in seconds, memory in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nebula.cost_model.runs.choices import choices
from nebula.cost_model.runs.ranks import NO_RANKS, Rank, Ranks
from nebula.cost_model.runs.sanity import Doubt
from nebula.cost_model.runs.score import GROUPS, Scored, Validation


def document_of(
    validation: Validation, invalid: Sequence[tuple[str, str]] = (), ranks: Ranks = NO_RANKS
) -> dict[str, Any]:
    """The document of a validation.

    Args:
        validation: of the rows that could be read.
        invalid: id and reason of those that could not.
        ranks: of jobs that were measured under several splits.
    """
    refused = [*invalid, *((r.row.id, r.reason) for r in validation.refused)]
    return {
        "time": validation.time.document,
        "memory": validation.memory.document,
        "within_interval_pct": {
            "time": _rounded(validation.time_within_pct),
            "memory": _rounded(validation.memory_within_pct),
        },
        "by": {group: {name: _part(part) for name, part in validation.by(group).items()} for group in GROUPS},
        "choices": _choices(validation, ranks),
        "unsupported": [{"id": name, "reason": reason} for name, reason in refused],
        "doubts": [_doubt(d) for d in validation.doubts],
        "suspicious": [{"id": s.id, "sentence": s.sentence} for s in validation.suspicious],
        "rows": [_row(s) for s in validation.scored],
    }


def _choices(validation: Validation, ranks: Ranks) -> dict[str, Any]:
    """Of jobs measured under several splits, how often the one predicted fastest is within NEAR of the fastest."""
    found = choices(validation.scored)
    return {
        "jobs": len(found),
        "right": sum(choice.right for choice in found),
        "each": [
            {
                "chosen": choice.chosen.row.id,
                "best": choice.best.row.id,
                "splits": choice.splits,
                "lost_pct": round(100.0 * choice.lost, 3),
                "rank": _rank(ranks[choice.best.row.id]) if ranks else None,
            }
            for choice in found
        ],
    }


def _rank(rank: Rank) -> dict[str, Any]:
    return {
        "position": rank.position,
        "of": rank.splits,
        "behind_pct": round(100.0 * rank.behind, 3),
        "first": rank.first.words,
    }


def _part(part: Validation) -> dict[str, Any]:
    return part.time.document | {
        "memory": part.memory.document,
        "within_interval_pct": _rounded(part.time_within_pct),
        "unsupported": len(part.refused),
    }


def _doubt(doubt: Doubt) -> dict[str, Any]:
    return {
        "id": doubt.id,
        "model": doubt.model,
        "what": doubt.what,
        "described": doubt.described,
        "expected": doubt.expected,
        "error_pct": round(doubt.error_pct, 3),
    }


def _row(scored: Scored) -> dict[str, Any]:
    predicted, row = scored.predicted, scored.row
    return {
        "id": row.id,
        "kind": row.kind,
        "predicted": predicted.time_s,
        "measured": predicted.case.measured.time_s or None,
        "error_pct": scored.time_pct,
        "interval": list(scored.interval_s),
        "within_interval": scored.time_within,
        "parts": scored.parts_s,
        "memory": _memory(scored),
        "assumed": {
            "execution": list(predicted.case.execution.assumed),
            "hardware": list(scored.assumed_hardware),
        },
        **{name: key(row) for name, key in GROUPS.items()},
    }


def _memory(scored: Scored) -> dict[str, Any]:
    """Of the rank that holds most; null where a layer alone was measured."""
    peak = scored.predicted.peak
    return {
        "predicted": scored.predicted.peak_bytes if peak else None,
        "measured": scored.predicted.case.measured.peak_bytes or None,
        "error_pct": scored.memory_pct,
        "interval": list(peak.interval_bytes) if peak else None,
        "within_interval": scored.memory_within,
        "counted": peak.counted.value if peak else None,
        "moment": peak.moment if peak else None,
        "largest": peak.holder if peak else None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
