"""Reads what a training left in its run folder: steps.jsonl, timeline.<rank>.json, evaluation.json.

A run that was interrupted has fewer lines and no evaluation; what is there is shown. A damaged file is refused with its
name and line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nebula.errors import BadInput
from nebula.report.findings import Measured, Step
from nebula.report.spans import Span

EVALUATION_WORDS = {
    "chapter": "held-out chapter",
    "tokens": "tokens of the chapter",
    "document_nats": "document LM, nats per token",
    "unigram_nats": "training unigram on the same tokens, nats per token",
}


def read_run(folder: Path) -> Measured:
    """What a run measured.

    Raises:
        BadInput: there is no such run, or a file of it is damaged.
    """
    steps_path = folder / "steps.jsonl"
    if not steps_path.is_file():
        raise BadInput(f"{folder} holds no run: there is no {steps_path.name} (nebula train writes it)")
    records = _lines(steps_path)
    evaluation = folder / "evaluation.json"
    figures = _document(evaluation) if evaluation.is_file() else {}
    return Measured(
        run=folder.resolve().name,
        clock=str(records[0]["clock"]) if records else "wall",
        steps=tuple(Step(**{name: record[name] for name in Step.__dataclass_fields__}) for record in records),
        spans=tuple(s for path in sorted(folder.glob("timeline.*.json")) for s in _spans(path)),
        evaluation=tuple((words, figures[key]) for key, words in EVALUATION_WORDS.items() if key in figures),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path}, line {number}: not JSON ({error.msg})") from None
        missing = {"clock", *Step.__dataclass_fields__} - set(record if isinstance(record, dict) else ())
        if missing:
            raise BadInput(f"{path}, line {number}: a step without {', '.join(sorted(missing))}; train again")
        records.append(record)
    return records


def _document(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path}: not a JSON object ({error})") from None


def _spans(path: Path) -> list[Span]:
    """Passes and update as compute, the device's collectives as communication."""
    record = _document(path)
    try:
        rank = int(record["rank"])
        passes = [
            Span(rank, "compute", s["kind"], int(s["micro_batch"]), float(s["start_s"]), float(s["end_s"]))
            for s in record["spans"]
        ]
        talks = [
            Span(rank, "communication", e["name"], -1, float(e["start_s"]), float(e["end_s"]))
            for e in record.get("events", ())
            if e["kind"] == "collective"
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: not the timeline of a rank ({error})") from error
    return passes + talks
