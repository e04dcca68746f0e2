"""What the policy answers: memberships, stable ranks, generations, graded recovery, and a reason for all of it."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.elastic.policy import JobState, Limits, decide
from nebula.elastic.policy.events import (
    ControllerBack,
    DrainAsked,
    Failed,
    Finished,
    Gone,
    Joined,
    Refused,
    ScaleAsked,
    Slow,
    Stepped,
    Stopped,
    Tick,
)
from nebula.elastic.policy.record import dumps, loads
from nebula.elastic.policy.values import Bounds, End, Fault, Phase, Release, Start, Stop
from nebula.errors import BadInput

LIMITS = Limits()


class Drive:
    """A job that is told events and keeps what it was asked to do and why."""

    def __init__(self, least, most, unit=1, limits=LIMITS):
        self.state, self.limits, self.now_s = JobState(bounds=Bounds(least=least, most=most, unit=unit)), limits, 0.0
        self.actions, self.reasons = [], []

    def tell(self, *events, after_s=0.0):
        self.now_s += after_s
        for event in events:
            decision = decide(self.now_s, self.state, event, self.limits)
            self.state = decision.state
            self.actions = list(decision.actions)
            if decision.because:
                self.reasons.append(decision.because)
        return self

    def join(self, *names):
        return self.tell(*(Joined(node=name, slots=1) for name in names))


def running(least=1, most=2, names=("a", "b"), **more):
    job = Drive(least, most, **more).join(*names)
    assert job.state.phase is Phase.RUNNING
    return job


def exit_of(job, node, rank=0, fault=Fault.EXIT):
    return Failed(node=node, rank=rank, generation=job.state.generation, fault=fault, cause="was killed by SIGKILL")


def test_a_full_job_begins_at_once_and_says_so():
    job = running()
    assert job.actions == [Start(generation=1, members=("a", "b"))]
    assert job.reasons[-1] == "b joined; generation 1 begins on a, b"


def test_fewer_nodes_than_wanted_wait_for_more_and_then_begin():
    job = Drive(1, 2).join("a")
    assert job.actions == []
    assert job.state.wake_s() == LIMITS.gather_s
    job.tell(Tick(), after_s=LIMITS.gather_s)
    assert job.actions == [Start(generation=1, members=("a",))]


def test_a_killed_worker_restarts_everyone_on_the_same_nodes():
    job = running().tell(Stepped(generation=1, step=7))
    job.tell(exit_of(job, "b", 1))
    assert job.actions == [Stop(generation=1)]
    assert job.reasons[-1] == "rank 1 on b was killed by SIGKILL"
    job.tell(Stopped(generation=1))
    assert job.actions == [Start(generation=2, members=("a", "b"))]
    assert job.state.restarts == 1


def test_a_second_failure_of_the_same_generation_changes_nothing():
    job = running()
    job.tell(exit_of(job, "b", 1))
    before = job.state
    job.tell(exit_of(job, "a"))
    assert (job.state, job.actions) == (before, [])


def test_what_an_older_generation_says_is_not_heard():
    job = running()
    job.tell(exit_of(job, "b", 1), Stopped(generation=1))
    before = job.state
    stale = [
        Failed(node="a", rank=0, generation=1, fault=Fault.EXIT, cause="exited"),
        Stopped(generation=1),
        Stepped(generation=1, step=99),
        Finished(generation=1),
        Refused(generation=1, cause="no plan"),
    ]
    for event in stale:
        job.tell(event)
        assert (job.state, job.actions) == (before, [])


def test_nodes_that_join_one_after_the_other_stop_the_job_once():
    job = Drive(1, 4).join("a").tell(Tick(), after_s=LIMITS.gather_s)
    job.join("b")
    assert (job.actions, job.state.phase) == ([], Phase.RUNNING)
    assert job.reasons[-1] == "b joined; waiting 2 s for more before the job grows"
    until_s = job.state.wake_s()
    assert until_s == job.now_s + LIMITS.join_s
    job.now_s += LIMITS.join_s / 2
    job.join("c")
    assert (job.actions, job.reasons[-1]) == ([], "c joined")
    job.tell(Tick(), after_s=until_s - job.now_s)
    assert job.actions == [Stop(generation=1, at_boundary=True)]
    assert job.reasons[-1] == "3 nodes can go on instead of 1"
    job.tell(Stopped(generation=1))
    assert job.actions == [Start(generation=2, members=("a", "b", "c"))]
    job.join("d")  # nobody is left to wait for
    assert job.actions == [Stop(generation=2, at_boundary=True)]
    assert job.reasons[-1] == "d joined: 4 nodes can go on instead of 3"


def test_a_joiner_that_is_gone_before_the_job_grows_stops_nobody():
    job = Drive(1, 4).join("a").tell(Tick(), after_s=LIMITS.gather_s).join("b")
    job.tell(Gone(node="b")).tell(Tick(), after_s=LIMITS.join_s)
    assert (job.actions, job.state.phase, job.state.members) == ([], Phase.RUNNING, ("a",))
    assert job.state.wake_s() == float("inf")


def test_a_failure_while_joiners_are_waited_for_takes_them_in_at_once():
    job = Drive(1, 4).join("a").tell(Tick(), after_s=LIMITS.gather_s).join("b")
    job.tell(exit_of(job, "a"), Stopped(generation=1))
    assert job.actions == [Start(generation=2, members=("a", "b"))]
    assert job.state.wake_s() == float("inf")


def test_a_lost_node_is_waited_for_then_left_out_and_taken_back():
    job = running().tell(Stepped(generation=1, step=5), Gone(node="b"))
    assert job.actions == []
    job.tell(Tick(), after_s=LIMITS.grace_s / 2)
    assert job.state.phase is Phase.RUNNING
    job.tell(Tick(), after_s=LIMITS.grace_s)
    assert job.actions == [Stop(generation=1)]
    assert job.reasons[-1] == "b is lost"
    job.tell(Stopped(generation=1))
    assert job.actions == [Start(generation=2, members=("a",))]
    job.tell(Joined(node="b", slots=1))
    assert job.actions == [Stop(generation=2, at_boundary=True)]
    job.tell(Stopped(generation=2))
    assert job.actions == [Start(generation=3, members=("a", "b"))]


def test_ranks_are_stable_when_the_first_node_comes_back():
    job = running(names=("first", "second")).tell(Gone(node="first"), Tick())
    job.tell(Tick(), after_s=2.0).tell(Stopped(generation=1))
    assert job.state.members == ("second",)
    job.join("first").tell(Stopped(generation=2))
    assert job.state.members == ("first", "second")


def test_a_node_that_blinks_goes_on():
    job = running().tell(Gone(node="b"))
    job.tell(Joined(node="b", slots=1, generation=1), after_s=0.5)
    assert job.actions == []
    job.tell(Tick(), after_s=10.0)
    assert job.state.phase is Phase.RUNNING


def test_an_agent_that_came_back_without_its_workers_restarts_the_job():
    job = running().tell(Gone(node="b"), Joined(node="b", slots=1))
    assert job.actions == [Stop(generation=1)]
    assert job.reasons[-1] == "b came back without its workers"


def test_a_failure_while_a_node_is_missing_waits_for_the_node():
    job = running().tell(Gone(node="b"))
    job.tell(exit_of(job, "a"), Stopped(generation=1))
    assert job.actions == []
    assert "waiting for b" in job.reasons[-1]
    job.tell(Tick(), after_s=LIMITS.grace_s)
    assert job.actions == [Start(generation=2, members=("a",))]


def test_too_few_nodes_wait():
    job = running(least=2).tell(Gone(node="b"), Tick())
    job.tell(Tick(), after_s=2.0).tell(Stopped(generation=1))
    assert job.actions == []
    assert job.state.phase is Phase.WAITING
    assert "1 of at least 2 are there" in job.reasons[-1]
    job.join("b")
    assert job.actions == [Start(generation=2, members=("a", "b"))]


def test_units_come_and_go_whole():
    job = running(least=2, most=4, unit=2, names=("a", "b", "c", "d")).tell(Gone(node="d"))
    job.tell(Tick(), after_s=2.0).tell(Stopped(generation=1))
    assert job.state.members == ("a", "b")


def test_failures_without_a_step_pause_longer_and_then_end_the_job():
    job = running()
    pauses = []
    for _ in range(LIMITS.fruitless):
        job.tell(exit_of(job, "a"))
        if job.state.phase is Phase.FAILED:
            break
        job.tell(Stopped(generation=job.state.generation))
        if job.state.phase is Phase.WAITING:
            pauses.append(job.state.wake_s() - job.now_s)
            job.tell(Tick(), after_s=pauses[-1])
    assert pauses == [1.0, 2.0, 4.0]
    assert job.actions == [End(failed=True)]
    assert "failure 5 in a row without a step" in job.reasons[-1]


def test_a_step_in_between_forgives():
    job = running()
    for step in range(1, 30):
        job.tell(Stepped(generation=job.state.generation, step=step))
        job.tell(exit_of(job, "ab"[step % 2]), Stopped(generation=job.state.generation), after_s=1000.0)
        assert job.state.phase is Phase.RUNNING


def fails(job, node, times, every_s=10.0):
    for _ in range(times):
        job.tell(Stepped(generation=job.state.generation, step=job.state.step + 1))
        job.tell(exit_of(job, node), Stopped(generation=job.state.generation), after_s=every_s)
    return job


def test_a_node_that_fails_again_and_again_is_put_aside_for_one_that_stands_by():
    job = fails(running(most=2, names=("a", "b", "c")), "b", 3)
    assert job.state.members == ("a", "c")
    assert any("b is put aside after 3 failures in 600 s" in reason for reason in job.reasons)


def test_without_one_it_stays_until_its_failures_cost_more_than_it_gives():
    job = fails(running(least=1), "b", 9)
    assert job.state.members == ("a", "b")
    assert fails(job, "b", 1).state.members == ("a",)
    assert any("b is put aside after 10 failures in 600 s" in reason for reason in job.reasons)


def test_nodes_that_fail_alike_are_not_put_aside():
    job = running(least=1, most=2, names=("a", "b", "c"))
    for _ in range(20):
        fails(fails(job, "a", 1), "b", 1)
    assert job.state.members == ("a", "b")


def test_old_failures_are_forgotten():
    assert fails(running(most=2, names=("a", "b", "c")), "b", 9, every_s=350.0).state.members == ("a", "b")


def slow(job, node, factor):
    return job.tell(Slow(node=node, factor=factor))


def test_a_slow_node_is_replaced_at_a_step_by_one_that_stands_by():
    job = slow(running(most=2, names=("a", "b", "c")), "b", 1.5)
    assert job.actions == [Stop(generation=1, at_boundary=True)]
    assert job.reasons[-1] == "b takes 1.50 times as long as the others and is put aside"
    job.tell(Stopped(generation=1))
    assert job.state.members == ("a", "c")
    assert job.state.restarts == 0


def test_a_slow_node_without_another_is_kept_unless_the_rest_is_faster_alone():
    job = slow(running(least=1), "b", 1.5)
    assert job.actions == []
    assert job.reasons[-1].endswith("it is kept: without it 1 nodes would do 0.75 times as much")
    assert slow(job, "b", 3.0).actions == [Stop(generation=1, at_boundary=True)]
    few = slow(running(least=2), "b", 9.0)
    assert few.actions == []
    assert few.reasons[-1].endswith("it is kept: without it too few are left")


def test_a_node_that_is_hardly_slower_or_unknown_changes_nothing():
    job = running(most=2, names=("a", "b", "c"))
    assert slow(job, "b", 1.1).actions == slow(job, "nobody", 9.0).actions == []


def test_the_last_nodes_are_not_put_aside():
    job = running(least=2)
    for step in range(1, 6):
        job.tell(Stepped(generation=job.state.generation, step=step))
        job.tell(exit_of(job, "b", 1), Stopped(generation=job.state.generation), after_s=10.0)
    assert job.state.members == ("a", "b")


def test_a_mistake_of_the_user_is_not_tried_again():
    job = running()
    job.tell(exit_of(job, "a", fault=Fault.MISTAKE))
    assert job.actions == [End(failed=True)]
    assert "a restart does not help" in job.reasons[-1]


def test_a_hang_has_its_stacks_dumped():
    job = running()
    job.tell(exit_of(job, "a", fault=Fault.HANG))
    assert job.actions == [Stop(generation=1, dump=True)]


def test_a_plan_that_cannot_be_is_tried_again_and_ends():
    job = running()
    for _ in range(LIMITS.fruitless):
        job.tell(Refused(generation=job.state.generation, cause="nothing fits on a, b"))
        job.tell(Stopped(generation=job.state.generation)).tell(Tick(), after_s=100.0)
    assert job.state.phase is Phase.FAILED
    assert "nothing fits on a, b" in job.reasons[-1]


def test_scaling_down_and_up_stops_at_a_step():
    job = running(least=1, most=2).tell(ScaleAsked(least=1, most=1))
    assert job.actions == [Stop(generation=1, at_boundary=True)]
    job.tell(Stopped(generation=1))
    assert job.state.members == ("a",)
    job.tell(ScaleAsked(least=2, most=2), Stopped(generation=2))
    assert job.state.members == ("a", "b")
    job.tell(ScaleAsked(least=3, most=2))
    assert "not scaled" in job.reasons[-1]


def test_a_drained_node_is_released_and_not_lost():
    job = running().tell(DrainAsked(node="b", cause="a notice of preemption"))
    assert job.actions == [Stop(generation=1, at_boundary=True)]
    job.tell(Stopped(generation=1))
    assert job.actions == [Release(node="b"), Start(generation=2, members=("a",))]
    job.tell(Gone(node="b"))
    assert job.state.phase is Phase.RUNNING
    assert job.state.restarts == 0
    job.tell(DrainAsked(node="nobody", cause="asked"))
    assert "no node nobody" in job.reasons[-1]


def test_a_finished_job_answers_nothing_more():
    job = running().tell(Finished(generation=1))
    assert job.actions == [End(failed=False)]
    over = job.state
    job.tell(exit_of(job, "a"), Gone(node="a"), Tick())
    assert job.state == over


def test_a_controller_that_was_away_goes_on_with_the_same_generation():
    job = running().tell(Stepped(generation=1, step=3))
    text = dumps(job.state, now_s=job.now_s)
    state, now_s = loads(text)
    assert (state, now_s) == (job.state, job.now_s)
    job.state = state
    job.tell(ControllerBack())
    job.tell(Tick(), after_s=5.0)
    job.tell(Joined(node="a", slots=1, generation=1), Joined(node="b", slots=1, generation=1))
    assert job.state.phase is Phase.RUNNING
    assert job.state.generation == 1
    job.tell(Tick(), after_s=60.0)
    assert job.state.members == ("a", "b")


def test_bad_bounds_and_damaged_states_are_refused():
    for least, most, unit in ((0, 2, 1), (3, 2, 1), (1, 4, 2)):
        with pytest.raises(BadInput):
            Bounds(least=least, most=most, unit=unit)
    text = dumps(JobState(bounds=Bounds(least=1, most=1)), now_s=0.0)
    for damaged in ("", "[]", text.replace('"phase": "waiting"', '"phase": "asleep"'), text.replace("1", "2", 1)):
        with pytest.raises(BadInput):
            loads(damaged)


NAMES = st.sampled_from("abcde")
EVENTS = st.one_of(
    st.builds(Joined, node=NAMES, slots=st.just(1), generation=st.integers(0, 3)),
    st.builds(Gone, node=NAMES),
    st.builds(
        Failed,
        node=NAMES,
        rank=st.integers(0, 4),
        generation=st.integers(0, 6),
        fault=st.sampled_from([Fault.EXIT, Fault.HANG]),
        cause=st.just("failed"),
    ),
    st.builds(Stopped, generation=st.integers(0, 6)),
    st.builds(Stepped, generation=st.integers(0, 6), step=st.integers(0, 50)),
    st.builds(DrainAsked, node=NAMES, cause=st.just("asked")),
    st.builds(ScaleAsked, least=st.integers(1, 3), most=st.integers(1, 5)),
    st.builds(ControllerBack),
    st.builds(Tick),
)


@settings(deadline=None)
@given(st.lists(st.tuples(EVENTS, st.floats(0, 20)), max_size=60))
def test_whatever_happens_generations_rise_and_members_are_able(history):
    state, now_s, generation = JobState(bounds=Bounds(least=1, most=3)), 0.0, 0
    numbers = {}
    for event, after_s in history:
        now_s += after_s
        decision = decide(now_s, state, event, LIMITS)
        for action in decision.actions:
            assert decision.because
            if isinstance(action, Start):
                assert action.generation == generation + 1
                generation = action.generation
                chosen = [decision.state.nodes[name] for name in action.members]
                assert all(node.able for node in chosen)
                assert [node.number for node in chosen] == sorted(node.number for node in chosen)
                assert decision.state.bounds.usable(len(chosen)) == len(chosen)
        state = decision.state
        assert state.generation == generation
        assert all(state.numbers[name] == number for name, number in numbers.items())
        numbers = state.numbers
        assert loads(dumps(state, now_s=now_s)) == (state, now_s)


def test_a_state_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        running().state.generation = 9
