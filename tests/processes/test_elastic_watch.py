"""What people see of a running job: its account sums to its wall time, and a failure is told with all that belongs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from elastic_job import Job


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job whose worker was killed once, and which goes on."""
    made = Job(tmp_path_factory.mktemp("watched"), steps=100_000)
    made.controller().agents("a", "b").wait_step(8)
    made.worker("b").send_signal(signal.SIGKILL)
    made.wait(lambda: "training goes on" in made.log(), 60)
    yield made
    made.close()


def asked(job, *words):
    at = ("--controller", f"127.0.0.1:{job.port}", "--insecure")
    said = subprocess.run(
        [sys.executable, "-m", "nebula.cli.main", *words, *at], capture_output=True, text=True, timeout=60, check=False
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


def events(job):
    return [json.loads(line) for line in asked(job, "events", "--json").splitlines()]


def test_the_account_sums_to_wall_time(job):
    before = events(job)
    status = json.loads(asked(job, "status", "--json"))
    after = json.loads(asked(job, "status", "--json"))
    spent = status["account_s"]
    wall_s = sum(after["account_s"].values()) - sum(spent.values())
    assert 0.0 < wall_s < 60.0
    assert sum(spent.values()) > before[-1]["ts"] - before[0]["ts"]
    assert all(took_s >= 0.0 for took_s in spent.values())
    for name in ("productive", "waiting", "starting", "detecting", "saving"):
        assert spent[name] > 0.0, name
    assert 0.0 < status["goodput"] < 1.0
    assert status["lost_steps"] <= 1
    assert "goodput" in asked(job, "status")


def test_a_failure_is_told_with_node_rank_lines_and_the_recovery_it_began(job):
    told = {one["event"]: one for one in events(job)}
    failed, back = told["failed"], told["stepping"]
    assert failed["node"] == "b"
    assert failed["rank"] in (0, 1)
    assert failed["last_lines"]
    assert len(failed["trace"]) == 32
    assert failed["trace"] == back["trace"] == told["stopped"]["trace"]
    assert told["begun"]["trace"] == ""
    stages = ("told", "stopped", "planned", "loading", "loaded", "first", "stepped")
    took = back["seconds"]
    assert sum(took.get(stage, 0.0) for stage in (*stages, "redone")) == pytest.approx(took["all"], abs=0.001)
