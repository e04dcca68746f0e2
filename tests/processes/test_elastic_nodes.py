"""Nodes are lost and come back, are drained and scaled; the controller is killed: the job goes on, and says why."""

from __future__ import annotations

import json
import signal

import pytest
from elastic_job import Job


@pytest.fixture
def job(tmp_path):
    made = Job(tmp_path)
    yield made
    made.close()


def test_a_lost_node_is_left_out_and_taken_back(job):
    job.controller().agents("a", "b").wait_step(4)
    job.kill("b")
    step = job.last_step()
    job.wait_step(step + 3)
    assert "b is lost" in job.log()
    assert "1 ranks begin under" in job.log()
    job.agents("b")
    job.wait(lambda: "2 nodes can go on instead of 1" in job.log(), 30)
    job.end_well("controller")
    assert [one["step"] for one in job.steps()] == list(range(1, 41))
    assert job.log().count("2 ranks begin under") == 2


def test_workers_go_on_while_the_controller_is_away(job):
    job.controller().agents("a", "b").wait_step(3)
    workers = [job.worker("a").pid, job.worker("b").pid]
    job.kill("controller")
    step = job.last_step()
    job.wait_step(step + 2)
    job.controller()
    assert "with epoch 2" in job.log()
    job.wait(lambda: job.log().count("is connected again") == 2, 10)
    assert [job.worker("a").pid, job.worker("b").pid] == workers
    job.worker("a").send_signal(signal.SIGKILL)
    job.end_well("controller")
    assert [one["step"] for one in job.steps()] == list(range(1, 41))


@pytest.mark.slow
def test_the_size_that_pays_is_told_first_and_asked_for_then(tmp_path):
    job = Job(tmp_path, steps=400, nodes="1:1")
    try:
        job.controller().agents("a", "b").wait_step(3)
        words = ("scale", "auto", "--run", "run.yaml", "--controller", f"127.0.0.1:{job.port}", "--insecure", "--json")
        assert job.start("dry", *words, "--efficiency", "0.1", "--dry-run").wait(60) == 0
        told = json.loads(job.log("dry"))
        assert (told["now"], told["nodes"], told["asked"]) == (1, 2, "")
        assert told["measured_tokens_per_s"] > 0
        assert job.start("scale", *words, "--efficiency", "0.1").wait(60) == 0
        assert json.loads(job.log("scale"))["asked"] == "scaled to 1:2 nodes"
        job.wait(lambda: "2 ranks begin under" in job.log(), 30)
    finally:
        job.close()


@pytest.mark.slow
def test_a_job_is_looked_at_again_and_again_and_gets_the_size_that_pays(tmp_path):
    """Two nodes are predicted to do more than one, and each less than one alone."""
    job = Job(tmp_path, steps=4000, every=1000, nodes="1:1")

    def looks(name):
        return [json.loads(line) for line in job.log(name).splitlines() if line.startswith("{")]

    try:
        job.controller().agents("a", "b").wait_step(3)
        words = ("scale", "auto", "--run", "run.yaml", "--controller", f"127.0.0.1:{job.port}", "--insecure", "--json")
        job.start("lax", *words, "--efficiency", "0.01", "--every", "1s")
        job.wait(lambda: "2 ranks begin under" in job.log(), 60)
        job.kill("lax")  # measured here, two workers on one core may do less
        assert [one["asked"] for one in looks("lax")] == ["scaled to 1:2 nodes"]
        job.start("strict", *words, "--efficiency", "1.0", "--every", "1s")
        job.wait(lambda: [one for one in looks("strict") if one["now"] == 1 and not one["asked"]], 60)
        assert [one["asked"] for one in looks("strict") if one["asked"]] == ["scaled to 1:1 nodes"]
        assert job.log().count("1 ranks begin under") == 2
    finally:
        job.close()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "told"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGUSR1, "SIGUSR1, a notice")])
def test_an_agent_that_gets_a_notice_leaves_at_a_step_and_the_rest_goes_on(job, number, told):
    job.controller().agents("a", "b").wait_step(4)
    job.kill("b", number)
    job.end_well("b")
    assert f"b is drained: its agent got {told}" in job.log()
    assert "0 steps were done again" in job.log()
    job.end_well("controller")
    assert [one["step"] for one in job.steps()] == list(range(1, 41))
