"""The model's choice among the splits that a job was measured under."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nebula.cost_model.runs.choices import choices
from nebula.cost_model.runs.schema import Row
from nebula.cost_model.runs.score import validate
from nebula.models.decoders_measured import described_run
from tests.pure.runs_samples import row


def scored(*changes):
    rows = []
    for index, change in enumerate(changes):
        measured = change.pop("step_s")
        one = row(**{"id": f"r{index}", "devices": 8, "global_batch": 64, "pp": 1, **change})
        rows.append(Row.model_validate({**one.model_dump(), "measured": {"step_time_s": measured}}))
    return validate(rows, described_run).scored


def test_the_choice_is_the_split_predicted_fastest():
    found = scored({"tp": 1, "dp": 8, "step_s": 2.0}, {"tp": 8, "dp": 1, "step_s": 1.0})
    (choice,) = choices(found)
    fastest = min(found, key=lambda s: s.predicted.time_s)
    assert choice.chosen is fastest
    assert choice.best.row.id == "r1"
    assert choice.lost == pytest.approx(1.0 if fastest.row.id == "r0" else 0.0)
    assert choice.right == (fastest.row.id == "r1")
    assert choice.splits == 2


def test_other_jobs_and_repeated_runs_are_no_choice():
    assert not choices(scored({"tp": 1, "dp": 8, "step_s": 2.0}, {"tp": 1, "dp": 8, "step_s": 2.2}))
    assert not choices(scored({"tp": 1, "dp": 8, "step_s": 2.0}, {"tp": 8, "dp": 1, "layers": 7, "step_s": 1.0}))


def test_a_choice_near_the_best_is_right():
    (choice,) = choices(scored({"tp": 1, "dp": 8, "step_s": 1.0}, {"tp": 8, "dp": 1, "step_s": 1.02}))
    assert choice.right
    assert not replace(choice, chosen=choice.best).lost
