"""The account of a job's time: its parts sum to wall time exactly, whatever happens, and stand for what they say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nebula.elastic.goodput import Category, Moment, account
from nebula.elastic.policy.values import Phase

RUNNING, STOPPING, WAITING, DONE = Phase.RUNNING, Phase.STOPPING, Phase.WAITING, Phase.DONE

seconds = st.floats(-1e3, 1e7, allow_nan=False) | st.integers(0, 10**9).map(float)
moments = st.builds(
    Moment,
    at_s=seconds,
    phase=st.sampled_from(Phase),
    generation=st.integers(0, 5),
    stepping=st.booleans(),
    share=st.floats(-0.5, 1.5),
    before=st.lists(st.tuples(st.sampled_from(Category), seconds), max_size=3).map(tuple),
    saving_s=seconds,
    lost_steps=st.integers(0, 9),
)


def spent(*told, began_s=0.0):
    found = account(began_s, told).seconds()
    return {category.value: took_s for category, took_s in found.items() if took_s}


@given(began_s=seconds, told=st.lists(moments, max_size=30), now_s=seconds)
def test_parts_sum_to_wall_time_exactly(began_s, told, now_s):
    for one in (account(began_s, told), account(began_s, told).until(now_s)):
        assert sum(one.spent_ns.values()) == one.wall_ns
        assert min(one.spent_ns.values()) >= 0
        assert 0.0 <= one.goodput <= 1.0


@given(told=st.lists(moments, max_size=20))
def test_time_never_leaves_a_category_and_ends_with_the_job(told):
    before = account(0.0, [])
    for moment in told:
        after = before.after(moment)
        assert all(after.spent_ns[category] >= before.spent_ns[category] for category in Category)
        assert not before.over or after.wall_ns == before.wall_ns
        before = after


@given(told=st.lists(moments, max_size=10), at_s=st.lists(seconds, max_size=4))
def test_looking_in_between_changes_nothing(told, at_s):
    """What is shown of a running job is no part of its account."""
    one = account(0.0, told)
    for now_s in at_s:
        one.until(now_s)
    assert one == account(0.0, told)


def test_a_failure_and_its_recovery():
    told = (
        Moment(at_s=5.0, phase=RUNNING, generation=1),
        Moment(at_s=8.0, phase=RUNNING, generation=1, stepping=True, before=((Category.RESTORING, 1.0),)),
        Moment(at_s=108.0, phase=STOPPING, generation=1, before=((Category.DETECTING, 4.0),), saving_s=2.0),
        Moment(at_s=108.5, phase=RUNNING, generation=2),
        Moment(
            at_s=120.0,
            phase=RUNNING,
            generation=2,
            stepping=True,
            before=((Category.RECOMPUTING, 6.0), (Category.STARTING, 1.0), (Category.RESTORING, 3.0)),
            lost_steps=6,
        ),
        Moment(at_s=130.0, phase=DONE, generation=2),
        Moment(at_s=999.0, phase=DONE, generation=2),
    )
    assert spent(*told) == {
        "waiting": 5.0,
        "starting": 2.0 + 2.5,
        "restoring": 1.0 + 3.0,
        "productive": 94.0 + 10.0,
        "saving": 2.0,
        "detecting": 4.0,
        "stopping": 0.5,
        "recomputing": 6.0,
    }
    assert account(0.0, told).lost_steps == 6


def test_a_generation_that_ends_at_a_step_is_productive_until_it():
    told = (
        Moment(at_s=0.0, phase=RUNNING, generation=1, stepping=True),
        Moment(at_s=10.0, phase=STOPPING, generation=1, stepping=True),
        Moment(at_s=11.0, phase=STOPPING, generation=1),
        Moment(at_s=12.0, phase=RUNNING, generation=2, before=((Category.STOPPING, 0.25),)),
    )
    assert spent(*told) == {"productive": 11.75, "stopping": 0.25}


def test_fewer_nodes_than_wanted_are_a_part_of_progress():
    told = (
        Moment(at_s=0.0, phase=RUNNING, generation=1, stepping=True, share=0.75),
        Moment(at_s=100.0, phase=DONE, generation=1),
    )
    assert spent(*told) == {"productive": 75.0, "degraded": 25.0}


def test_a_clock_that_runs_back_adds_nothing():
    told = (
        Moment(at_s=10.0, phase=RUNNING, generation=1, stepping=True),
        Moment(at_s=4.0, phase=RUNNING, generation=1),
        Moment(at_s=12.0, phase=DONE, generation=1),
    )
    assert spent(*told) == {"waiting": 10.0, "productive": 2.0}
