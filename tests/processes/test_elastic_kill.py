"""A worker is killed: the job goes on by itself, with the same steps as if nothing had happened."""

from __future__ import annotations

import signal

import pytest
from elastic_job import Job


@pytest.fixture
def job(tmp_path):
    made = Job(tmp_path)
    yield made
    made.close()


def test_a_killed_worker_is_replaced_and_training_ends(job):
    job.controller().agents("a", "b").wait_step(5)
    job.worker("b").send_signal(signal.SIGKILL)
    job.end_well("controller")
    assert "was killed by SIGKILL" in job.log()
    assert [one["step"] for one in job.steps()] == list(range(1, 41))
    job.end_well("a", "b")
