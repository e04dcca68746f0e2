"""When a rank counts as hanging, and which of several that are silent is to blame."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.elastic.agent.hang import Patience, long_step
from nebula.elastic.policy.blame import SILENT_S, WAITING, Silence, culprit
from nebula.runtime.progress import Progress, Section, Watched, make

TIMES = st.lists(st.floats(0.001, 100), min_size=1, max_size=300)


@given(TIMES)
def test_patience_is_at_least_two_seconds_and_follows_the_steps(times):
    told = Patience().seconds(Section.FORWARD, times)
    assert told == 0.8 * max(2.0, 5.0 * long_step(times))
    assert told <= max(2.0, 5.0 * max(times))


def test_no_alarm_is_raised_sooner_than_those_who_are_asked_take_for_one():
    assert Patience().seconds(Section.FORWARD, [0.1] * 200) == SILENT_S


def test_one_outlier_among_few_steps_does_not_make_it_blind():
    assert Patience().seconds(Section.DATA, [0.3] * 20 + [6.0]) == pytest.approx(4.8)
    assert Patience().seconds(Section.DATA, [0.3] * 200 + [6.0] * 3) == 24.0


def test_there_is_more_patience_before_the_first_step_and_all_of_it_at_the_end():
    assert Patience().seconds(Section.BEGIN, [0.1]) == Patience().seconds(Section.DATA, []) == 1800.0
    assert Patience().seconds(Section.LOAD, [0.1]) == 120.0
    assert Patience().seconds(Section.END, [0.1]) == math.inf


def test_once_a_job_has_begun_that_tells_how_long_a_begin_may_take():
    assert Patience().seconds(Section.BEGIN, [], [1.5, 3.0]) == Patience().seconds(Section.FORWARD, [], [3.0]) == 30.0
    assert Patience().seconds(Section.BEGIN, [0.1], [1.5, 40.0, 3.0]) == 200.0
    assert Patience().seconds(Section.LOAD, [], [1.5]) == 120.0
    assert Patience().seconds(Section.DATA, [0.1], [40.0]) == 1.6


def silent(rank, section, step=5, silent_s=3.0, frozen=False):
    return Silence(rank=rank, step=step, section=section, silent_s=silent_s, frozen=frozen)


@pytest.mark.parametrize(
    ("ranks", "blamed"),
    [
        ([silent(0, Section.BACKWARD), silent(1, Section.DATA)], 1),
        ([silent(0, Section.FORWARD), silent(1, Section.BACKWARD, frozen=True)], 1),
        ([silent(0, Section.COLLECTIVE), silent(1, Section.BACKWARD)], 1),
        ([silent(0, Section.BACKWARD, step=6), silent(1, Section.BACKWARD, step=5)], 1),
        ([silent(0, Section.BACKWARD, silent_s=3.0), silent(1, Section.BACKWARD, silent_s=3.1)], 1),
    ],
)
def test_the_one_that_others_wait_for_is_blamed(ranks, blamed):
    assert culprit(ranks).rank == culprit(ranks[::-1]).rank == blamed


def test_a_cause_names_section_and_step():
    assert silent(1, Section.DATA).cause == "made no progress for 3.0 s in data of step 6"
    assert silent(1, Section.UPDATE, frozen=True).cause.endswith("in update of step 6 and is stopped by a signal")
    assert Section.DATA not in WAITING


def test_what_a_rank_writes_an_agent_reads(tmp_path):
    watched = Watched(tmp_path / "progress")
    assert (watched.step, watched.section, watched.changed_s, list(watched.step_times())) == (0, Section.BEGIN, 0.0, [])
    rank = Progress(tmp_path / "progress")
    rank.begin_at(40)
    rank.observe("F", 0, "begin")
    assert watched.section is Section.FORWARD
    rank.observe("update", -1, "end")
    assert watched.section is Section.COLLECTIVE
    for _ in range(300):
        rank.step_done()
    assert (watched.step, watched.section) == (340, Section.DATA)
    assert len(watched.step_times()) == 255
    assert all(took_s >= 0 for took_s in watched.step_times())
    watched.ask_to_stop(341)
    assert rank.stop_at == 341
    make(tmp_path / "progress")
    assert Watched(tmp_path / "progress").step == 0
