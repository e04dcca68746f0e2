"""Traffic in the report: every byte of the matrix is in a cell, a row and the document; many nodes are put together."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

import pytest

from nebula.cluster.values import Link, Site
from nebula.cost_model.evaluate import evaluate
from nebula.cost_model.flows import AXES
from nebula.cost_model.traffic_matrix import traffic_matrix
from nebula.plan.values import Sharding
from nebula.report.cluster_drawing import cluster_drawing
from nebula.report.findings import Findings
from nebula.report.html import report_page
from nebula.report.report_document import report_document
from nebula.report.traffic_drawing import MOST_PARTS, level_rows, matrices, parts_of
from nebula.units import format_bytes
from tests.pure.cost_samples import chain, cluster, plan


@lru_cache
def findings(nodes: int, stages: int) -> Findings:
    """Two replicas of `stages` stages over four tensor ranks each, on nodes of four."""
    bounds = tuple(range(stages + 1))
    graph, on = chain(stages), cluster(nodes, 4)
    chosen = plan(bounds, data=2, tensor=4, per_node=4, sharding=Sharding(stage=1, degree=2))
    chosen = replace(chosen, prediction=evaluate(graph, on, chosen))
    return Findings(plan=chosen, graph=graph, cluster=on, traffic=traffic_matrix(graph, on, chosen))


@pytest.mark.parametrize(("nodes", "stages"), [(4, 2), (16, 8), (40, 20), (90, 45)])
def test_parts_hold_every_node_once_and_rows_and_cells_every_byte(nodes: int, stages: int) -> None:
    found = findings(nodes, stages)
    parts = parts_of(found.traffic, found.cluster, found.plan)
    assert sorted(n for part in parts for n in part.nodes) == sorted(found.traffic.nodes)
    assert len(parts) <= MOST_PARTS
    rows = level_rows(found.traffic)
    assert sum(row.sent_bytes for row in rows) == pytest.approx(found.traffic.total_bytes)
    assert sum(row.share for row in rows) == pytest.approx(1)
    document = report_document(found)["traffic"]
    by_axis = {axis: sum(map(sum, cells)) for axis, cells in document["sent_bytes"].items()}
    assert by_axis == pytest.approx({a: found.traffic.sent_bytes[:, AXES.index(a)].sum() for a in by_axis})
    assert sum(by_axis.values()) == pytest.approx(document["total_bytes"])


def test_each_axis_has_its_matrix_with_a_tip_for_every_cell() -> None:
    found = findings(4, 2)
    drawn = matrices(found.traffic, found.cluster, found.plan)
    assert [re.search(r"along the (\w+) axis", svg)[1] for svg in drawn] == ["tensor", "data", "pipeline"]
    cells = found.traffic.folded([[name] for name in found.traffic.nodes])
    for svg, axis in zip(drawn, ("tensor", "data", "pipeline"), strict=True):
        column = cells[:, :, AXES.index(axis)]
        assert svg.count('class="sent"') == (column > 0).sum()
        assert f"n/0: {format_bytes(column[0, 0])}" in svg or not column[0, 0]


def test_cables_and_switches_say_what_a_step_sends_through_them() -> None:
    found = findings(4, 2)
    drawn = cluster_drawing(found.cluster, found.plan, found.traffic)
    through = dict(zip(found.traffic.levels, found.traffic.level_bytes().sum(axis=1), strict=True))
    assert f"leaf of 4 · {format_bytes(through['leaf'])} a step" in drawn
    assert f"≤ {format_bytes(max(found.traffic.out_bytes().values()))} a step" in drawn
    assert "a step" not in cluster_drawing(found.cluster, found.plan)


def test_switches_of_a_site_say_what_its_own_nodes_send() -> None:
    found = findings(4, 2)
    (group,) = found.cluster.groups
    groups = tuple(replace(group, name=name, count=count) for name, count in (("n", 4), ("other", 2)))
    sites = tuple(Site(name=f"at {one.name}", groups=(one.name,)) for one in groups)
    wan = Link(kind="wan", bytes_per_s=1e8, latency_s=1e-2)
    joined = replace(found.cluster, groups=groups, sites=sites, wan=wan)
    through = dict(zip(found.traffic.levels, found.traffic.level_bytes().sum(axis=1), strict=True))
    drawn = cluster_drawing(joined, found.plan, found.traffic)
    # once in the tool tip of the bar, and along it where there is room
    assert drawn.count(f"<title>leaf of 4 · {format_bytes(through['leaf'])} a step") == 1
    assert (found.traffic.level_bytes({"n"}) == found.traffic.level_bytes()).all()
    assert not found.traffic.level_bytes({"other"}).any()


def test_a_large_cluster_stays_a_small_page() -> None:
    page = report_page(findings(90, 45))
    assert "Who sends how much to whom" in page
    assert "stages 0–1 × 4" in page
    assert len(page) < 300_000
