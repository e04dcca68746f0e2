"""Rows of runs files for the tests: published ones from measured_runs.yaml, and a small one to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nebula.cost_model.runs.case import Case, case_of
from nebula.cost_model.runs.schema import Row, load_rows, rows_of
from nebula.marked_yaml import Document, parse
from nebula.models.decoders_measured import described_run

PUBLISHED = Path(__file__).with_name("measured_runs.yaml")

SMALL: dict[str, Any] = {
    "id": "small",
    "model": "gpt-small",
    "layers": 4,
    "hidden": 256,
    "heads": 8,
    "ffn_hidden": 1024,
    "gated_mlp": False,
    "vocab": 1024,
    "seq_len": 128,
    "device": "A100-80GB-SXM",
    "devices": 8,
    "precision": "bf16",
    "tp": 2,
    "pp": 2,
    "dp": 2,
    "micro_batch": 1,
    "global_batch": 8,
    "measured": {"step_time_s": 0.1},
}


def row(**changes: Any) -> Row:
    """The small row with other keys; a key given as None is left out."""
    return Row.model_validate({k: v for k, v in {**SMALL, **changes}.items() if v is not None})


def case(**changes: Any) -> Case:
    """The small row as a case."""
    found = case_of(row(**changes), described_run)
    assert isinstance(found, Case), found.reason
    return found


def published() -> tuple[Row, ...]:
    """The rows of measured_runs.yaml."""
    return load_rows(PUBLISHED)


def rows(text: str) -> tuple[Row, ...]:
    """The rows of a text."""
    return rows_of(document(text))


def document(text: str) -> Document:
    """A text as the document of a file runs.yaml."""
    return parse(text, "runs.yaml")
