"""Memberships without a plan: others are tried, nodes are waited for or taken back, and nothing is tried twice."""

from __future__ import annotations

from nebula.elastic.policy.events import ControllerBack, Gone, Joined, Refused, Slow, Stepped, Stopped, Tick
from nebula.elastic.policy.record import dumps, loads
from nebula.elastic.policy.values import End, Phase, Start, Stop
from tests.pure.test_elastic_policy import Drive, running


def no_plan(job):
    """There is none for the generation that was to begin; whatever that was has stopped."""
    assert isinstance(job.actions[0], Start)
    generation = job.state.generation
    return job.tell(
        Refused(generation=generation, cause="data 2 > 1 devices", planless=True), Stopped(generation=generation)
    )


def lost(job, name):
    job.tell(Gone(node=name)).tell(Tick(), after_s=job.limits.grace_s)
    return job.tell(Stopped(generation=job.state.generation))


def test_without_a_plan_for_the_rest_a_lost_node_is_waited_for():
    job = no_plan(lost(running(), "b"))
    assert job.state.phase is Phase.WAITING
    assert job.state.why == "waiting for other nodes: there is no plan for the 1 that is there"
    assert job.state.fruitless == 1  # the loss of b
    job.tell(Tick(), after_s=100.0)
    assert job.actions == []
    job.tell(Joined(node="b", slots=1))
    assert job.actions == [Start(generation=3, members=("a", "b"))]
    lost(job, "b")
    assert job.state.phase is Phase.WAITING
    assert job.actions == []


def test_a_slow_node_is_taken_back_where_there_is_no_plan_without_it_and_then_kept():
    job = running().tell(Slow(node="b", factor=3.6))
    assert job.actions == [Stop(generation=1, at_boundary=True)]
    no_plan(job.tell(Stopped(generation=1)))
    assert job.actions == [Start(generation=3, members=("a", "b"))]
    assert job.reasons[-1] == "b is taken back: without there is no plan; generation 3 begins on a, b"
    job.tell(Stepped(generation=3, step=5), Slow(node="b", factor=3.6))
    assert job.actions == []
    assert job.reasons[-1].endswith("it is kept: without it too few are left")


def test_a_job_that_cannot_grow_goes_on_as_it_was():
    job = Drive(1, 3).join("a", "b").tell(Tick(), after_s=10.0)
    assert job.state.members == ("a", "b")
    job.tell(Joined(node="c", slots=1))
    assert job.actions == [Stop(generation=job.state.generation, at_boundary=True)]
    no_plan(job.tell(Stopped(generation=job.state.generation)))
    assert job.actions == [Start(generation=3, members=("a", "b"))]
    job.tell(Joined(node="d", slots=1)).tell(Tick(), after_s=10.0)
    assert job.state.phase is Phase.RUNNING


def test_a_job_for_whose_nodes_there_is_no_plan_at_all_ends_with_the_reason():
    job = no_plan(no_plan(running()))
    assert job.actions == []
    assert job.state.phase is Phase.FAILED
    assert job.reasons[-1] == "generation 2 cannot begin: data 2 > 1 devices"


def test_another_number_of_slots_is_another_membership():
    job = no_plan(lost(running(), "b"))
    job.tell(Gone(node="a")).tell(Tick(), after_s=job.limits.grace_s)
    job.tell(Joined(node="a", slots=2), after_s=100.0)
    assert job.actions == [Start(generation=3, members=("a",))]


def test_it_is_written_down_and_forgotten_by_another_controller():
    job = no_plan(lost(running(), "b"))
    state, _ = loads(dumps(job.state, now_s=job.now_s))
    assert state == job.state
    assert state.planless == (("a:1",),)
    job.tell(ControllerBack())
    assert job.state.planless == ()


def test_a_rigid_job_for_which_there_is_no_plan_ends_at_once():
    job = running(least=3, most=3, names=("a", "b", "c"))
    job.tell(Refused(generation=1, cause="nothing fits", planless=True))
    assert job.actions == [End(failed=True)]
