"""Ways of a worker to end or to hang, done by `nebula chaos` to a job of two: they are seen, told and got over.

Hangs are seen by progress within max(2 s, 5 x p99 of the steps), which is asked for here with time to spare: the bench
measures it.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from statistics import median

import psutil
import pytest
from elastic_job import Job

from nebula.elastic.agent.faults import SLICE_S
from nebula.elastic.chaos.values import Kind

EXITS = {
    Kind.KILL: "was killed by SIGKILL",
    Kind.TERM: "was killed by SIGTERM",
    Kind.SEGV: "was killed by SIGSEGV",
    Kind.EXIT: "exited with code 1",
    Kind.EXCEPTION: "exited with code 1: nebula.elastic.entry.own_faults.Asked: a test asked for an exception",
}
HANGS = {
    Kind.FREEZE: "is stopped by a signal",
    Kind.LOOP: "made no progress for",
    Kind.LOCK: "made no progress for",
    Kind.DATA: " s in data of step ",
}


@pytest.fixture
def job(tmp_path):
    made = Job(tmp_path, steps=100_000, every=1000, options=("--allow-faults", "--node-failures", "1000"))
    made.agent_options = ["--allow-faults"]
    yield made
    made.close()


def events(job, kind):
    return [event for event in job.client().events() if event.kind == kind]


def recovered(job, kind, told):
    """Injects a fault; the event that told of it, once the job has got over it."""
    before, back = len(events(job, told)), len(events(job, "stepping"))
    job.wait_step(job.last_step() + 3)
    job.client().inject("b", kind.value)
    job.wait(lambda: len(events(job, "stepping")) > back, 90)
    assert len(events(job, told)) == before + 1
    return events(job, told)[-1]


@pytest.mark.slow
def test_ends_of_a_worker_are_told_with_their_cause(job):
    job.controller().agents("a", "b")
    for kind, words in EXITS.items():
        event = recovered(job, kind, "failed")
        assert words in event.because
        assert " on b " in event.because
        assert event.last_lines or kind is Kind.KILL  # which leaves no time for words
    assert [one["step"] for one in job.steps()] == list(range(1, len(job.steps()) + 1))


@pytest.mark.slow
def test_hangs_of_a_worker_are_seen_by_its_progress_and_its_stacks_are_kept(job):
    job.controller().agents("a", "b")
    for kind, words in HANGS.items():
        event = recovered(job, kind, "hang")
        assert words in event.because
        assert " on b " in event.because, kind
        if kind is not Kind.FREEZE:  # a stopped process can write nothing
            assert any("most recent call first" in line for line in event.last_lines), event.last_lines
            assert any("own_faults.py" in line for line in event.last_lines), event.last_lines


@pytest.mark.slow
def test_a_slow_worker_and_a_short_cut_of_the_line_stop_nobody(job):
    job.controller().agents("a", "b").wait_step(8)
    workers = [job.worker(node).pid for node in "ab"]
    before = job.steps()
    job.client().inject("b", "slow", seconds=2.0)
    job.wait(lambda: job.worker("b").status() == psutil.STATUS_STOPPED, 5)
    job.wait_step(len(before) + 8)
    took_s = [one["took_s"] for one in job.steps()[len(before) :]]
    assert max(took_s) > median(one["took_s"] for one in before[1:]) + SLICE_S / 2, took_s

    job.client().inject("a", "line", seconds=0.4)
    job.wait(lambda: "a is connected again; its workers went on" in job.log(), 20)
    job.wait_step(job.last_step() + 5)
    assert workers == [job.worker(node).pid for node in "ab"]
    assert job.client().status().restarts == 0


def test_a_controller_that_was_frozen_changes_nothing_when_it_wakes_up(job):
    job.controller().agents("a", "b").wait_step(3)
    stale, port = job.processes["controller"], job.port
    stale.send_signal(signal.SIGSTOP)
    job.port = 0
    job.controller("second")
    assert "standing by until it is gone" in job.log("second")
    stale.send_signal(signal.SIGCONT)
    assert stale.wait(20) == 4
    assert "leads run no longer" in job.log("controller")
    assert "(epoch 2) does; this controller ends, workers go on" in job.log("controller")
    step = job.last_step()
    job.wait_step(step + 3)
    assert port != job.port


def test_a_job_that_allows_no_faults_refuses_them(tmp_path):
    job = Job(tmp_path, steps=1000)
    try:
        job.controller().agents("a", "b").wait_step(1)
        (tmp_path / "faults.yaml").write_text("faults: [{fault: kill, at: 0s}]\nfor: 3s\n")
        words = [sys.executable, "-m", "nebula.cli.main", "chaos", "faults.yaml", "--insecure", "--json"]
        done = subprocess.run(
            [*words, "--controller", f"127.0.0.1:{job.port}"], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "without --allow-faults" in json.loads(done.stdout)["faults"][0]["because"]
    finally:
        job.close()


@pytest.mark.slow
def test_a_gradient_that_is_no_number_gets_into_no_copy_and_the_losses_are_those_without_it(job, tmp_path):
    job.controller().agents("a", "b")
    event = recovered(job, Kind.NAN, "failed")
    told = re.search(r"is not finite after step (\d+)", " ".join([event.because, *event.last_lines]))
    assert told
    assert int(told[1]) <= job.last_step(), "the step was not done again"
    job.wait_step(job.last_step() + 3)
    found = losses(job)
    job.close()
    (tmp_path / "calm").mkdir()
    calm = Job(tmp_path / "calm", steps=100_000, every=1000)
    try:
        calm.controller().agents("a", "b").wait_step(len(found))
        assert losses(calm)[: len(found)] == found
    finally:
        calm.close()


def losses(job):
    """Of all steps, none of which is missing or there twice."""
    assert [one["step"] for one in job.steps()] == list(range(1, len(job.steps()) + 1))
    return [one["loss"] for one in job.steps()]
