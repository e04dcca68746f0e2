"""The main job end to end, as `nebula demo` does it, with fewer steps; and what its folder then tells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nebula.cli.run_folder import run_findings

NEBULA = Path(sys.executable).with_name("nebula")
EXAMPLE = Path(__file__).parents[2] / "examples" / "ernie-small.yaml"
STEPS = 4


def nebula(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([NEBULA, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "run"


@pytest.fixture(scope="module")
def done(folder: Path) -> subprocess.CompletedProcess[str]:
    return nebula("demo", "--steps", str(STEPS), "--output", folder, "--json")


def test_it_ends_well_and_says_where_everything_lies(done, folder):
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["steps"] == STEPS
    assert outcome["clock"] == "virtual"
    assert "[6/6]" in done.stderr
    for name in ("report.html", "trace.json", "plan.json", "cluster.yaml", "steps.jsonl", "weights.safetensors"):
        assert (folder / name).is_file()
        assert str(folder / name) in done.stderr


def test_the_run_was_measured_on_every_rank(done, folder):
    found = run_findings(folder)
    assert {s.lane for s in found.measured.spans} == set(range(4))
    forwards = [s for s in found.measured.spans if s.lane == 0 and s.kind == "F"]
    assert len(forwards) == found.plan.micro_batches
    assert found.plan.prediction
    assert found.measured.step_time_s == pytest.approx(found.plan.prediction.step_time_s, rel=0.05)
    assert dict(found.measured.evaluation)["document LM, nats per token"] > 0


def test_the_trace_holds_both_timelines(done, folder):
    trace = json.loads((folder / "trace.json").read_text())
    names = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    assert {"predicted · stage 0", "measured (virtual time) · stage 0 · rank 0"} <= names


def test_the_report_is_written_again_from_the_folder_alone(done, folder):
    (folder / "report.html").unlink()
    again = nebula("report", folder)
    assert again.returncode == 0, again.stderr
    assert "What the run measured" in (folder / "report.html").read_text()


def test_a_run_is_not_trained_over(done, folder):
    steps = (folder / "steps.jsonl").read_text()
    again = nebula("train", EXAMPLE, "--output", folder)
    assert again.returncode == 2
    assert "holds a run already" in again.stderr
    assert (folder / "steps.jsonl").read_text() == steps
