"""Nodes are told that they will be taken away, all of them in the end: the job goes on later with no step lost."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from elastic_job import RUN, Job

from nebula.elastic.chaos.values import Weather

SCRIPT = Path(__file__).with_name("slow_disk_script.py")
STEPS = 40
TERM, USR1 = signal.SIGTERM, signal.SIGUSR1


@pytest.fixture
def jobs(tmp_path):
    made = []

    def job(name="job", **more):
        (tmp_path / name).mkdir()
        made.append(Job(tmp_path / name, **{"steps": STEPS, "every": 1000, **more}))
        return made[-1]

    yield job
    for one in made:
        one.close()


def lost(job):
    """Steps that were done again, over all recoveries."""
    events = map(json.loads, job.events())
    return sum(event["seconds"].get("lost_steps", 0) for event in events)


def goes_on(job):
    """The nodes come back, and the training ends."""
    step = job.last_step()
    assert [one["step"] for one in job.steps()] == list(range(1, step + 1))
    job.agents("a", "b")
    job.end_well("controller")
    assert [one["step"] for one in job.steps()] == list(range(1, STEPS + 1))
    assert lost(job) == 0
    return [one["loss"] for one in job.steps()]


def step_on_the_disk(job):
    return [path.name for path in sorted((job.folder / "run" / "checkpoints").glob("step-*"))]


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--memory-every", 0), ("--memory-every", 3)], ids=["1", "0", "3"])
def test_where_all_nodes_are_taken_away_no_step_is_lost(jobs, options):
    """Checkpoints are due never: what goes on is what was saved for the notices alone."""
    calm = jobs("calm").controller().agents("a", "b")
    calm.end_well("controller")
    job = jobs(options=options)
    job.controller().agents("a", "b").wait_step(6)
    job.kill("a", TERM)
    job.kill("b", USR1)
    began_s = time.monotonic()
    job.end_well("a", "b", timeout_s=25)
    assert time.monotonic() - began_s < 25
    assert step_on_the_disk(job) == [f"step-{job.last_step():08}"]
    job.wait(lambda: "waiting for nodes" in job.log(), 10)
    losses = goes_on(job)
    assert "resumed from" in "".join(path.read_text() for path in (job.folder / "run" / "log").glob("*/workerlog.0"))
    assert losses == [one["loss"] for one in calm.steps()]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["while it begins alone", "once it trains alone"])
def test_the_last_of_nodes_that_are_taken_away_one_after_the_other_saves_the_job(jobs, moment):
    job = jobs()
    job.controller().agents("a", "b").wait_step(6)
    job.kill("a", TERM)
    job.wait(lambda: "generation 2 begins on b" in job.log(), 30)
    if moment == "once it trains alone":
        job.wait_step(job.last_step() + 2)
    job.kill("b", TERM)
    job.end_well("a", "b", timeout_s=25)
    assert step_on_the_disk(job) == [f"step-{job.last_step():08}"]
    goes_on(job)


@pytest.mark.slow
def test_a_controller_that_was_away_hears_of_the_notice_when_it_is_back(jobs):
    job = jobs()
    job.controller().agents("a", "b").wait_step(6)
    job.kill("controller")
    job.kill("a", TERM)
    job.kill("b", TERM)
    job.wait_step(job.last_step() + 2)
    job.controller()
    job.end_well("a", "b", timeout_s=25)
    assert step_on_the_disk(job) == [f"step-{job.last_step():08}"]
    goes_on(job)


@pytest.mark.slow
def test_without_copies_in_memory_draining_and_scaling_lose_no_step(jobs):
    job = jobs(options=("--memory-every", 0))
    job.controller().agents("a", "b").wait_step(4)
    job.client().scale(1, 1)
    job.wait(lambda: "1 ranks begin under" in job.log(), 60)
    job.wait_step(job.last_step() + 2)
    job.client().scale(1, 2)
    job.wait(lambda: job.log().count("2 ranks begin under") == 2, 60)
    job.wait_step(job.last_step() + 2)
    job.kill("b", TERM)
    job.end_well("b", "controller")
    assert [one["step"] for one in job.steps()] == list(range(1, STEPS + 1))
    assert lost(job) == 0


@pytest.mark.slow
def test_a_notice_that_comes_while_a_save_is_written_waits_for_it(jobs):
    """A save after each step: one is under way whenever the notices come."""
    job = jobs(every=1, options=("--memory-every", 0))
    job.controller().agents("a", "b").wait_step(6)
    job.kill("a", TERM)
    job.kill("b", TERM)
    job.end_well("a", "b", timeout_s=25)
    assert step_on_the_disk(job)[-1] == f"step-{job.last_step():08}"
    assert not list((job.folder / "run" / "checkpoints").glob(".saving-*"))
    goes_on(job)


@pytest.mark.slow
def test_a_grace_that_is_too_short_costs_the_steps_since_the_save_before_and_nothing_else(jobs):
    job = jobs(every=5)
    job.controller().agents("a", "b").wait_step(12)
    for name in "ab":
        job.kill(name, TERM)
    for name in "ab":
        job.kill(name, signal.SIGKILL)
    job.wait(lambda: "waiting for nodes" in job.log(), 30)
    saved = int(step_on_the_disk(job)[-1].removeprefix("step-"))
    assert saved % 5 == 0
    job.agents("a", "b")
    job.end_well("controller")
    assert lost(job) <= 5 + 2
    assert {one["step"] for one in job.steps()} == set(range(1, STEPS + 1))


@pytest.mark.slow
def test_the_last_replicas_that_are_taken_away_save_their_step(jobs):
    job = jobs(options=("--replicas", 2))
    job.controller().agents("a", "b").wait_step(6)
    job.wait(lambda: len(re.findall(" is here", job.log())) >= 1, 10)
    job.kill("a", TERM)
    job.kill("b", TERM)
    job.end_well("a", "b", timeout_s=25)
    assert step_on_the_disk(job) == [f"step-{job.last_step():08}"]
    goes_on(job)


@pytest.mark.slow
def test_where_workers_get_the_signal_of_their_agents_too_what_memory_holds_is_saved(jobs):
    """As Slurm does to all processes of a step that is cancelled: the step that they are in is done again."""
    job = jobs()
    job.controller().agents("a", "b").wait_step(6)
    for name in "ab":
        agent = psutil.Process(job.processes[name].pid)
        for one in (*agent.children(recursive=True), agent):
            one.send_signal(TERM)
    job.end_well("a", "b", timeout_s=60)
    (saved,) = step_on_the_disk(job)
    assert int(saved.removeprefix("step-")) >= job.last_step() - 1
    job.agents("a", "b")
    job.end_well("controller")
    assert {one["step"] for one in job.steps()} == set(range(1, STEPS + 1))
    assert lost(job) <= 1


@pytest.mark.slow
def test_a_save_that_takes_longer_than_workers_have_to_end_is_waited_for_and_is_of_one_step(tmp_path):
    """Steps take milliseconds, and one node hears 0.4 s after the other where they end."""
    model = f'{{{{layer: "{SCRIPT.stem}:factory", inputs: {{{{x: {{{{shape: [rows, 64], dtype: float32}}}}}}}}}}}}'
    run = RUN.replace("{{preset: ernie-3.0-small, seq_len: 16}}", model).replace("global_batch: 2", "global_batch: 32")
    (tmp_path / SCRIPT.name).symlink_to(SCRIPT)
    options = ("--memory-every", 0, "--allow-faults", "--script", f"{SCRIPT} 1000000 25.0")
    job = Job(tmp_path, run=run + "objective: {{fixed: {{data: 2}}}}\n", options=options)
    try:
        job.agent_options = ["--allow-faults"]
        job.controller().agents("a", "b")
        asked = job.client()
        job.wait(lambda: asked.status().step > 100, 90)
        asked.inject("b", "link", seconds=60.0, weather=Weather(delay_s=0.4))
        for name in "ab":
            job.kill(name, TERM)
        began_s = time.monotonic()
        job.end_well("a", "b", timeout_s=120)
        assert time.monotonic() - began_s > 25.0
        (saved,) = (tmp_path / "checkpoints").glob("step-*")
        job.agents("a", "b")
        step = int(saved.name.removeprefix("step-"))
        job.wait(lambda: asked.status().step > step + 10, 90)
        assert lost(job) == 0
    finally:
        job.close()
