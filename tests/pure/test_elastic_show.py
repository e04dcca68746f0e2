"""What others see of a controller: lines for people and machines, traces of recoveries, and a table."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rich.console import Console

from nebula.elastic.controller.journal import Happened
from nebula.elastic.controller.tracing import Tracer, stages
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.telling import FIELDS, as_json, as_text
from nebula.report.job_text import badput_words, event_document, goodput, status_document
from nebula.report.top_text import top_text

TRACE = "0123456789abcdef0123456789abcdef"
BACK = Happened(
    number=7,
    wall_s=1000.0,
    epoch=1,
    generation=2,
    step=31,
    kind="stepping",
    because="training goes on after 4.00 s; 1 step was done again",
    seconds={"told": 0.5, "stopped": 0.25, "loading": 2.0, "stepped": 1.25, "all": 4.0, "lost_steps": 1},
    trace=TRACE,
)


def test_json_lines_have_all_fields_and_what_is_known():
    lines = []
    tell = as_json(lines.append, lambda: 5.0, {"job_id": "small", "node": "a"})
    tell("b is lost", event="lost", ts=7.25, generation=3, node="b", rank=1, last_lines=["ärger"])
    tell("a said so")
    first, second = map(json.loads, lines)
    assert list(first) == ["ts", "level", "event", *FIELDS, "because", "last_lines"]
    assert (first["ts"], first["level"], first["event"], first["node"], first["rank"]) == (
        7.25,
        "error",
        "lost",
        "b",
        1,
    )
    assert (first["job_id"], first["site"], first["trace_id"]) == ("small", None, None)
    assert first["last_lines"] == ["ärger"]
    assert "ärger" in lines[0]
    assert (second["ts"], second["level"], second["event"], second["node"]) == (5.0, "info", "said", "a")


def test_people_get_the_sentence_and_the_last_lines():
    lines = []
    as_text(lines.append)("b failed", event="failed", rank=1, last_lines=["one", "two"])
    assert lines == ["b failed\n  | one\n  | two"]


def test_a_recovery_is_one_trace_with_a_span_for_each_stage():
    exporter = InMemorySpanExporter()
    tracer = Tracer("small", exporter)
    tracer.happened(replace(BACK, kind="failed"))
    tracer.happened(BACK)
    tracer.close()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert list(spans) == ["detect", "stop", "start", "new_step", "recovery"]
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE}
    whole = spans.pop("recovery")
    assert (whole.start_time, whole.end_time) == (996 * 10**9, 1000 * 10**9)
    assert whole.attributes["nebula.lost_steps"] == 1
    assert whole.resource.attributes["nebula.job"] == "small"
    at = whole.start_time
    for span in spans.values():
        assert span.parent.span_id == whole.context.span_id
        assert span.start_time == at
        at = span.end_time
    assert at == whole.end_time


def test_stages_follow_each_other():
    assert [(name, end - begin) for name, begin, end in stages(BACK)] == [
        ("detect", 0.5),
        ("stop", 0.25),
        ("start", 2.0),
        ("new_step", 1.25),
    ]


REPLY = wire.StatusReply(
    job="small",
    phase="running",
    step=31,
    step_s=0.5,
    generation=2,
    why="generation 2 begins on a, b",
    account_s={"productive": 90.0, "waiting": 4.0, "starting": 6.0, "degraded": 0.0},
    nodes=[wire.NodeStatus(node="a", state="member", step=31, slots=1, warm=1.0)],
)


def test_goodput_is_told_with_what_else_the_time_went_into():
    assert goodput(REPLY) == 0.9
    assert badput_words(REPLY) == ", starting 6 s, waiting 4 s"
    assert status_document(REPLY)["goodput"] == 0.9
    assert goodput(wire.StatusReply()) == 1.0


@pytest.mark.parametrize("events", [0, 30])
def test_top_fits_a_screen(events):
    told = [wire.Event(number=n, kind="joined", because=f"node {n} joined") for n in range(events)]
    out = Console(file=StringIO(), width=100)
    out.print(top_text(REPLY, told))
    text = out.file.getvalue()
    assert len(text.splitlines()) < 24
    assert max(map(len, text.splitlines())) <= 100
    assert "90.0 %" in text
    assert ("node 29 joined" in text) == (events > 0)


def test_an_event_without_a_rank_says_so():
    assert event_document(wire.Event(rank=-1))["rank"] is None
    assert event_document(wire.Event(rank=0))["rank"] == 0
