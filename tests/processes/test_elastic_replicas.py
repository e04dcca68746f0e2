"""Replicas under a controller: workers, a node and the controller are lost, a node comes, and no step is lost."""

from __future__ import annotations

import re
import signal

import pytest
from elastic_job import RUN, Job

from nebula.elastic.chaos.run import run
from nebula.elastic.chaos.values import Fault, Kind, Schedule

THREE = RUN.replace("count: 2", "count: 3").replace("nodes: 2", "nodes: 3")


@pytest.fixture
def job(tmp_path):
    made = Job(tmp_path, steps=30, nodes="1:2", options=("--replicas", 2))
    yield made
    made.close()


def losses(job):
    return [step["loss"] for step in job.steps()]


@pytest.mark.slow
def test_a_killed_worker_begins_anew_while_the_other_goes_on(job):
    job.controller().agents("a", "b").wait_step(5)
    job.worker("b").send_signal(signal.SIGKILL)
    job.end_well("controller")
    assert [one["step"] for one in job.steps()] == list(range(1, 31))
    assert "was killed by SIGKILL; the others go on, it begins anew" in job.log()
    job.end_well("a", "b")


@pytest.mark.slow
def test_a_kill_is_seen_and_got_over_and_what_the_other_lacked_meanwhile_is_degraded(tmp_path):
    job = Job(tmp_path, steps=100_000, nodes="2:2", options=("--replicas", 2, "--allow-faults"))
    job.agent_options = ["--allow-faults"]
    try:
        job.controller().agents("a", "b").wait_step(5)
        before, client = dict(job.client().status().account_s), job.client()
        kills = Schedule(faults=(Fault(kind=Kind.KILL, node="b", at_s=0.1),), seed=0, lasts_s=60.0)
        (outcome,) = run(kills, client, print).outcomes
        assert 0 <= outcome.seen_s < outcome.back_s < 60
        assert outcome.lost_steps == 0
        after = dict(client.status().account_s)
        away_s = 2 * (after["degraded"] - before["degraded"])
        assert 0.1 < away_s < outcome.back_s
        assert after["recomputing"] == before["recomputing"]
        job.kill("b")  # with its agent, and nobody comes in its place
        job.wait(lambda: "one replica steps after" in job.log(), 30)
    finally:
        job.close()


@pytest.mark.slow
def test_when_all_are_killed_they_go_on_from_the_disk_and_the_lost_steps_count(tmp_path):
    job = Job(tmp_path, steps=100_000, every=20, nodes="2:2", options=("--replicas", 2))
    try:
        job.controller().agents("a", "b").wait_step(35, 180)
        for node in "ab":
            job.worker(node).send_signal(signal.SIGKILL)
        job.wait(lambda: "training goes on after" in job.log(), 180)
        status = job.client().status()
        assert 0 < status.lost_steps <= 35
        assert status.account_s["recomputing"] > 0
        job.wait_step(job.last_step() + 2)
        assert [one["step"] for one in job.steps()] == list(range(1, job.last_step() + 1))
    finally:
        job.close()


@pytest.mark.slow
def test_replicas_that_loop_or_hold_the_lock_wherever_they_are_begin_anew(tmp_path):
    faults = ("--allow-faults",)
    job = Job(tmp_path, steps=100_000, nodes="2:2", options=("--replicas", 2, "--node-failures", 1000, *faults))
    job.agent_options = list(faults)
    try:
        job.controller().agents("a", "b").wait_step(3)
        for number, kind in enumerate(("loop", "loop", "lock", "loop")):
            job.wait_step(job.last_step() + 5 + number)
            begun = job.log().count("made no progress")
            job.client().inject("ab"[number % 2], kind)
            job.wait(lambda begun=begun: job.log().count("made no progress") > begun, 60)
            here = job.log().count(" is here")
            job.wait(lambda here=here: job.log().count(" is here") > here, 60)
        assert [one["step"] for one in job.steps()] == list(range(1, job.last_step() + 1))
    finally:
        job.close()


@pytest.mark.slow
def test_a_node_is_lost_another_joins_and_losses_are_those_of_an_undisturbed_run(tmp_path, job):
    (tmp_path / "calm").mkdir()
    calm = Job(tmp_path / "calm", steps=30, nodes="1:2", options=("--replicas", 2))
    try:
        calm.controller().agents("a").wait_step(1)
        calm.end_well("controller")
        expected = losses(calm)
    finally:
        calm.close()
    job.controller().agents("a", "b").wait_step(5)
    job.kill("b")
    job.wait_step(12)
    job.agents("c")
    job.end_well("controller")
    assert losses(job) == expected
    assert "b is lost; the others go on" in job.log()
    assert job.log().count("has done all steps") == 2


@pytest.mark.slow
def test_a_node_that_stands_by_takes_the_place_of_a_lost_one(tmp_path):
    job = Job(tmp_path, steps=60, nodes="1:2", options=("--replicas", 2), run=THREE)
    try:
        job.controller().agents("a", "b").wait_step(3)
        job.agents("c").wait(lambda: "c joined and stands by" in job.log(), 30)
        step = job.last_step()
        job.kill("b")
        job.wait(lambda: "b is lost; the others go on, c in place" in job.log(), 30)
        job.wait(lambda: re.search(r"member \d+ on c is here", job.log()), 60)
        assert job.last_step() > step
        assert job.ends() == 0
        assert [one["step"] for one in job.steps()] == list(range(1, 61))
        assert job.log().count("has done all steps") == 2
    finally:
        job.close()


@pytest.mark.slow
def test_the_controller_is_killed_and_comes_back_while_replicas_go_on(job):
    job.controller().agents("a", "b").wait_step(5)
    job.kill("controller")
    at = len(job.steps())
    job.wait_step(at + 4)
    job.controller()
    job.worker("b").send_signal(signal.SIGKILL)
    job.end_well("controller")
    assert [one["step"] for one in job.steps()] == list(range(1, 31))


def test_shards_that_do_not_cut_the_batch_are_refused(tmp_path):
    job = Job(tmp_path, options=("--replicas", 3))
    words = ("controller", "run.yaml", "--insecure", "--listen", "127.0.0.1:0", "-o", "run", "--replicas", 3)
    assert job.start("controller", *words).wait(60) == 2
    assert "--replicas 3: so many shards do not cut a global batch of 2 rows evenly" in job.log()
