"""`nebula chaos` against a job that runs: faults at a step and again and again, and what it says came of each."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from elastic_job import Job

from nebula.elastic.chaos.schema import load_schedule


@pytest.fixture
def job(tmp_path):
    made = Job(tmp_path, steps=100_000, every=1000, options=("--allow-faults", "--node-failures", "1000"))
    made.agent_options = ["--allow-faults"]
    yield made
    made.close()


def struck(job, text):
    """What `nebula chaos` says of a schedule, and the schedule as it is read."""
    path = job.folder / "faults.yaml"
    path.write_text(text)
    words = [sys.executable, "-m", "nebula.cli.main", "chaos", path.name, "--insecure", "--json"]
    done = subprocess.run(
        [*words, "--controller", f"127.0.0.1:{job.port}"], cwd=job.folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr, load_schedule(path)


def failures(job):
    return [event for event in job.client().events() if event.kind == "failed"]


@pytest.mark.slow
def test_a_kill_at_a_step_and_exceptions_again_and_again_come_when_they_are_due_and_are_got_over(job):
    job.controller().agents("a", "b").wait_step(2)
    at_step = job.last_step() + 60
    found, said, _ = struck(job, f"faults: [{{fault: kill, at_step: {at_step}, node: b}}]\nfor: 90s\n")
    (event,) = failures(job)
    assert "kill on b" in said
    assert event.step >= at_step - 1  # one rank had done that step, of which an event tells once all have
    assert found["phase"] == "running"
    assert found["steps"] > 0
    (kill,) = found["faults"]
    assert (kill["fault"], kill["node"]) == ("kill", "b")
    assert 0.0 <= kill["seen_s"] < kill["back_s"] < 60.0
    assert kill["lost_steps"] <= 1
    assert kill["because"] == event.because
    assert "on b was killed by SIGKILL" in kill["because"]

    # two of them, a second after the beginning and twelve later; a third would come after the end
    every = "faults: [{fault: exception, every: 20s, node: a}]\nfor: 60s\nseed: 36375\n"
    found, _, schedule = struck(job, every)
    due = [at_s for at_s, _ in schedule.timed()]
    assert len(due) == len(found["faults"]) == 2
    first, second = found["faults"]
    assert second["ts"] - first["ts"] == pytest.approx(due[1] - due[0], abs=1.0)
    for one, event in zip(found["faults"], failures(job)[1:], strict=True):
        assert one["because"] == event.because
        assert "on a exited with code 1: " in one["because"]
        assert 0.0 <= one["seen_s"] < one["back_s"]
