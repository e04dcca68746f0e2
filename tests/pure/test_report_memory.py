"""Memory in the report: every holder is drawn in proportion, panels reach the peak, many stages are chosen from."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cost_model.memory_timeline import HOLDERS
from nebula.report.html import report_page
from nebula.report.memory_drawing import SLOTS, memory_bars, memory_pairs, memory_panels, shown_timelines
from nebula.report.report_document import report_document
from tests.pure.report_samples import filling, large, small


def held(svg: str) -> list[ElementTree.Element]:
    return [e for e in ElementTree.fromstring(svg).iter() if (e.get("class") or "").startswith("memory-")]


def test_a_bar_is_as_long_as_all_that_is_held():
    (first, second) = small().plan.prediction.memory
    first = replace(first, logits_bytes=1e9, buffers_bytes=2e9, fragmentation_bytes=3e9, context_bytes=4e9)
    bars = [e for e in held(memory_bars((first, second))) if e.get("data-stage")]
    lengths = [sum(float(e.get("width")) for e in bars if e.get("data-stage") == stage) for stage in "01"]
    assert lengths[0] / lengths[1] == pytest.approx(first.total_bytes / second.total_bytes, rel=1e-3)
    assert len({e.get("class") for e in bars}) == len(HOLDERS)
    assert sum(size for _, size in memory_pairs(first)) == first.total_bytes


def test_the_highest_area_of_a_panel_is_the_peak_against_the_limit():
    findings = filling(small())
    for timeline, svg in zip(findings.memory, memory_panels(findings.memory), strict=True):
        outline = held(svg)[0].get("d")
        bottom = float(re.match(r"M\S+ ([\d.]+)", outline)[1])
        top = min(float(y) for y in re.findall(r"V([\d.]+)", outline))
        limit = next(e for e in ElementTree.fromstring(svg).iter() if e.get("class") == "limit")
        share = (bottom - top) / (bottom - float(limit.get("y1")))
        assert share == pytest.approx(timeline.peak_bytes / timeline.limit_bytes, abs=2e-3)


def test_a_deep_pipeline_shows_some_stages_the_fullest_among_them():
    findings = filling(large())
    page = report_page(findings)
    assert len(findings.memory) == 60
    assert page.count('aria-label="memory of stage ') == 7
    assert "are drawn, the fullest among them" in page
    assert len(page) < 500_000


def test_where_little_is_held_the_limit_lies_above_the_panels():
    findings = filling(small())
    roomy = [replace(timeline, limit_bytes=4 * timeline.limit_bytes) for timeline in findings.memory]
    assert all('class="limit"' in svg for svg in memory_panels(findings.memory))
    assert not any('class="limit"' in svg for svg in memory_panels(roomy))
    page = report_page(replace(findings, memory=tuple(roomy)))
    assert "What the plan may fill lies above the panels" in page


@given(st.integers(1, 80), st.integers(3, 12), st.data())
def test_the_fullest_is_always_among_those_that_are_shown(count: int, most: int, data: st.DataObject):
    (own, _) = filling(small()).memory
    fullest = data.draw(st.integers(0, count - 1))
    each = [replace(own, stages=(i,), limit_bytes=own.limit_bytes / (1 + (i == fullest))) for i in range(count)]
    shown = [t.stages[0] for t in shown_timelines(each, most)]
    assert fullest in shown
    assert len(shown) == len(set(shown)) <= most
    assert count > most or shown == list(range(count))
    assert {0, count - 1} <= set(shown)


def test_the_document_has_what_the_page_draws():
    findings = filling(small(measured=True))
    found = report_document(findings)
    for timeline, drawn in zip(found["memory"], findings.memory, strict=True):
        totals = [sum(column) for column in zip(*timeline["held_bytes"].values(), strict=True)]
        assert len(totals) == SLOTS
        assert max(totals) == timeline["peak_bytes"] == drawn.peak_bytes
    assert found["verdict"] in report_page(findings)
    assert [row["memory"]["limit_bytes"] for row in found["stages"]] == [drawn.limit_bytes for drawn in findings.memory]
    assert found["measured"]["sentence"] in report_page(findings)
    assert found["search"]["cut"] == dict(findings.search.cut)
