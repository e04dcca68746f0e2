"""The verbs sweep, scaling and what-if: tables, JSON, drawings, and which mistakes end them."""

from __future__ import annotations

import doctest
import json
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from nebula.cli.main import app
from nebula.plan import axes
from nebula.planner import sensitivity
from nebula.planner.outcome import Outcome
from nebula.planner.sensitivity import WhatIf
from nebula.report import chart, outcome_rows
from nebula.report.chart import LEFT, RIGHT, WIDTH, Scale
from nebula.report.outcome_rows import OutcomeRow, brief, varied
from nebula.report.outcome_table import figures

ROOT = Path(__file__).parents[2]
RUN = """\
model: {preset: ernie-3.0-small}
cluster:
  name: two
  devices: {small: {kind: npu, emulated: true, peak_flops: {fp32: 200e9}, memory: 256MiB, memory_bandwidth: 20GB/s,
                    price_per_hour: 1.5}}
  nodes:
    - {name: pair, count: 2, device: small, devices_per_node: 2,
       intra: {kind: pcie, bandwidth: 1GB/s, latency: 20us}, nic: {count: 1, bandwidth: 4GB/s, latency: 50us}}
job: {global_batch: 8, tokens: 1e9}
objective: {fixed: {pipeline: 1}}
"""


def nebula(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


def rows(done: Result) -> list[dict]:
    return json.loads(done.stdout)["rows"]


def test_a_sweep_plans_every_combination_and_says_why_not(run):
    done = nebula("sweep", run, "devices=2,3,4", "job.global_batch=8,0", "--json")
    assert done.exit_code == 0
    found = rows(done)
    assert [row["values"] for row in found[:2]] == [
        {"devices": "2", "job.global_batch": "8"},
        {"devices": "2", "job.global_batch": "0"},
    ]
    assert [row["feasible"] for row in found] == [True, False, False, False, True, False]
    assert "no whole nodes" in found[2]["reason"]
    assert "at least 1, not 0" in found[1]["reason"]
    assert "step_time_s" not in found[1]


def test_a_row_is_what_nebula_plan_says(run):
    (row,) = rows(nebula("sweep", run, "job.global_batch=16", "--json"))
    alone = json.loads(nebula("plan", run, "job.global_batch=16", "--json").stdout)["prediction"]
    for name in ("step_time_s", "tokens_per_s", "mfu", "parts_s"):
        assert row[name] == alone[name]
    assert row["tokens_per_s_per_device"] == alone["tokens_per_s"] / 4
    assert row["days"] == alone["days"]["with_failures"]
    assert row["cost"] == alone["money"]["budget"]


def test_the_table_shows_what_varies(run):
    text = nebula("sweep", run, "job.global_batch=8,16", "job.precision=fp32").stdout
    header = next(line for line in text.splitlines() if "tokens/s" in line)
    assert " ".join(header.split()) == "devices global_batch step tokens/s a device MFU days cost plan"
    assert text.count(" data ") == 2
    text = nebula("sweep", run, "objective.fixed.tensor=1,64").stdout
    assert "why not: objective.fixed" in text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("job.globl_batch=8,16", "did you mean 'global_batch'?"),
        ("objective.fixed.tensr=1,2", "did you mean 'tensor'?"),
        ("cluster.nods.0.count=1,2", "did you mean 'nodes'?"),
        ("cluster.nodes.1.count=1,2", "a list of 1 has items 0 to 0: no 1"),
        ("cluster.devices.small.peak_flops.bf61=1e12", "must be one of"),
        ("devics=1,2", "did you mean 'devices'?"),
    ],
)
def test_a_mistake_in_a_key_ends_the_sweep(run, wrong, said):
    done = nebula("sweep", run, "job.global_batch=8,16", wrong)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_when_nothing_can_be_planned_the_table_says_why_and_the_exit_code_too(run):
    done = nebula("sweep", run, "job.global_batch=0,-1")
    assert done.exit_code == 3
    assert done.stdout.count("why not: ") == 2
    assert nebula("sweep", run.with_name("none.yaml"), "job.global_batch=1").exit_code == 2


