"""What a run left behind is read as it is; damaged files are named; a search is kept beside its plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nebula.errors import BadInput
from nebula.report.measured import read_run
from nebula.report.search_file import load_search, save_search
from nebula.report.words import measured_words
from tests.pure.report_samples import small

STEP = {
    "step": 1, "loss": 9.5, "tokens": 1024, "predicted_s": 1.0, "took_s": 1.1, "clock": "virtual",
    "memory_bytes": 7, "mfu": 0.3,
}  # fmt: skip
TIMELINE = {
    "rank": 2,
    "stage": 1,
    "spans": [{"kind": "F", "micro_batch": 0, "start_s": 0.0, "end_s": 0.4}],
    "events": [
        {"kind": "collective", "name": "all_reduce", "stream": 1, "start_s": 0.4, "end_s": 0.5},
        {"kind": "kernel", "name": "matmul", "stream": 0, "start_s": 0.0, "end_s": 0.1},
    ],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "first"
    folder.mkdir()
    lines = [json.dumps({**STEP, "step": i, "took_s": took}) for i, took in enumerate((9.0, 3.0, 1.0, 1.2, 1.1), 1)]
    (folder / "steps.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "timeline.2.json").write_text(json.dumps(TIMELINE))
    (folder / "evaluation.json").write_text(json.dumps({"chapter": 80, "document_nats": 6.5, "unigram_nats": 7.1}))
    return folder


def test_steps_timeline_and_evaluation_are_read(run):
    measured = read_run(run)
    assert (measured.run, measured.clock, len(measured.steps)) == ("first", "virtual", 5)
    assert [(s.lane, s.thread, s.kind) for s in measured.spans] == [
        (2, "compute", "F"),
        (2, "communication", "all_reduce"),
    ]
    assert dict(measured.evaluation)["document LM, nats per token"] == 6.5


def test_the_step_time_is_the_median_without_the_first_two(run):
    assert read_run(run).step_time_s == 1.1


def test_a_run_that_was_interrupted_shows_what_is_there(run):
    (run / "evaluation.json").unlink()
    (run / "timeline.2.json").unlink()
    measured = read_run(run)
    assert len(measured.steps) == 5
    assert measured.spans == ()
    assert measured.evaluation == ()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("steps.jsonl", json.dumps(STEP) + '\n{"step"', "steps.jsonl, line 2: not JSON"),
        ("steps.jsonl", '{"step": 1, "clock": "wall"}\n', "steps.jsonl, line 1: a step without loss, memory_bytes"),
        ("timeline.2.json", '{"rank": 2}', "timeline.2.json: not the timeline of a rank"),
        ("evaluation.json", "[", "evaluation.json: not a JSON object"),
    ],
)
def test_a_damaged_file_is_named(run, file, text, said):
    (run / file).write_text(text)
    with pytest.raises(BadInput, match=said):
        read_run(run)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"there is no steps\.jsonl"):
        read_run(tmp_path)


def test_measured_is_compared_with_predicted():
    words = measured_words(small(measured=True))
    assert "1.06 s of virtual time, +6.0% against the 1 s predicted" in words


def test_a_search_comes_back_as_it_was_kept(tmp_path):
    search, path = small().search, tmp_path / "search.json"
    save_search(search, path)
    assert load_search(path) == search
    path.write_text("{}")
    with pytest.raises(BadInput, match="not the record of a search"):
        load_search(path)


@pytest.mark.parametrize("line", ["{}", "[1, 2]", '"text"', "\udcff"])
def test_a_line_that_is_no_step_is_named(run, line):
    with (run / "steps.jsonl").open("a", errors="surrogateescape") as file:
        file.write(line + "\n")
    with pytest.raises(BadInput, match=r"steps\.jsonl, line 6: "):
        read_run(run)
