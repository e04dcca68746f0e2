"""What was interrupted is trained as if it had not been: the same rows in the same order, the same losses."""

from __future__ import annotations

import json
import re
import signal

import pytest
from elastic_job import Job

STEPS = 24


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    job = Job(tmp_path_factory.mktemp("calm"), steps=STEPS)
    try:
        job.controller().agents("a", "b")
        job.end_well("controller")
        return losses(job)
    finally:
        job.close()


@pytest.fixture
def job(tmp_path):
    made = Job(tmp_path, steps=STEPS)
    yield made
    made.close()


def losses(job):
    assert [one["step"] for one in job.steps()] == list(range(1, STEPS + 1))
    return [one["loss"] for one in job.steps()]


@pytest.mark.slow
def test_losses_after_kills_are_bit_by_bit_those_of_an_undisturbed_run(job, calm):
    job.controller().agents("a", "b").wait_step(4)
    job.worker("b").send_signal(signal.SIGKILL)
    job.wait_step(12)
    job.worker("a").send_signal(signal.SIGKILL)
    job.end_well("controller")
    assert "from memory at step" in job.log()
    assert losses(job) == calm


@pytest.mark.slow
def test_losses_from_the_disk_are_bit_by_bit_those_of_an_undisturbed_run(tmp_path, calm):
    job = Job(tmp_path, steps=STEPS, every=5, options=("--memory-every", 0))
    try:
        job.controller().agents("a", "b").wait_step(8)
        job.worker("b").send_signal(signal.SIGKILL)
        job.end_well("controller")
        logs = [path.read_text() for path in (tmp_path / "run" / "log").glob("*/workerlog.0")]
        assert any("resumed from" in text and "step-00000005" in text for text in logs)
        assert losses(job) == calm
    finally:
        job.close()


@pytest.mark.slow
def test_losses_over_two_one_and_two_nodes_are_those_of_an_undisturbed_run(job, calm):
    """Also of the state that one node alone held, which its neighbour kept."""
    job.controller().agents("a", "b").wait_step(13)
    job.kill("b")
    job.wait(lambda: re.search("1 ranks begin .* from memory at step", job.log()), 60)
    job.wait_step(job.last_step() + 4)
    job.agents("b")
    job.wait(lambda: job.log().count("2 ranks begin") == 2, 60)
    job.end_well("controller")
    assert max(abs(one - other) for one, other in zip(losses(job), calm, strict=True)) < 1e-5


@pytest.mark.slow
def test_a_drained_node_loses_no_step_and_may_come_back(job, calm):
    job.controller().agents("a", "b").wait_step(4)
    assert "b is drained: its fan is loud" in job.client().drain("b", "its fan is loud")
    job.wait(lambda: "1 ranks begin" in job.log(), 60)
    job.end_well("b")
    job.wait_step(job.last_step() + 3)
    job.agents("b")
    job.end_well("controller")
    went_on = [event for event in map(json.loads, job.events()) if event["kind"] == "stepping"]
    assert [event["seconds"]["lost_steps"] for event in went_on] == [0, 0]
    assert max(abs(one - other) for one, other in zip(losses(job), calm, strict=True)) < 1e-5


@pytest.mark.slow
def test_a_job_scaled_down_and_up_again_loses_no_step(job, calm):
    job.controller().agents("a", "b").wait_step(4)
    assert job.client().scale(1, 1) == "scaled to 1:1 nodes"
    job.wait(lambda: "1 ranks begin" in job.log(), 60)
    job.wait(lambda: {node.node: node.state for node in job.client().status().nodes}["b"] == "standby", 10)
    job.wait_step(job.last_step() + 3)
    assert job.client().scale(1, 2) == "scaled to 1:2 nodes"
    job.wait(lambda: job.log().count("2 ranks begin") == 2, 60)
    job.end_well("controller", "a", "b")
    went_on = [event for event in map(json.loads, job.events()) if event["kind"] == "stepping"]
    assert [event["seconds"]["lost_steps"] for event in went_on] == [0, 0]
    assert max(abs(one - other) for one, other in zip(losses(job), calm, strict=True)) < 1e-5
