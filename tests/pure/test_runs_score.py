"""Errors over rows, and the verb validate: its table and its document."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nebula.cli.main import app
from nebula.cost_model.runs.score import Errors, errors_of, validate
from nebula.models.decoders_measured import described_run
from tests.pure.runs_samples import PUBLISHED, SMALL, published, row

PERCENTS = st.lists(st.floats(-99, 500), min_size=1, max_size=50)


def run(*arguments: object):
    return CliRunner().invoke(app, ["validate", *map(str, arguments)], catch_exceptions=False)


@given(PERCENTS)
def test_errors_by_their_definitions(percents: list[float]) -> None:
    errors = errors_of(percents)
    amounts = sorted(map(abs, percents))
    assert errors.rows == len(percents)
    assert amounts[0] <= errors.median_abs_pct <= errors.p90_abs_pct <= amounts[-1] + 1e-9
    assert errors.mean_abs_pct == pytest.approx(sum(amounts) / len(amounts))
    assert errors.bias_pct == pytest.approx(sum(percents) / len(percents))
    assert abs(errors.bias_pct) <= errors.mean_abs_pct + 1e-9


def test_no_rows_have_no_errors() -> None:
    assert errors_of([]) == Errors()
    assert errors_of([]).document == {
        "rows": 0,
        "median_abs_pct": None,
        "mean_abs_pct": None,
        "p90_abs_pct": None,
        "bias_pct": None,
    }


def test_a_row_measured_as_predicted_has_no_error() -> None:
    (first,) = validate([row()], described_run).scored
    exact = {"step_time_s": first.predicted.time_s, "peak_alloc_gib": first.predicted.peak_bytes / 2**30}
    (second,) = validate([row(measured=exact)], described_run).scored
    assert (second.time_pct, second.memory_pct) == (pytest.approx(0.0, abs=1e-9), pytest.approx(0.0, abs=1e-9))
    (slow,) = validate([row(measured={"step_time_s": 2 * first.predicted.time_s})], described_run).scored
    assert (slow.time_pct, slow.memory_pct) == (pytest.approx(-50.0), None)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(PUBLISHED, "--json").stdout)
    return found


def test_groups_hold_every_row_once() -> None:
    found = validate(published(), described_run)
    assert len(found.scored) + len(found.refused) == len(published())
    for group in ("source", "device", "stack"):
        parts = found.by(group).values()
        assert sum(len(p.scored) for p in parts) == len(found.scored)
        assert sum(len(p.refused) for p in parts) == len(found.refused)
    worst = [s.worst_pct for s in found.scored]
    assert worst == sorted(worst, reverse=True)


def test_the_document_has_the_agreed_keys(document: dict[str, Any]) -> None:
    assert set(document) >= {"time", "memory", "by", "unsupported", "rows"}
    assert set(document["time"]) == {"rows", "median_abs_pct", "mean_abs_pct", "p90_abs_pct", "bias_pct"}
    assert set(document["by"]) == {"source", "device", "stack"}
    assert len(document["rows"]) + len(document["unsupported"]) == len(published())
    assert all(r["reason"] for r in document["unsupported"])
    signed = [r["error_pct"] for r in document["rows"] if r["error_pct"] is not None]
    assert document["time"]["median_abs_pct"] == pytest.approx(float(np.median(np.abs(signed))), abs=1e-3)
    for one in document["rows"]:
        if one["measured"]:
            assert one["error_pct"] == pytest.approx(100 * (one["predicted"] / one["measured"] - 1))


def test_the_errors_come_first_and_then_the_worst_rows(document: dict[str, Any]) -> None:
    shown = run(PUBLISHED, "--worst", 2).stdout
    first, second = (shown.index(document["rows"][i]["id"][:20]) for i in (0, 1))
    assert shown.index("by source") < first < second
    assert "mosaicml/llm-foundry" in shown


def test_an_unknown_stack_and_device_are_predicted_not_skipped(tmp_path) -> None:
    path = tmp_path / "runs.yaml"
    strange = SMALL | {"device": "Foo X9", "precision": "posit16", "execution": {"stack": "brand-new"}, "intra": "?"}
    path.write_text(yaml.safe_dump([strange]))
    document = json.loads(run(path, "--json").stdout)
    assert not document["unsupported"]
    assert list(document["by"]["stack"]) == ["brand-new"]


def test_a_wrong_file_ends_with_one_sentence_and_exit_code_2(tmp_path) -> None:
    path = tmp_path / "runs.yaml"
    path.write_text(yaml.safe_dump([SMALL | {"dp": 3}]))
    found = run(path)
    assert found.exit_code == 2
    assert found.stderr.startswith("nebula: row 'small': ")
    assert "runs.yaml:1:3: the split" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_example_of_the_docs_is_predicted(tmp_path) -> None:
    page = (Path(__file__).parents[2] / "docs/runs-file.md").read_text()
    path = tmp_path / "runs.yaml"
    path.write_text(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    document = json.loads(run(path, "--json").stdout)
    # its source prints no memory
    assert (document["time"]["rows"], document["memory"]["rows"], document["doubts"]) == (1, 0, [])
    assert document["unsupported"] == []
