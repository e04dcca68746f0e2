"""The HTML report: offline, well-formed, with every figure that a reader looks for, and small for large clusters."""

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.report.findings import Findings
from nebula.report.folding import UNUSED, Look, neighbours, repeats
from nebula.report.html import report_page, write_report
from nebula.report.report_document import report_document
from nebula.report.spans import Span, merged
from nebula.report.svg import ticks
from tests.pure.report_samples import large, small

DRAWINGS = re.compile(r"<svg.*?</svg>", re.DOTALL)


def drawings(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(text) for text in DRAWINGS.findall(page)]


@pytest.mark.parametrize("findings", [small(), small(measured=True), large()], ids=["dry", "measured", "large"])
def test_the_page_needs_no_network_and_its_drawings_are_well_formed(findings: Findings):
    page = report_page(findings)
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", page)
    assert len(drawings(page)) >= 4
    assert len(page) < 400_000


def test_the_verdict_comes_first_and_says_what_the_plan_says():
    page = report_page(small())
    title = page.index("<h1>")
    assert title < page.index("<section>")
    head = page[title : page.index("</h1>")]
    assert "ernie-3.0-small on 4 devices of emulated-4 takes 1 s of virtual time a step" in head
    assert ">fits<" in head


def test_a_plan_that_does_not_fit_says_so():
    findings = small()
    assert findings.plan.prediction
    tight = tuple(replace(m, limit_bytes=m.total_bytes / 1.2) for m in findings.plan.prediction.memory)
    plan = replace(findings.plan, prediction=replace(findings.plan.prediction, memory=tight))
    assert ">does not fit<" in report_page(replace(findings, plan=plan))


def test_names_from_files_cannot_become_markup():
    findings = small()
    named = replace(findings.plan.made_from, model="<script>alert(1)</script>")
    page = report_page(replace(findings, plan=replace(findings.plan, made_from=named)))
    assert "<script>alert" not in page


def test_every_device_is_drawn_with_its_stage_while_the_cluster_is_small():
    cluster = drawings(report_page(small()))[1]
    stages = [r.get("data-stage") for r in cluster.iter("rect") if r.get("data-stage") is not None]
    assert sorted(stages) == ["0", "0", "1", "1"]


def test_nodes_that_repeat_are_drawn_once():
    cluster = drawings(report_page(large()))[1]
    devices = [r for r in cluster.iter("rect") if r.get("data-stage") is not None]
    assert len(devices) == 60 * 8
    assert sum(t.text == "× 4" for t in cluster.iter("text")) == 60


def test_what_was_measured_stands_beside_what_was_predicted():
    page = report_page(small(measured=True))
    assert "+6.0% against the 1 s predicted" in page
    assert "nats per token" in page


def test_a_report_replaces_the_one_before(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(small(), path)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


look = st.builds(Look, st.tuples(st.integers(UNUSED, 3), st.integers(UNUSED, 3)), st.sampled_from(["", "excluded"]))


@given(st.lists(look, min_size=1, max_size=40))
def test_folding_keeps_every_node_once_with_its_stages(nodes):
    folded = repeats(neighbours(nodes))
    drawn = {index: tile.look for tile in folded for index in tile.nodes}
    assert drawn == dict(enumerate(nodes))
    assert sum(len(tile.nodes) for tile in folded) == len(nodes)


@given(
    st.lists(st.tuples(st.sampled_from("FB"), st.integers(1, 50), st.integers(0, 30)), min_size=1), st.integers(1, 20)
)
def test_joined_spans_cover_what_they_stand_for(pieces, least_s):
    spans, now = [], 0
    for kind, length, gap in pieces:
        spans.append(Span(0, "compute", kind, 0, now + gap, now + gap + length))
        now += gap + length
    blocks = merged(spans, least_s)
    assert sum(b.spans for b in blocks) == len(spans)
    assert all(a.end_s <= b.start_s for a, b in pairwise(blocks))
    for block in blocks:
        inside = [s for s in spans if block.start_s <= s.start_s and s.end_s <= block.end_s]
        assert len(inside) == block.spans
        assert {s.kind for s in inside} == block.kinds


@given(st.floats(1e-9, 1e9), st.integers(3, 10))
def test_ticks_are_few_and_inside(high, count):
    marks = ticks(high, count)
    assert 2 <= len(marks) <= count + 2
    assert all(0 <= m <= high * 1.001 for m in marks)


def test_a_device_of_several_stages_is_named_by_all_of_them():
    findings = small()
    first, second = findings.plan.stages
    cut = [(0, 2), (2, 4), (4, 7), (7, 10)]
    stages = tuple(replace(home, layers=run) for home, run in zip((first, second, second, first), cut, strict=True))
    chosen = replace(findings.plan, stages=stages, schedule="zb-v")
    assert chosen.prediction
    memory = (*chosen.prediction.memory, *chosen.prediction.memory[::-1])
    chosen = replace(chosen, prediction=replace(chosen.prediction, memory=memory))
    page = report_page(replace(findings, plan=chosen))
    assert page.count(">stages 0, 3</text>") == 1
    assert page.count(">stages 1–2</text>") == 1
    assert page.count("device 0: stages 0, 3<") == 1
    shown = [r.get("data-stage") for r in drawings(page)[1].iter("rect") if r.get("data-stage") is not None]
    assert sorted(shown) == ["0", "0", "1", "1"]


def test_every_stage_has_its_ranks_and_the_type_of_its_devices():
    findings = small()
    page = report_page(findings)
    for stage, row in zip(findings.plan.stages, report_document(findings)["stages"], strict=True):
        assert row["ranks"] == f"{min(stage.ranks)}–{max(stage.ranks)}"
        assert row["types"] == "Ascend-910"
        assert f'title="ranks {row["ranks"]}">{row["devices"]}</td><td class="name">Ascend-910</td>' in page
