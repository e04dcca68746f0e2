"""Errors over rows, intervals, and the verb validate: its text, its document, and what it makes of wrong rows."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from nebula.cli.main import app
from nebula.cluster.values import Link
from nebula.cost_model.confidence import run_doubts, run_interval
from nebula.cost_model.runs.predict import predict
from nebula.cost_model.runs.schema import read_rows
from nebula.cost_model.runs.score import OURS, Errors, Validation, errors_of, validate
from nebula.cost_model.runs.score_document import document_of
from nebula.marked_yaml import Document
from nebula.models.decoders_measured import described_run
from nebula.report.validation_text import part_words, validation_text
from tests.pure.runs_samples import SMALL, case, published, row

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
def found() -> Validation:
    return validate(published(), described_run)


@pytest.fixture(scope="module")
def document(found: Validation) -> dict[str, Any]:
    return document_of(found)


def shown(validation: Validation, worst: int, invalid: tuple[tuple[str, str], ...] = ()) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100, highlight=False, markup=False).print(validation_text(validation, worst, invalid))
    return stream.getvalue()


def test_groups_hold_every_row_once(found: Validation) -> None:
    assert len(found.scored) + len(found.refused) == len(published())
    for group in ("source", "device", "stack"):
        parts = found.by(group).values()
        assert sum(len(p.scored) for p in parts) == len(found.scored)
        assert sum(len(p.refused) for p in parts) == len(found.refused)
    worst = [s.worst_pct for s in found.scored]
    assert worst == sorted(worst, reverse=True)


def test_rows_that_share_blocks_are_predicted_as_if_each_were_alone(found: Validation) -> None:
    for one in found.scored[::6]:
        alone = predict(one.predicted.case)
        assert (alone.time_s, alone.peak_bytes) == (one.predicted.time_s, one.predicted.peak_bytes)


def test_the_parts_of_a_step_sum_to_it_and_none_is_below_zero(found: Validation) -> None:
    for one in found.scored:
        if one.row.is_step:
            assert sum(one.parts_s.values()) == pytest.approx(one.predicted.time_s, rel=1e-9)
            assert min(one.parts_s.values()) > 0, one.row.id
        else:
            assert one.parts_s == {}
    piped = next(s for s in found.scored if s.row.pp > 1)
    assert {"compute", "pipeline", "update", "host"} <= piped.parts_s.keys()


def test_intervals_hold_their_prediction_and_count_what_lies_inside(found: Validation) -> None:
    inside = 0
    for one in found.scored:
        low, high = one.interval_s
        assert low < one.predicted.time_s < high
        inside += low <= one.predicted.case.measured.time_s <= high
    assert found.time_within_pct == pytest.approx(100 * inside / found.time.rows)


def test_an_interval_widens_with_what_is_not_known() -> None:
    def width(**changes: Any) -> float:
        one = case(**changes)
        low, high = run_interval(1.0, one.cluster, one.execution)
        return high / low

    known = {"execution": {"attention": "flash-attention 3", "overlap": {"data": True}}, "intra": "NVLink4 900GB/s"}
    measured = width(device="H100-80GB-SXM", **known)
    sheet = width(device="Ascend-910", **known)
    unknown = width(device="Foo", **known)
    assert measured < sheet < unknown
    assert measured < width(device="H100-80GB-SXM", **(known | {"execution": {}}))
    assert measured < width(device="H100-80GB-SXM", **(known | {"intra": "?"}))
    one = case(device="H100-80GB-SXM", **known)
    far = replace(one.cluster, wan=Link(kind="wan", bytes_per_s=1e8, latency_s=0.05))
    assert len(run_doubts(far, one.execution)) == len(run_doubts(one.cluster, one.execution)) + 1


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


def test_each_row_of_the_document_says_what_it_rests_on(document: dict[str, Any]) -> None:
    json.dumps(document, allow_nan=False)
    for one in document["rows"]:
        assert one["interval"][0] < one["predicted"] < one["interval"][1]
        assert set(one["assumed"]) == {"execution", "hardware"}
        if one["kind"] != "layer":
            assert one["memory"]["moment"]
            assert one["memory"]["largest"]
    assert set(document["within_interval_pct"]) == {"time", "memory"}
    assert document["by"]["source"]["pytorch/torchtitan"]["memory"]["rows"] == 4


def test_the_text_says_the_whole_first_and_the_worst_rows_worst_first(
    found: Validation, document: dict[str, Any]
) -> None:
    text = shown(found, 2, (("number 7", "row number 7: this must be a mapping, not 3"),))
    lines = text.splitlines()
    assert lines[0] == f"{len(published()) + 1} runs, {len(found.scored)} predicted, 1 not"
    assert lines[2].split()[:2] == ["time", str(found.time.rows)]
    assert lines[3].split()[:2] == ["memory", str(found.memory.rows)]
    assert max(map(len, lines)) <= 100
    first, second = (text.index(f"\n{document['rows'][i]['id']}") for i in (0, 1))
    assert text.index("by stack") < first < second < text.index("not predicted")
    assert "mosaicml/llm-foundry" in text
    assert "number 7: row number 7: this must be a mapping, not 3" in text
    assert document["rows"][0]["id"] not in shown(found, 0)


def test_where_a_time_goes_is_said_largest_first() -> None:
    assert (
        part_words({"update": 2.0, "compute": 7.0, "host": 0.1, "data": 0.9}) == "compute 70 %, update 20 %, data 9 %"
    )


def test_texts_of_a_file_cannot_move_the_cursor() -> None:
    strange = row(model="a\x1b[2J", device="Foo\nBar\x1b[31m", execution={"stack": "s\x1b]0;x"})
    text = shown(validate([strange], described_run), 1)
    assert "\x1b" not in text
    assert "device Foo Bar[31m is not known: predicted as A100-80GB-SXM, 1 row" in text


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(list(rows)))
    return path


def test_an_unknown_stack_and_device_are_predicted_not_skipped(tmp_path: Path) -> None:
    strange = SMALL | {"device": "Foo", "precision": "posit16", "execution": {"stack": "brand-new"}, "intra": "?"}
    document = json.loads(run(write(tmp_path / "runs.yaml", strange), "--json").stdout)
    assert not document["unsupported"]
    assert list(document["by"]["stack"]) == ["brand-new"]
    assert document["rows"][0]["assumed"]["hardware"] == [
        "device Foo is not known: predicted as A100-80GB-SXM",
        "n intra",
    ]


def test_a_wrong_row_is_told_of_and_the_others_are_predicted(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.yaml", SMALL | {"dp": 3}, SMALL | {"id": "good"}, SMALL | {"hidden": -1, "id": "x"})
    found = run(path, "--json")
    assert found.exit_code == 2
    assert "row 'small': " in found.stderr
    assert "the split does not multiply out: tp 2 × pp 2 × dp 3" in found.stderr
    assert re.search(r"row 'x': .*runs\.yaml:\d+:\d+: hidden must be at least 1, not -1", found.stderr)
    assert "Traceback" not in found.stderr
    document = json.loads(found.stdout)
    assert [r["id"] for r in document["rows"]] == ["good"]
    assert [r["id"] for r in document["unsupported"]] == ["small", "x"]
    assert run(path, "--json", "--keep-going").exit_code == 0
    assert run(write(tmp_path / "all.yaml", SMALL | {"dp": 3})).exit_code == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"device": "H100-80GB-SXM", "intra": "NVLink4 900Gb/s"}, "row 'small': intra: .*did you mean 900 GB/s"),
        ({"device": "H100-80GB-SXM", "intra": "900Gb/s"}, "row 'small': intra: .*did you mean 900 GB/s"),
        ({"devices": 16, "dp": 4, "inter": "8x400GB/s"}, "row 'small': inter: .*did you mean 400 Gb/s"),
        ({"measured": {"step_time_s": 0.1, "peak_mem_gib": 30000}}, "row 'small': measured.peak_mem_gib: .*which unit"),
    ],
)
def test_a_figure_in_the_wrong_unit_is_suspicious(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    found = run(write(tmp_path / "runs.yaml", SMALL | changes), "--json")
    assert found.exit_code == 0
    assert re.search(f"warning: {sentence}", found.stderr)
    assert re.search(sentence, json.loads(found.stdout)["suspicious"][0]["sentence"])


def test_milliseconds_given_as_seconds_are_suspicious() -> None:
    (first,) = validate([row()], described_run).scored
    wrong = validate([row(measured={"step_time_s": 900 * first.predicted.time_s})], described_run)
    assert "did you mean a thousandth of it?" in wrong.suspicious[0].sentence
    assert not validate([row(measured={"step_time_s": 3 * first.predicted.time_s})], described_run).suspicious


@pytest.mark.parametrize(
    "changes",
    [
        {"stage_partition": "0, 1.5, 4"},
        {"intra": "NVLink4 0GB/s"},
        {"devices": 16, "dp": 4, "inter": "0x400Gb/s IB"},
        {"layers": 1, "pp": 4, "dp": 1},
        {"moe": {"experts": 2, "top_k": 8, "moe_ffn": 64}},
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(changes: dict[str, Any]) -> None:
    (refused,) = validate([row(**changes)], described_run).refused
    assert not refused.reason.startswith(OURS)


def test_an_error_of_ours_costs_one_row() -> None:
    def broken(of, execution):
        if of.id == "bad":
            raise ZeroDivisionError("no")
        return described_run(of, execution)

    two = validate([row(id="bad"), row()], broken)
    assert [r.reason for r in two.refused] == [f"{OURS}: ZeroDivisionError: no"]
    assert [s.row.id for s in two.scored] == ["small"]


NUMBERS = (None, 0, -1, 3, 7, 64, 2**20, 2**31, 10**14, 1e300, 0.5, True, [], {}, [1, 2], {"a": 1})
TEXTS = ("", "x", "8", "2 GB", "fsdp(2) over 0", "2 over 3", "MLA(kv_lora 0)", "window 0", "0x400Gb/s", "NVLink4 0GB/s")
MORE = ("2x A100 + 6x T4", "dualpipe", "every-0th-layer", "[0, 3, 6]", "6,3,0", "layer", "layer_shard", "mixed_cluster")
ODD = st.sampled_from((*NUMBERS, *TEXTS, *MORE))
KEYS = [*SMALL, "kind", "kv_heads", "head_dim", "moe", "attention", "devices_per_node", "intra", "inter", "vpp", "cp"]
KEYS += ["ep", "etp", "zero", "recompute", "overlap", "notes", "stage_partition", "stage_devices", "execution", "date"]


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), ODD, min_size=1, max_size=3))
def test_odd_values_end_in_a_prediction_or_a_reason(changes: dict[str, Any]) -> None:
    read = read_rows(Document(value=[SMALL | changes], source="odd", marks={}, folder=Path()))
    assert len(read.rows) + len(read.faults) == 1
    found = validate(read.rows, described_run)
    assert not any(r.reason.startswith(OURS) for r in found.refused)
    json.dumps(document_of(found), allow_nan=False)


def test_progress_is_told_after_each_row() -> None:
    told: list[int] = []
    validate([row(), row(id="b")], described_run, told.append)
    assert told == [1, 2]


def test_the_example_of_the_docs_is_predicted(tmp_path) -> None:
    page = (Path(__file__).parents[2] / "docs/runs-file.md").read_text()
    path = tmp_path / "runs.yaml"
    path.write_text(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    document = json.loads(run(path, "--json").stdout)
    # its source prints no memory
    assert (document["time"]["rows"], document["memory"]["rows"], document["doubts"]) == (1, 0, [])
    assert document["unsupported"] == []