def test_drawings_are_whole_files_without_a_network(run, tmp_path):
    svg, html = tmp_path / "a.svg", tmp_path / "a.html"
    assert nebula("sweep", run, "devices=2,4", "job.global_batch=8,16,32", "--plot", svg).exit_code == 0
    root = ElementTree.fromstring(svg.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    circles = root.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 2 + 2 * 6, "two curves in the legend, six points in each of two panels"
    assert "var(--" not in svg.read_text()
    assert nebula("scaling", run, "--plot", html).exit_code == 0
    page = html.read_text()
    assert "<svg" in page
    assert "weak scaling, 2 rows a device and step" in page
    assert not re.findall(r"""(?:src|href)=["']?http""", page)
    assert nebula("scaling", run, "--plot", html).exit_code == 2, "nothing is replaced without --force"
    assert nebula("scaling", run, "--plot", tmp_path / "a.png").exit_code == 2


def test_scaling_starts_at_one_node_and_ends_at_the_cluster(run):
    weak, strong = (rows(nebula("scaling", run, "--json", kind)) for kind in ("--weak", "--strong"))
    assert [row["values"] for row in weak] == [
        {"devices": "2", "job.global_batch": "4"},
        {"devices": "4", "job.global_batch": "8"},
    ]
    assert [row["values"]["job.global_batch"] for row in strong] == ["8", "8"]
    assert weak[0]["efficiency"] == strong[0]["efficiency"] == 1.0
    assert weak[1]["efficiency"] == pytest.approx(
        weak[1]["tokens_per_s"] / weak[1]["devices"] / (weak[0]["tokens_per_s"] / weak[0]["devices"])
    )
    assert strong[1]["step_time_s"] < strong[0]["step_time_s"]


def test_the_sizes_of_a_curve_are_asked_for(run):
    asked = rows(nebula("scaling", run, "--devices", "2,4,...,8", "--json", "objective.fixed.tensor=1"))
    assert [row["devices"] for row in asked] == [2, 4, 8]
    assert nebula("scaling", run, "--devices", "2,x").exit_code == 2


def test_what_if_takes_a_plan_or_finds_one(run, tmp_path):
    found = json.loads(nebula("what-if", run, "--json").stdout)
    names = [row["name"] for row in found["rows"]]
    assert {"memory +10 GB", "node pair/0 lost", "network cards (network) −10 %"} <= set(names)
    path = tmp_path / "plan.json"
    assert nebula("plan", run, "-o", path, "--json").exit_code == 0
    table = nebula("what-if", run, "--plan", path).stdout
    assert table.startswith(found["split"])
    for row in found["rows"]:
        step, change = figures(WhatIf(**row))
        assert re.search(rf"{re.escape(row['name'])} +{re.escape(step)} +{re.escape(change)} ", table)


def test_an_axis_lies_to_scale_or_in_order():
    assert Scale(["8", "16", "32"]).logarithmic is False
    scale = Scale(["8", "16", "32", "64"])
    gaps = [scale.x(b) - scale.x(a) for a, b in ((8, 16), (16, 32), (32, 64))]
    assert scale.logarithmic
    assert gaps == pytest.approx([gaps[0]] * 3)
    words = Scale(["bf16", "fp16", "fp32"])
    assert [words.at[w] for w in ("bf16", "fp16", "fp32")] == [0, 1, 2]
    assert LEFT <= words.x(0) < words.x(2) <= WIDTH - RIGHT
    assert Scale(["only"]).x(0) == pytest.approx((LEFT + WIDTH - RIGHT) / 2)


def test_labels_of_an_axis_do_not_overlap():
    marks = Scale([str(n) for n in range(1000, 1200)]).marks()
    assert 2 < len(marks) < 40
    assert marks[-1][1] == "1199"
    assert all(b[0] - a[0] >= 8 * 4 for a, b in pairwise(marks))


def test_reasons_are_cut_for_the_table():
    assert brief("m does not fit on 4 x: even the leanest split needs 2 GiB; 8 devices would hold it") == (
        "m does not fit on 4 x"
    )
    assert (
        brief("run.yaml:3:7: job.steps must be a whole number, not 'x'") == "job.steps must be a whole number, not 'x'"
    )
    assert len(brief("very long " * 40)) <= 64


def test_keys_with_one_value_do_not_vary():
    both = [OutcomeRow(labels=(("a", "1"), ("b", b)), outcome=Outcome()) for b in "12"]
    assert varied(both) == ("b",)
    assert varied(both[:1]) == ("a", "b")


def test_the_report_of_a_dry_run_says_what_if(run, tmp_path):
    page = tmp_path / "report.html"
    assert nebula("report", run, "-o", page).exit_code == 0
    priced = page.read_text()
    assert "<h2>What if</h2>" in priced
    assert "peak FLOP/s −10 %" in priced
    assert "node pair/0 lost (plans near it)" in priced
    assert nebula("report", run, "-o", page, "--force", "--what-if").exit_code == 0
    assert "node pair/0 lost (planned again)" in page.read_text()


@pytest.mark.slow
def test_the_curve_of_the_docs_is_the_one_that_is_computed():
    text = (ROOT / "docs/published-cases.md").read_text()
    (command,) = re.findall(r"^nebula (scaling examples/titan-1920.*)$", text, re.MULTILINE)
    (shown,) = re.findall(r"^\| 1 row a device and step \| (.*) \| 91.7 % \|$", text, re.MULTILINE)
    words = (str(ROOT / word) if word.startswith("examples/") else word for word in command.split())
    rows = json.loads(nebula(*words, "--json").stdout)["rows"]
    assert [f"{100 * row['efficiency']:.1f} %" for row in rows[1:]] == shown.split(" | ")


@pytest.mark.parametrize("module", [axes, chart, outcome_rows, sensitivity], ids=lambda m: m.__name__)
def test_examples_in_docstrings(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
