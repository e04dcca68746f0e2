"""A node whose worker gets a part of its time alone is found by its own work, and replaced by one that stands by."""

from __future__ import annotations

import re
import signal
import threading
import time

import pytest
from elastic_job import RUN, Job

THREE = (
    RUN.replace("count: 2", "count: 3").replace("nodes: 2", "nodes: 3").replace("global_batch: 2", "global_batch: 6")
)


@pytest.fixture
def job(tmp_path):
    made = Job(tmp_path, steps=100_000, nodes="2:2", run=THREE)
    yield made
    made.close()


class Slowed:
    """Stops a process for most of every 40 ms, so that it works on as a slow machine would."""

    def __init__(self, process, share):
        self.process, self.share, self.over = process, share, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.over.is_set() and self.process.is_running():
            try:
                self.process.send_signal(signal.SIGSTOP)
                time.sleep(0.04 * (1 - self.share))
                self.process.send_signal(signal.SIGCONT)
            except OSError:
                return
            time.sleep(0.04 * self.share)

    def close(self):
        self.over.set()
        self.thread.join()


@pytest.mark.slow
def test_a_slow_node_gives_its_place_to_one_that_stands_by(job):
    job.controller().agents("a", "b").wait_step(3)
    job.agents("c").wait(lambda: "c joined and stands by" in job.log(), 30)
    slowed = Slowed(job.worker("b"), 0.15)
    try:
        job.wait(lambda: "b takes" in job.log(), 120)
    finally:
        slowed.close()
    assert "times as long as the others and is put aside" in job.log()
    job.wait(lambda: "training goes on" in job.log(), 60)
    assert "0 steps were done again" in job.log()
    job.wait_step(job.last_step() + 2)
    assert "begins on a, c" in job.log()
    steps = [one["step"] for one in job.steps()]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.slow
def test_a_slow_replica_gives_its_place_to_one_that_stands_by(tmp_path):
    job = Job(tmp_path, steps=100_000, nodes="2:2", run=THREE, options=("--replicas", 2))
    try:
        job.controller().agents("a", "b").wait_step(3)
        job.agents("c").wait(lambda: "c joined and stands by" in job.log(), 30)
        slowed = Slowed(job.worker("b"), 0.15)
        try:
            job.wait(lambda: "b takes" in job.log(), 120)
        finally:
            slowed.close()
        assert "times as long as the others and is put aside" in job.log()
        job.wait(lambda: re.search(r"member \d+ on c has the state", job.log()), 60)
        job.wait_step(job.last_step() + 2)
        steps = [one["step"] for one in job.steps()]
        assert steps == list(range(1, len(steps) + 1))
    finally:
        job.close()
