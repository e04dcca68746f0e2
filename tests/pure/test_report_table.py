"""The table of a plan as a terminal without colour shows it: one golden output, and what holds for all."""

from __future__ import annotations

import io

from rich.console import Console

from nebula.report.findings import Findings
from nebula.report.spans import end_s
from nebula.report.table import print_plan
from nebula.report.timeline_text import lane_text
from tests.pure.report_samples import large, small

GOLDEN = """\
fits  ernie-3.0-small on 4 devices of emulated-4 takes 1 s of virtual time a step, 8.19 k tokens/s
at 34 % of peak; the fullest device holds 24 GiB of 32 GiB (75 %); 3 G tokens take 4.2 days.

split     data 2 · tensor 1 · pipeline 2 (4|6 layers) · sharding stage 1 over 2 · 4 micro-batches
step      1 s virtual (900 ms to 1.12 s) · 8.19 k tokens/s · MFU 34 %
inputs    assumed: kernel time; data sheet: peak FLOP/s, links
engine    fleet, schedule 1f1b, fp32, adamw; 8 rows of 512 tokens a step
"""


def table(findings: Findings) -> str:
    out = io.StringIO()
    print_plan(findings, Console(file=out, width=100))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_the_head_of_the_table_is_the_golden_one():
    assert table(small()).startswith(GOLDEN)


def test_every_part_of_the_answer_is_in_the_table():
    text = " ".join(table(small()).split())
    for words in ("universal.0–2", "local/0 · devices", "compute 550 ms 55 %", "because Two stages", "second data 4"):
        assert words in text


def test_long_pipelines_are_folded():
    text = table(large())
    assert "1–56" in text
    assert len(text.splitlines()) < 45
    assert max(map(len, text.splitlines())) <= 100


def test_the_text_timeline_has_the_share_of_work_that_the_spans_have():
    spans = [s for s in small().spans if s.lane == 0]
    line = lane_text(spans, end_s(small().spans), 150)
    busy = sum(s.end_s - s.start_s for s in spans) / end_s(small().spans)
    assert abs(sum(c != "·" for c in line) / 150 - busy) < 0.03
    assert line.count("B") > 1.8 * line.count("F")
