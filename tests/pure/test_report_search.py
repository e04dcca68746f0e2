"""What the report says of a search: counts add up, what was left out has its change, the front is one."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache, partial
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cli.details import with_front
from nebula.cli.subject import search_record
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.aims import halves
from nebula.planner.fewer import near_on_fewer_nodes
from nebula.planner.rejected import rejections
from nebula.planner.scale import Question
from nebula.planner.search import Answer, search
from nebula.planner.setting import setting_of
from nebula.report.bars import ROWS_SPAN, funnel
from nebula.report.findings import Findings, Search, TimeCost
from nebula.report.html import report_page
from nebula.report.report_document import report_document
from nebula.report.search_file import load_search, save_search
from tests.pure.cost_samples import chain, cluster

GRAPH, WHERE, JOB = chain(6), cluster(nodes=4, per_node=2), Job(global_batch=16)
POINTS = (
    TimeCost(split="wide", devices=8, step_time_s=1.0, money=3.0, energy_j=0.0),
    TimeCost(split="narrow", devices=4, step_time_s=1.8, money=2.5, energy_j=0.0),
    TimeCost(split="dear", devices=8, step_time_s=1.5, money=4.0, energy_j=0.0),
)


@lru_cache
def answered(**fixed: int) -> Answer:
    return search(GRAPH, WHERE, JOB, Objective(fixed=fixed))


@lru_cache
def told() -> Search:
    setting = setting_of(GRAPH, WHERE, JOB, Objective())
    recorded = search_record(answered())
    return replace(recorded, rejections=rejections(setting, answered()), time_costs=with_front(POINTS))


def findings() -> Findings:
    return Findings(plan=answered().plan, graph=GRAPH, cluster=WHERE, search=told())


def test_what_was_cut_and_what_was_priced_are_all_candidates() -> None:
    answer, record = answered(), told()
    assert record.candidates == answer.priced + sum(count for _, count in record.cut)
    assert [count for _, count in record.cut] == sorted((n for _, n in record.cut), reverse=True)
    bars = [r for r in ElementTree.fromstring(funnel(record)).iter() if r.tag == "rect"]
    widths = [float(bar.get("width")) for bar in bars]
    assert len(bars) == len(record.cut) + 2
    assert widths[0] == pytest.approx(ROWS_SPAN)
    # a bar of a few candidates is drawn a pixel wide
    assert sum(widths[1:]) == pytest.approx(ROWS_SPAN, abs=len(bars))
    assert f">{answer.priced:,}<" in funnel(record)


def test_every_rule_stands_on_the_page_with_the_change_that_would_admit_one() -> None:
    page, rows = report_page(findings()), report_document(findings())["search"]["rejected"]
    assert {row["rule"] for row in rows} >= set(answered().cut)
    for row, one in zip(rows, told().rejections, strict=True):
        assert one.amount in page
        assert all(remedy in page for remedy in one.remedies)
        assert row["remedies"] == list(one.remedies)


def test_each_that_came_near_names_the_term_by_which_it_loses() -> None:
    others = told().contenders[1:]
    assert others
    assert all(re.search(r"more|nothing that the model tells apart", each.lost_by) for each in others)
    page = report_page(findings())
    assert all(each.split in page and each.lost_by in page for each in others)


def test_the_record_of_a_search_survives_its_file(tmp_path) -> None:
    save_search(told(), tmp_path / "search.json")
    assert load_search(tmp_path / "search.json") == told()


points = st.builds(
    TimeCost,
    split=st.just(""),
    devices=st.integers(1, 64),
    step_time_s=st.floats(0.1, 100),
    money=st.floats(0, 100),
    energy_j=st.just(0.0),
)


@given(st.lists(points, max_size=12))
def test_no_plan_beats_one_of_the_front_and_some_plan_each_other(found: list[TimeCost]) -> None:
    marked = with_front(found)
    assert len(marked) == sum(bool(one.cost) for one in found)

    def beaten(one: TimeCost) -> bool:
        return any(
            other.step_time_s <= one.step_time_s and other.cost <= one.cost and other is not one for other in marked
        )

    for one in marked:
        better = any(o.step_time_s <= one.step_time_s and o.cost < one.cost for o in marked)
        assert not (one.on_front and better)
        assert one.on_front or beaten(one)


def test_the_front_is_drawn_and_told() -> None:
    page = report_page(findings())
    assert "<h3>Time against money</h3>" in page
    assert page.count('class="dot front"') == 2
    assert report_document(findings())["search"]["time_costs"][1]["split"] == "dear"
    energy = tuple(replace(one, money=0.0, energy_j=3.6e6 * one.money) for one in POINTS)
    own = replace(findings(), search=replace(told(), time_costs=with_front(energy)))
    assert "<h3>Time against energy</h3>" in report_page(own)


def test_plans_near_on_fewer_nodes_are_no_faster_than_the_best_there() -> None:
    near = near_on_fewer_nodes(GRAPH, WHERE, answered().plan)
    best = halves(
        Question(graph=GRAPH, cluster=WHERE, job=JOB, objective=Objective()), partial(search, GRAPH, WHERE, JOB)
    )
    assert [one.nodes for one in best] == [4, 2, 1]
    assert len(near) == 2
    for plan, one, count in zip(near, best[1:], (2, 1), strict=True):
        assert len({place.node for place in plan.ranks}) <= count
        assert plan.prediction.step_time_s >= one.step_s * (1 - 1e-12)


def test_a_fixed_degree_is_told_without_a_search_where_none_is_wanted() -> None:
    asked = setting_of(GRAPH, WHERE, JOB, Objective(fixed={"tensor": 2}))
    (row,) = (r for r in rejections(asked, answered(tensor=2), search=False) if r.rule == "fixed")
    assert row.remedies == ("leave out objective.fixed.tensor=2",)
