"""Scripts of one's own that say nothing for long: in a pause between two steps, and before they have said anything."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from elastic_job import RUN, Job

HERE = Path(__file__).parent
MODEL = '{{{{layer: "{name}:factory", inputs: {{{{x: {{{{shape: [rows, 64], dtype: float32}}}}}}}}}}}}'


@pytest.fixture
def run(tmp_path):
    made = []

    def begin(name, *words):
        model = MODEL.format(name=name)
        text = RUN.replace("{{preset: ernie-3.0-small, seq_len: 16}}", model)
        text = text.replace("global_batch: 2", "global_batch: 32")
        (tmp_path / f"{name}.py").symlink_to(HERE / f"{name}.py")
        options = ("--script", f"{HERE / name}.py {' '.join(map(str, words))}")
        job = Job(tmp_path, steps=300, run=text + "objective: {{fixed: {{data: 2}}}}\n", options=options)
        made.append(job)
        return job.controller().agents("a", "b")

    yield begin
    for job in made:
        job.close()


def failures(job):
    """What failed, from the store, which outlasts the controller."""
    events = map(json.loads, job.events())
    return [event["because"] for event in events if event["kind"] in ("failed", "hang")]


@pytest.mark.slow
def test_nobody_is_taken_to_hang_while_one_rank_pauses_and_the_other_waits(run):
    job = run("pause_script", 300, 100, 8.0, 60)
    job.end_well("controller", timeout_s=120)
    assert failures(job) == []
    assert "paused" in "".join(path.read_text() for path in (job.folder / "run" / "log").rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_pause_that_takes_longer_than_the_script_said_is_a_hang(run):
    job = run("pause_script", 300, 100, 120.0, 1.0)
    (why,) = job.wait(lambda: failures(job), 60)
    assert re.match(r"rank 0 on [ab] made no progress for", why)
    assert "in pause of step 101" in why


@pytest.mark.slow
def test_a_rank_that_stands_still_before_its_first_word_is_found_once_the_job_has_begun_before(run, tmp_path):
    job = run("begin_script", 300, tmp_path)
    job.end_well("controller", timeout_s=150)
    ended, stood_still = failures(job)
    assert "exited with code 1" in ended
    assert re.match(r"rank [01] on [ab] made no progress for 3\d\.\d s in begin of step", stood_still)
