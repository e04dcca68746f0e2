"""How to run a plan, in the report, and the form that sets what a run measured against what was predicted."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from nebula.cli.details import detailed
from nebula.cost_model.evaluate import evaluate
from nebula.plan.identity import plan_hash
from nebula.plan.job import Objective
from nebula.plan.values import Plan
from nebula.report.findings import Findings, Launch
from nebula.report.html import report_page
from nebula.report.report_document import report_document
from nebula.report.running import MOST_STAGES, form_rows, shown_commands
from tests.pure.cost_samples import chain, cluster, device, plan
from tests.pure.report_samples import large, small

GRAPH = chain(6)


def real(nodes: int) -> Findings:
    """A plan of two ranks a node on devices that are not emulated."""
    on = cluster(nodes, 2, kind=device(emulated=False))
    chosen = plan((0, 6), data=2 * nodes, per_node=2)
    chosen = replace(chosen, prediction=evaluate(GRAPH, on, chosen))
    return detailed(Findings(plan=chosen, graph=GRAPH, cluster=on))


def test_every_node_has_its_command_and_many_are_told_by_two() -> None:
    few, many = real(2), real(8)
    assert [node for node, _ in few.launch.commands] == ["n/0", "n/1"]
    page = report_page(few)
    assert all(f"--rank {rank}" in page for rank in (0, 1))
    assert [node for node, _ in shown_commands(many.launch)[0]] == ["n/0", "n/1"]
    assert "and so on: 6 more nodes" in report_page(many)
    assert len(report_document(many)["launch"]["commands"]) == 8


def test_a_plan_that_nobody_can_run_says_why_instead() -> None:
    found = detailed(replace(real(1), missing=("no engine has virtual stages here",)))
    assert found.launch == Launch(notes=("no engine has virtual stages here",))
    page = report_page(found)
    assert "There is no command for this plan." in page
    assert "No engine has virtual stages here." in page


def fields(page: str) -> dict[str, dict[str, str]]:
    inputs = re.findall(r"<input ([^>]*)>", page)
    each = [dict(re.findall(r'([\w-]+)="([^"]*)"', attributes)) for attributes in inputs]
    return {one["data-name"]: one for one in each}


def test_a_form_has_the_predicted_figures_and_room_for_the_measured_ones() -> None:
    findings = small()
    prediction = findings.plan.prediction
    form = fields(report_page(findings))
    assert float(form["step time"]["data-predicted"]) == prediction.step_time_s
    assert (float(form["step time"]["data-low"]), float(form["step time"]["data-high"])) == prediction.interval_s
    assert float(form["throughput"]["data-predicted"]) == prediction.tokens_per_s
    stage = float(form["memory of the fullest device of stage 1"]["data-predicted"])
    assert stage * 2**30 == pytest.approx(prediction.memory[1].total_bytes)
    assert all(one["value"] == "" for one in form.values())


def test_what_a_run_measured_is_filled_in() -> None:
    findings = small(measured=True)
    rows = {row.name: row for row in form_rows(findings)}
    assert rows["step time"].measured == findings.measured.step_time_s
    slower = findings.measured.step_time_s / findings.plan.prediction.step_time_s
    assert rows["throughput"].measured * slower == pytest.approx(rows["throughput"].predicted)
    assert rows["memory of the fullest device of stage 0"].measured == pytest.approx(21)
    form = fields(report_page(findings))
    assert form["step time"]["value"] == "1.06"
    assert form["memory of the fullest device of stage 1"]["value"] == ""
    assert report_document(findings)["form"][0]["measured"] == 1.06


def test_the_form_of_a_deep_pipeline_asks_for_some_stages_the_fullest_and_the_first_among_them() -> None:
    names = [row.name for row in form_rows(large())][2:]
    assert len(names) == MOST_STAGES
    assert names[0].endswith("stage 0")


def test_a_plan_is_known_by_what_it_decides() -> None:
    chosen = small().plan
    told: Plan = replace(chosen, because="", prediction=None, bound_s=0.0)
    assert plan_hash(chosen) == plan_hash(told)
    others = [
        replace(chosen, micro_batches=chosen.micro_batches + 1),
        replace(chosen, ranks=chosen.ranks[::-1]),
        replace(chosen, job=replace(chosen.job, global_batch=3)),
    ]
    assert len({plan_hash(one) for one in (chosen, *others)}) == 4
    assert plan_hash(chosen) in report_page(small())


def test_what_was_asked_for_stands_among_the_inputs() -> None:
    asked = Objective(minimise="cost", fixed={"tensor": 8}, exclude=("old/3",), deadline_s=86400 * 30, budget=1e6)
    page = report_page(replace(small(), objective=asked))
    for words in ("<td>minimised</td><td>cost</td>", "tensor 8", "old/3", "30 days", "1,000,000"):
        assert words in page
    assert report_document(replace(small(), objective=asked))["objective"]["fixed"] == {"tensor": 8}
    assert "<td>deadline</td>" not in report_page(small())
