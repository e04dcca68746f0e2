"""When steps were done, as a controller learns it, and the account that its journal gives."""

from __future__ import annotations

import json
from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from nebula.elastic.controller.journal import Happened, loads
from nebula.elastic.controller.ledger import LATEST_FIRST, Ledger
from nebula.elastic.controller.steps import Beginning, Steps
from nebula.elastic.goodput import Category
from nebula.elastic.policy.values import Phase
from nebula.runtime.progress import Progress, Section, Watched


def test_a_beginning_from_memory_tells_what_its_seconds_went_into():
    one = Beginning(before=30, resumed=28)
    told = [(1.0, Section.BEGIN, 0), (5.0, Section.LOAD, 0), (7.0, Section.DATA, 28), (8.0, Section.DATA, 29)]
    assert not any(one.progressed(*each) for each in told)
    assert not one.progressed(9.0, Section.DATA, 30)
    assert one.progressed(10.0, Section.DATA, 31)
    assert one.lost == 2
    assert one.seconds(10.0) == {"productive": 1.0, "recomputing": 1.0, "starting": 1.0, "restoring": 2.0}


def test_a_beginning_from_the_disk_learns_where_it_began():
    one = Beginning(before=30)
    assert not one.progressed(5.0, Section.LOAD, 0)
    assert not one.progressed(7.0, Section.DATA, 20)
    assert one.progressed(20.0, Section.DATA, 40)
    assert one.lost == 10


def test_a_generation_that_has_done_nothing_yet_is_not_stepping():
    one = Beginning(before=0)
    assert not one.progressed(1.0, Section.BEGIN, 0)
    assert not one.progressed(1.0, Section.DATA, 0)
    assert one.progressed(2.0, Section.DATA, 1)


def test_saves_of_the_slowest_node_count_once():
    steps = Steps()
    steps.begin(0, -1)
    for saving_s in (1.0, 3.0, 2.0, 2.5, 3.5):
        steps.saved(saving_s)
    assert steps.take_saving_s() == 3.5
    assert steps.take_saving_s() == 0.0
    steps.begin(5, 5)
    steps.saved(0.5)
    assert steps.take_saving_s() == 0.5


def test_bytes_that_were_written_count_once_and_begin_anew_with_a_generation():
    steps = Steps()
    assert steps.wrote("a", {"memory": 5, "disk": 0}) == {"memory": 5}
    assert steps.wrote("a", {"memory": 7, "disk": 2}) == {"memory": 2, "disk": 2}
    assert steps.wrote("b", {"memory": 7}) == {"memory": 7}
    steps.begin(1, 1)
    assert steps.wrote("a", {"memory": 3}) == {"memory": 3}


def test_seconds_since_a_step_begin_with_the_first_one():
    steps = Steps()
    steps.begin(0, -1)
    assert steps.since_s(9.0) == 0.0
    assert steps.did(10.0, 5) == 0
    assert steps.did(11.0, 7) == 2
    assert steps.did(12.0, 7) == 0
    assert steps.since_s(12.0) == 1.0


happened = st.lists(
    st.builds(
        Happened,
        number=st.just(0),
        wall_s=st.floats(1.7e9, 1.8e9),
        epoch=st.just(1),
        generation=st.integers(0, 4),
        step=st.just(0),
        kind=st.just("x"),
        because=st.just("x"),
        seconds=st.dictionaries(
            st.sampled_from([*(one.value for one in LATEST_FIRST), "saving", "told"]), st.floats(0, 1e4)
        ),
        phase=st.sampled_from([phase.value for phase in Phase]),
        stepping=st.booleans(),
        share=st.floats(0, 1),
    ),
    min_size=1,
    max_size=20,
)


@given(told=happened, more_s=st.floats(0, 1e6))
def test_the_account_of_any_journal_sums_to_wall_time(told, more_s):
    end_s = max(one.wall_s for one in told) + more_s
    found = Ledger(told).until(end_s, more_s / 2)
    assert sum(found.spent_ns.values()) == found.wall_ns
    if not found.over:
        assert found.wall_ns == round(end_s * 1e9) - round(told[0].wall_s * 1e9)


@given(told=happened)
def test_a_journal_that_was_read_again_gives_the_same_account(told):
    again = [loads(json.dumps(asdict(one))) for one in told]
    assert Ledger(again).until(1.9e9, 0.0) == Ledger(told).until(1.9e9, 0.0)


def test_an_event_of_an_older_version_is_read():
    old = {"number": 1, "wall_s": 1.0, "epoch": 1, "generation": 0, "step": 0, "kind": "x", "because": "y"}
    assert loads(json.dumps({**old, "last_lines": [], "seconds": {}})).phase == ""


def test_a_rank_counts_its_time_in_each_section_by_its_own_clock(tmp_path):
    watched = Watched(tmp_path / "progress")
    progress = Progress(tmp_path / "progress")
    now_s = [10.0]
    progress.keep(lambda: now_s[0])
    for section, took_s in (
        (Section.DATA, 1.0),
        (Section.FORWARD, 2.0),
        (Section.CHECKPOINT, 4.0),
        (Section.DATA, 8.0),
    ):
        progress.enter(section)
        now_s[0] += took_s
    progress.step_done()
    assert watched.spent_s(Section.DATA) == 9.0
    assert (watched.spent_s(Section.FORWARD), watched.spent_s(Section.CHECKPOINT)) == (2.0, 4.0)
    assert watched.section is Section.DATA
    assert Category.SAVING.value == "saving"
