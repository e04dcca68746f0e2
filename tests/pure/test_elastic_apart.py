"""The policy for replicas: one worker's failure concerns its node alone."""

from dataclasses import replace

from nebula.elastic.policy import JobState, Limits, decide, events
from nebula.elastic.policy.values import Again, Bounds, Fault, Phase, Release, Start, Stop

LIMITS = Limits(node_failures=3, fruitless=4)


def running(*nodes, least=1, most=4):
    state = JobState(bounds=Bounds(least=least, most=most), apart=True)
    for name in nodes:
        state = decide(0.0, state, events.Joined(node=name, slots=1), LIMITS).state
    state = decide(LIMITS.gather_s, state, events.Tick(), LIMITS).state
    assert state.phase is Phase.RUNNING
    assert state.members == nodes
    return state


def failed(node, fault=Fault.EXIT, cause="was killed by SIGKILL"):
    return events.Failed(node=node, rank=1, generation=1, fault=fault, cause=cause)


def test_a_failed_worker_begins_anew_and_nothing_stops():
    decision = decide(5.0, running("a", "b"), failed("b"), LIMITS)
    assert decision.actions == (Again(node="b", rank=1),)
    assert decision.state.phase is Phase.RUNNING
    assert decision.because == "rank 1 on b was killed by SIGKILL; the others go on, it begins anew"


def test_a_mistake_ends_the_job():
    decision = decide(5.0, running("a", "b"), failed("b", Fault.MISTAKE, "ended with code 2"), LIMITS)
    assert decision.state.phase is Phase.FAILED


def fails(state, node, times):
    for at_s in range(times):
        state = decide(5.0 + at_s, state, events.Stepped(generation=1, step=state.step + 1), LIMITS).state
        decision = decide(5.0 + at_s, state, failed(node), LIMITS)
        state = decision.state
    return decision


def test_a_node_that_fails_again_and_again_is_put_aside_for_one_that_stands_by():
    decision = fails(running("a", "b", most=2), "b", 2)
    assert decision.actions == (Again(node="b", rank=1),)
    state = decide(9.0, decision.state, events.Joined(node="c", slots=1), LIMITS).state
    decision = decide(9.0, state, failed("b"), LIMITS)
    assert decision.actions == (Stop(generation=1, node="b"), Start(generation=1, members=("c",)))
    assert decision.state.members == ("a", "c")
    assert "put aside after 3 failures" in decision.because


def test_without_one_it_stays_until_its_failures_cost_more_than_it_gives():
    assert fails(running("a", "b"), "b", 9).state.members == ("a", "b")
    decision = fails(running("a", "b"), "b", 10)
    assert decision.actions == (Stop(generation=1, node="b"),)
    assert decision.state.members == ("a",)


def test_a_slow_node_leaves_its_place_to_one_that_stands_by():
    state = decide(9.0, running("a", "b", most=2), events.Joined(node="c", slots=1), LIMITS).state
    decision = decide(9.0, state, events.Slow(node="b", factor=2.0), LIMITS)
    assert decision.actions == (Stop(generation=1, node="b"), Start(generation=1, members=("c",)))
    assert decision.because == "b takes 2.00 times as long as the others and is put aside"


def test_failures_without_a_step_in_between_end_the_job_and_steps_forgive_them():
    state = replace(running("a"), bounds=Bounds(least=1, most=1))
    for at_s in range(4):
        decision = decide(1000.0 * at_s, state, failed("a"), LIMITS)
        state = decision.state
    assert state.phase is Phase.RUNNING
    forgiven = decide(5000.0, state, events.Stepped(generation=1, step=3), LIMITS).state
    assert decide(6000.0, forgiven, failed("a"), LIMITS).state.phase is Phase.RUNNING
    assert decide(6000.0, state, failed("a"), LIMITS).state.phase is Phase.FAILED


def test_a_node_that_comes_begins_alone_and_one_too_many_stands_by():
    decision = decide(9.0, running("a", "b", most=3), events.Joined(node="c", slots=1), LIMITS)
    assert decision.actions == (Start(generation=1, members=("c",)),)
    full = decide(10.0, decision.state, events.Joined(node="d", slots=1), LIMITS)
    assert full.actions == ()
    assert "stands by" in full.because


def test_a_lost_node_stops_nobody_and_the_last_one_everybody():
    state = decide(9.0, running("a", "b"), events.Gone(node="b"), LIMITS).state
    decision = decide(9.0 + LIMITS.grace_s, state, events.Tick(), LIMITS)
    assert decision.actions == ()
    assert (decision.state.members, decision.because) == (("a",), "b is lost; the others go on")
    state = decide(20.0, decision.state, events.Gone(node="a"), LIMITS).state
    decision = decide(20.0 + LIMITS.grace_s, state, events.Tick(), LIMITS)
    assert decision.state.phase is Phase.STOPPING


def test_a_drained_node_is_let_go():
    decision = decide(9.0, running("a", "b"), events.DrainAsked(node="b", cause="somebody asked"), LIMITS)
    assert decision.actions == (Release(node="b"),)
    assert decision.state.members == ("a",)


def test_scaling_stops_the_last_and_begins_those_that_stand_by():
    state = running("a", "b", "c")
    decision = decide(9.0, state, events.ScaleAsked(least=1, most=2), LIMITS)
    assert decision.actions == (Stop(generation=1, node="c"),)
    again = decide(10.0, decision.state, events.ScaleAsked(least=1, most=3), LIMITS)
    assert again.actions == (Start(generation=1, members=("c",)),)
    assert again.state.members == ("a", "b", "c")


def lose(state, *names):
    for name in names:
        state = decide(9.0, state, events.Gone(node=name), LIMITS).state
    return decide(9.0 + LIMITS.grace_s, state, events.Tick(), LIMITS)


def test_nodes_that_stand_by_begin_in_place_of_lost_ones():
    state = running("a", "b", "c", most=3)
    for name in "def":
        state = decide(8.0, state, events.Joined(node=name, slots=1), LIMITS).state
    decision = lose(state, "b", "c", "d")
    assert decision.actions == (Start(generation=1, members=("e",)), Start(generation=1, members=("f",)))
    assert decision.state.members == ("a", "e", "f")
    assert decision.because == "b, c, d are lost; the others go on, e, f in place"
    back = decide(11.0, decision.state, events.Joined(node="b", slots=1), LIMITS)
    assert (back.actions, back.because) == ((), "b joined and stands by")


def test_a_lost_node_that_stood_by_changes_nothing():
    state = decide(8.0, running("a", "b", most=2), events.Joined(node="c", slots=1), LIMITS).state
    decision = lose(state, "c")
    assert (decision.actions, decision.because, decision.state.members) == ((), "c is lost", ("a", "b"))


def test_a_node_that_stands_by_begins_in_place_of_a_drained_one():
    state = decide(8.0, running("a", "b", most=2), events.Joined(node="c", slots=1), LIMITS).state
    decision = decide(9.0, state, events.DrainAsked(node="a", cause="somebody asked"), LIMITS)
    assert decision.actions == (Release(node="a"), Start(generation=1, members=("c",)))
    assert decision.because == "a is drained: somebody asked; b, c go on"
