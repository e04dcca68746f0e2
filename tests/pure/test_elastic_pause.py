"""A pause that a script asks for between two steps: no step's time, no hang, and bounded."""

from __future__ import annotations

import math
import time

import pytest

from nebula.elastic.policy.blame import Silence, waits_for_told
from nebula.errors import BadInput
from nebula.runtime.pause import pause
from nebula.runtime.progress import LATE, NoProgress, Progress, Section, Watched


@pytest.fixture
def both(tmp_path):
    watched = Watched(tmp_path / "progress")
    return watched, Progress(tmp_path / "progress")


def test_a_pause_is_told_of_all_the_time_and_counts_for_no_step(both):
    watched, rank = both
    rank.step_done()
    with pause(rank, at_most_s=60):
        assert watched.section is Section.PAUSE
        time.sleep(1.0)
        assert time.monotonic() - watched.changed_s < 0.8
    assert watched.section is Section.DATA
    rank.step_done()
    rank.step_done()
    assert max(watched.step_times()) < 0.5
    assert watched.spent_s(Section.PAUSE) > 0.9


def test_a_pause_longer_than_its_script_allows_falls_silent(both):
    watched, rank = both
    with pause(rank, at_most_s=0.3):
        time.sleep(1.5)
        assert time.monotonic() - watched.changed_s > 0.9


def test_an_error_in_a_pause_ends_it(both):
    watched, rank = both
    with pytest.raises(ZeroDivisionError), pause(rank, at_most_s=60):
        raise ZeroDivisionError
    at_s = watched.changed_s
    time.sleep(0.5)
    assert watched.changed_s == at_s
    assert watched.section is Section.DATA


@pytest.mark.parametrize("at_most_s", [0, -1.0, math.nan, math.inf, "10", 1e9])
def test_what_is_no_time_is_refused(at_most_s):
    with pytest.raises(BadInput, match=r"give seconds, more than 0 and at most a week"), pause(NoProgress(), at_most_s):
        raise AssertionError("it began")


@pytest.mark.parametrize(
    "waiting",
    [{"section": Section.COLLECTIVE}, {"section": Section.FORWARD, "parked": True}],
    ids=["section", "thread"],
)
def test_who_may_wait_for_a_pause_is_not_blamed_while_it_goes_on(waiting):
    waits = Silence(rank=1, step=7, silent_s=9.0, **waiting)
    pauses = Silence(rank=0, step=7, section=Section.PAUSE, silent_s=0.2)
    assert waits_for_told(waits, [waits, pauses])
    assert not waits_for_told(waits, [waits, Silence(rank=0, step=7, section=Section.PAUSE, silent_s=8.0)])


def test_who_computes_does_not_wait_for_a_pause():
    loops = Silence(rank=1, step=7, section=Section.FORWARD, silent_s=9.0, busy=True)
    pauses = Silence(rank=0, step=7, section=Section.PAUSE, silent_s=0.2)
    assert not waits_for_told(loops, [loops, pauses])


def test_data_that_a_test_holds_back_are_waited_for_in_their_section_once(both):
    watched, rank = both
    seen = []
    LATE.append(lambda: seen.append((watched.section, watched.step)))
    for section in (Section.FORWARD, Section.BACKWARD, Section.FORWARD):  # of a step that has its data
        rank.enter(section)
    assert seen == []
    rank.step_done()
    for _ in range(2):
        rank.enter(Section.FORWARD)
        rank.step_done()
    assert seen == [(Section.DATA, 1)]
