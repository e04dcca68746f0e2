"""The Chrome trace: the shape that Perfetto reads, and the same times as the timelines it was made from."""

import json

import pytest

from nebula.report.trace import MEASURED, chrome_trace, write_trace
from tests.pure.report_samples import small


def events(phase: str, *, measured: bool = True) -> list[dict]:
    return [e for e in chrome_trace(small(measured=measured))["traceEvents"] if e["ph"] == phase]


def test_it_is_json_of_known_phases_with_their_fields(tmp_path):
    path = tmp_path / "trace.json"
    write_trace(small(measured=True), path)
    trace = json.loads(path.read_text(encoding="utf-8"))
    assert trace["displayTimeUnit"] == "ms"
    fields = {
        "M": {"name", "args"},
        "X": {"ts", "dur", "tid", "name"},
        "s": {"id", "ts"},
        "t": {"id"},
        "f": {"id", "bp"},
    }
    for event in trace["traceEvents"]:
        assert fields[event["ph"]] <= event.keys()
        assert isinstance(event["pid"], int)


def test_predicted_stages_and_measured_ranks_are_named_processes():
    names = {e["pid"]: e["args"]["name"] for e in events("M") if e["name"] == "process_name"}
    assert names[1] == "predicted · stage 0"
    assert names[MEASURED + 2] == "measured (virtual time) · stage 1 · rank 2"
    assert {e["pid"] for e in events("X")} == names.keys()


def test_times_are_microseconds_of_the_spans():
    findings = small(measured=True)
    complete = events("X")
    assert len(complete) == len(findings.spans) + len(findings.measured.spans)
    last = max(e["ts"] + e["dur"] for e in complete if e["pid"] < MEASURED)
    assert last == pytest.approx(max(s.end_s for s in findings.spans) * 1e6)


def test_each_micro_batch_flows_through_every_stage_and_back():
    flows = [e for e in chrome_trace(small())["traceEvents"] if e["ph"] in "stf"]
    for micro_batch in range(4):
        chain = [e for e in flows if e["id"] == 1 + micro_batch]
        assert [e["ph"] for e in chain] == ["s", "t", "t", "f"]
        assert [e["pid"] for e in chain] == [1, 2, 2, 1]
        assert [e["ts"] for e in chain] == sorted(e["ts"] for e in chain)


def test_a_flow_point_lies_inside_a_span_of_its_thread():
    spans = events("X")
    for flow in events("s") + events("t") + events("f"):
        around = [e for e in spans if e["pid"] == flow["pid"] and e["tid"] == flow["tid"]]
        assert any(e["ts"] <= flow["ts"] <= e["ts"] + e["dur"] for e in around)
