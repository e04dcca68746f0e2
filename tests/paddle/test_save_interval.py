"""Saves as often as their cost and the failures ask for."""

import math

import pytest

from nebula.checkpoint.policy import FIRST, Policy
from nebula.plan.checkpoint_section import CheckpointSection, policy_of
from nebula.runtime.progress import MTBF
from nebula.runtime.save import SaveRecord
from nebula.runtime.save_interval import SaveInterval


def saves(stall_s, written_s=0.0, count=3):
    return [SaveRecord(step=i, bytes=1, stall_s=stall_s, written_s=written_s, asynchronous=True) for i in range(count)]


def interval(mtbf_s, step_s, env=None):
    found = SaveInterval(Policy(every=FIRST, mtbf_s=mtbf_s), env or {})
    for index in range(20):
        found.stepped(index * step_s)
    return found


def test_a_fixed_interval_stays():
    fixed = SaveInterval(Policy(every=4), {})
    assert [done for done in range(1, 13) if fixed.due(done)] == [4, 8, 12]
    assert fixed.wanted(saves(1.0)) == 0
    assert fixed.agree(4, 0) == ""
    assert fixed.due(8)


def test_it_is_that_of_least_expected_time():
    """Young's first order for a save that is short against the time between failures."""
    steps = interval(3600.0, 0.5).wanted(saves(0.5))
    assert steps == pytest.approx(math.sqrt(2 * 0.5 * 3600.0) / 0.5, rel=0.02)


def test_no_save_begins_before_the_one_before_is_safe():
    assert interval(10.0, 0.1).wanted(saves(0.01, written_s=3.0)) >= 29


def test_the_next_save_is_due_when_all_have_agreed_and_what_changed_is_said():
    found = interval(3600.0, 0.5)
    assert found.due(10)
    assert found.agree(10, 0) == ""  # nothing is known yet
    assert not found.due(19)
    assert found.due(20)
    assert "saves every 120 steps from here on" in found.agree(20, 120)
    assert next(done for done in range(21, 200) if found.due(done)) == 140


def test_what_the_controller_has_seen_wins():
    often = interval(36000.0, 0.5, {MTBF: "360"}).wanted(saves(0.5))
    assert often < interval(36000.0, 0.5).wanted(saves(0.5)) / 5


def test_a_run_file_says_auto():
    section = CheckpointSection.model_validate({"every": "auto"})
    assert policy_of(section, 1 / 5000.0) == Policy(every=FIRST, mtbf_s=pytest.approx(5000.0))
