"""steps.jsonl of a training that goes on: no line is lost to a process that did no step, none is there twice."""

from __future__ import annotations

import json

import pytest

from nebula.errors import RunFailed
from nebula.runtime.steps import Journal, StepRecord


def record(step, loss=1.0):
    return StepRecord(
        step=step, loss=loss, tokens=1, predicted_s=0.0, took_s=1.0, clock="wall", memory_bytes=0, mfu=0.0
    )


def lines(path):
    return [(one["step"], one["loss"]) for one in map(json.loads, path.read_text().splitlines())]


def write(path, steps, loss):
    journal = Journal(path)
    for step in steps:
        journal.write(record(step, loss))
    return journal


def test_who_does_no_step_leaves_all_lines_and_the_first_step_replaces_those_that_are_done_again(tmp_path):
    path = tmp_path / "steps.jsonl"
    write(path, range(1, 11), 1.0).close()
    Journal(path).close()
    assert [step for step, _ in lines(path)] == list(range(1, 11))
    write(path, [8, 9], 2.0)
    assert lines(path) == [(step, 1.0) for step in range(1, 8)] + [(8, 2.0), (9, 2.0)]


def test_a_line_that_was_cut_off_goes_and_a_new_training_begins_at_the_first(tmp_path):
    path = tmp_path / "steps.jsonl"
    write(path, [1, 2], 1.0).close()
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    write(path, [3], 2.0).close()
    assert lines(path) == [(1, 1.0), (2, 1.0), (3, 2.0)]
    write(path, [1], 3.0).close()
    assert lines(path) == [(1, 3.0)]


def test_who_was_left_behind_writes_into_nothing_that_is_read(tmp_path):
    path = tmp_path / "steps.jsonl"
    stale = write(path, [1, 2], 1.0)
    write(path, [2, 3], 2.0).close()
    stale.write(record(3, 9.0))
    assert lines(path) == [(1, 1.0), (2, 2.0), (3, 2.0)]


def test_a_disk_that_refuses_fails_the_run_in_words(tmp_path):
    with pytest.raises(RunFailed, match=r"steps\.jsonl: cannot be written"):
        Journal(tmp_path / "nowhere" / "steps.jsonl").write(record(1))
