"""Days, goodput, money and energy as the table, the page and the JSON show them."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from nebula.plan.conditions import Conditions, Reliability
from nebula.plan.legality import Executable
from nebula.report.document import plan_document
from nebula.report.findings import Findings, Search
from nebula.report.html import report_page
from nebula.report.outlook_words import outlook_rows, provenance_words
from nebula.report.table import print_plan
from tests.pure.report_samples import large, looking_ahead, small

LARGE = large()


def table(findings: Findings) -> str:
    out = io.StringIO()
    print_plan(findings, Console(file=out, width=100))
    assert max(map(len, out.getvalue().splitlines())) <= 100
    return " ".join(out.getvalue().split())


def figures(findings: Findings) -> dict[str, str]:
    assert findings.outlook
    return {row.name: row.figures for row in outlook_rows(findings.outlook, virtual=findings.virtual)}


def test_table_and_page_say_the_same_sentences():
    findings = looking_ahead(LARGE)
    assert findings.outlook
    text, page = table(findings), report_page(findings)
    rows = outlook_rows(findings.outlook, virtual=False)
    assert [row.name for row in rows] == ["days", "goodput", "money", "energy"]
    for row in rows:
        assert row.basis
        assert f"{row.figures} {row.basis}" in text
        assert row.figures in page
        assert row.basis in page
    assert f"3 G tokens take {findings.outlook.days.with_failures:.1f} days, failures counted." in text


def test_where_inputs_come_from_is_in_the_table_the_least_known_first():
    prediction = LARGE.plan.prediction
    assert prediction
    assert provenance_words(prediction) == "assumed: kernel time; data sheet: peak FLOP/s, links"
    assert f"inputs {provenance_words(prediction)}" in table(LARGE)


def test_what_is_said_and_what_is_assumed_are_told_apart():
    said = Reliability(spares=2, sources=(("spares", "run file"), ("saves", "assumed: a")))
    findings = looking_ahead(LARGE, Conditions(reliability=said))
    assert "Given: 19.7 failures" in table(findings)
    assert "2 spare nodes" in table(findings)
    assert table(findings).index("assumed: synchronous saves.") > table(findings).index("2 spare nodes")


def test_times_of_emulated_devices_are_virtual_and_their_missing_prices_no_news():
    findings = looking_ahead(small())
    assert "of virtual time for 3 G tokens" in figures(findings)["days"]
    assert "Simulated, not measured" in table(findings)
    assert findings.outlook
    unpriced = replace(findings.outlook.money, unknown=("Ascend-910",))
    assert "money" not in figures(replace(findings, outlook=replace(findings.outlook, money=unpriced)))


def test_an_unknown_price_says_what_to_do():
    findings = looking_ahead(LARGE)
    assert findings.outlook
    unpriced = replace(findings.outlook.money, unknown=("Ascend-910",), per_hour=0.0)
    words = figures(replace(findings, outlook=replace(findings.outlook, money=unpriced)))["money"]
    assert words == "not known: Ascend-910 has no price; say price_per_hour in the cluster file"


def test_a_job_that_cannot_end_is_called_so():
    hopeless = looking_ahead(LARGE, Conditions(reliability=Reliability(node_mtbf_s=60.0)))
    assert "tokens take no end: failures come faster" in table(hopeless)
    assert figures(hopeless)["days"].startswith("no end for 3 G tokens, 4.2 days without failures")
    document = plan_document(hopeless.plan, Search(), Executable(engine="fleet", missing=()), hopeless.outlook)
    assert document["prediction"]["days"]["with_failures"] is None
    assert document["prediction"]["money"]["budget"] is None
    json.dumps(document, allow_nan=False)


def test_the_json_has_the_keys_that_the_docs_name():
    findings = looking_ahead(LARGE)
    ahead = findings.outlook
    assert ahead
    able = Executable(engine="fleet", missing=())
    prediction = plan_document(findings.plan, Search(), able, ahead)["prediction"]
    shares = ("useful", "checkpointing", "lost_work", "restart", "degraded")
    assert sum(prediction["goodput"][name] for name in shares) == pytest.approx(1.0)
    assert prediction["days"]["with_failures"] == ahead.days.with_failures
    assert prediction["money"]["budget"] == ahead.money.budget
    assert prediction["money"]["sources"] == {"Ascend-910": "a price list"}
    assert prediction["energy"]["unknown"] == []
    assert prediction["conditions"]["reliability"]["sources"]["repair_s"].startswith("assumed")
    assert prediction["provenance"] == {"peak FLOP/s": "data sheet", "kernel time": "assumed", "links": "data sheet"}
    assert {"step_time_s", "tokens_per_s", "mfu", "parts_s", "memory_bytes", "interval_s"} <= prediction.keys()
    assert plan_document(findings.plan, Search(), able)["prediction"].keys().isdisjoint({"goodput", "days", "money"})


def test_without_failures_there_is_no_interval_to_print():
    safe = looking_ahead(LARGE, Conditions(reliability=Reliability(failures_per_device_hour=0.0)))
    assert safe.outlook
    assert math.isinf(safe.outlook.goodput.interval_s)
    words = figures(safe)["goodput"]
    assert "nothing fails" in words
    assert "saved every" not in words
