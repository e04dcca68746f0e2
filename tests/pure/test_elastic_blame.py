"""Which of several ranks that stand still is blamed, and how a controller finds out: all agents are asked first."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.elastic.controller import inquiry
from nebula.elastic.controller.brain import Brain
from nebula.elastic.controller.restore import Copy
from nebula.elastic.controller.settings import Settings
from nebula.elastic.policy import events
from nebula.elastic.policy.blame import WAITING, Silence, culprit
from nebula.elastic.policy.values import Bounds, Phase
from nebula.elastic.protocol import VERSION
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.shared import whole
from nebula.elastic.store import MemoryStore
from nebula.runtime.progress import Section

OWN = sorted(set(Section) - WAITING)


@given(
    section=st.sampled_from(OWN[2:]),
    others=st.lists(st.tuples(st.sampled_from(sorted(WAITING)), st.floats(1.0, 2.0)), min_size=1, max_size=7),
    silent_s=st.floats(1.0, 2.0),
)
def test_who_cannot_be_waiting_is_blamed_whoever_was_silent_first(section, others, silent_s):
    hung = Silence(rank=99, step=7, section=section, silent_s=silent_s)
    waiting = [Silence(rank=n, step=7, section=one, silent_s=for_s) for n, (one, for_s) in enumerate(others)]
    assert culprit([*waiting, hung]) == culprit([hung, *waiting]) == hung


def test_where_sections_say_nothing_a_loop_is_told_from_a_wait():
    waiting = Silence(rank=0, step=7, section=Section.UPDATE, silent_s=3.1, parked=True)
    loops = Silence(rank=1, step=7, section=Section.COLLECTIVE, silent_s=3.0)
    assert culprit([waiting, loops]) == culprit([loops, waiting]) == loops


def test_a_rank_that_was_going_on_is_not_blamed():
    going_on = Silence(rank=0, step=7, section=Section.DATA, silent_s=0.1)
    hung = Silence(rank=1, step=7, section=Section.COLLECTIVE, silent_s=3.0)
    assert culprit([going_on, hung]) == hung


async def running(plans):
    """A job of two nodes that runs, and what its agents were told last."""
    settings = Settings(name="job", bounds=Bounds(least=2, most=2), words=(), log_folder="")
    store = MemoryStore()
    brain = Brain(settings, store, store.lead("job", "me", 60.0), plans)
    lines = {
        name: brain.attendance.joined(
            wire.Hello(protocol=VERSION, node=name, slots=1, ports=[1, 2], wall_s=time.time()), str
        )
        for name in "ab"
    }
    for name in "ab":
        while await told(lines[name]) != "start":
            pass
    assert brain.state.phase is Phase.RUNNING
    return brain, lines


async def told(line):
    message = await asyncio.wait_for(line.outbox.get(), 5)
    return message.WhichOneof("kind")


def failed(rank):
    hang = wire.Failed(generation=1, rank=rank, fault="hang", cause="made no progress", last_lines=[f"stack {rank}"])
    return wire.FromAgent(failed=hang)


def stands(rank, section, silent_s, hangs=False):
    one = wire.Standing(rank=rank, step=5, section=section, silent_s=silent_s)
    return wire.FromAgent(standings=wire.Standings(generation=1, ranks=[one], hangs=hangs))


def last(brain):
    return [event for event in brain.journal.after(0) if event.kind == "hang"][-1]


def test_the_agent_of_a_waiting_rank_speaks_first_and_the_other_is_blamed(plans):
    async def scenario():
        brain, lines = await running(plans)
        brain.heard("a", lines["a"], stands(0, Section.COLLECTIVE, 2.1, hangs=True))
        assert [await told(lines[name]) for name in "ab"] == ["look", "look"]
        assert brain.state.phase is Phase.RUNNING
        brain.heard("b", lines["b"], stands(1, Section.FORWARD, 1.7))
        assert await told(lines["b"]) == "accuse"
        brain.heard("a", lines["a"], failed(0))
        assert brain.state.phase is Phase.RUNNING
        brain.heard("b", lines["b"], failed(1))
        assert brain.state.phase is Phase.STOPPING
        assert brain.state.why.startswith("rank 1 on b made no progress")
        assert (last(brain).node, last(brain).last_lines) == ("b", ("stack 1",))

    asyncio.run(scenario())


@pytest.mark.parametrize("answers", [False, True])
def test_an_agent_that_does_not_answer_is_not_waited_for(plans, monkeypatch, answers):
    monkeypatch.setattr(inquiry, "STACKS_S", 0.1)

    async def scenario():
        brain, lines = await running(plans)
        brain.heard("a", lines["a"], stands(0, Section.COLLECTIVE, 2.1, hangs=True))
        if answers:  # how far it is, but not what it is asked for then
            brain.heard("b", lines["b"], stands(1, Section.DATA, 2.1))
        await asyncio.sleep(inquiry.ANSWER_S + 0.3)
        assert brain.state.phase is Phase.STOPPING
        assert (last(brain).rank, last(brain).last_lines) == (1 if answers else 0, ())
        assert last(brain).because.startswith("rank 1 on b" if answers else "rank 0 on a")

    asyncio.run(scenario())


def test_nobody_is_blamed_who_may_wait_for_a_save_that_goes_on(plans):
    async def scenario():
        brain, lines = await running(plans)
        brain.heard("a", lines["a"], stands(0, Section.UPDATE, 42.0, hangs=True))
        brain.heard("b", lines["b"], stands(1, Section.CHECKPOINT, 0.2))
        await asyncio.sleep(inquiry.ANSWER_S + 0.1)
        assert brain.state.phase is Phase.RUNNING
        brain.heard("a", lines["a"], stands(0, Section.UPDATE, 44.0, hangs=True))
        brain.heard("b", lines["b"], stands(1, Section.CHECKPOINT, 2.1))
        brain.heard("a", lines["a"], failed(0))
        await asyncio.sleep(inquiry.ANSWER_S + 0.1)
        assert brain.state.phase is Phase.RUNNING

    asyncio.run(scenario())


def test_nobody_is_blamed_where_all_go_on_by_the_time_they_are_asked(plans):
    async def scenario():
        brain, lines = await running(plans)
        brain.heard("a", lines["a"], stands(0, Section.COLLECTIVE, 1.8, hangs=True))
        brain.heard("a", lines["a"], stands(0, Section.DATA, 0.1))
        brain.heard("b", lines["b"], stands(1, Section.BACKWARD, 0.0))
        brain.heard("a", lines["a"], stands(0, Section.COLLECTIVE, 0.0, hangs=True))
        await asyncio.sleep(inquiry.ANSWER_S + inquiry.STACKS_S + 0.2)
        brain.heard("a", lines["a"], stands(0, Section.COLLECTIVE, 1.8, hangs=True))
        brain.heard("b", lines["b"], stands(1, Section.DATA, 1.8))
        brain.heard("b", lines["b"], stands(1, Section.DATA, 0.0))  # accused it goes on after all
        await asyncio.sleep(inquiry.STACKS_S + 0.2)
        assert brain.state.phase is Phase.RUNNING
        brain.heard("a", lines["a"], stands(0, Section.COLLECTIVE, 1.8, hangs=True))
        brain.heard("b", lines["b"], stands(1, Section.DATA, 1.8))
        brain.heard("b", lines["b"], failed(1))
        assert brain.state.why.startswith("rank 1 on b made no progress")

    asyncio.run(scenario())


def test_a_rank_that_loops_while_it_saves_is_blamed_by_the_side_of_one_that_waits_for_it(plans):
    async def scenario():
        brain, lines = await running(plans)
        waits = wire.Standing(rank=0, step=5, section=Section.UPDATE, silent_s=10.1, parked=True)
        brain.heard("a", lines["a"], wire.FromAgent(standings=wire.Standings(generation=1, ranks=[waits], hangs=True)))
        brain.heard("b", lines["b"], stands(1, Section.CHECKPOINT, 10.3))
        brain.heard("b", lines["b"], failed(1))
        assert brain.state.phase is Phase.STOPPING
        assert brain.state.why.startswith("rank 1 on b made no progress")

    asyncio.run(scenario())


def test_a_rank_that_ends_meanwhile_is_what_is_told(plans):
    async def scenario():
        brain, lines = await running(plans)
        brain.heard("a", lines["a"], stands(0, Section.COLLECTIVE, 2.1, hangs=True))
        gone = wire.Failed(generation=1, rank=1, fault="exit", cause="was killed by SIGKILL")
        brain.heard("b", lines["b"], wire.FromAgent(failed=gone))
        await asyncio.sleep(inquiry.ANSWER_S + 0.1)
        assert brain.state.why == "rank 1 on b was killed by SIGKILL"
        assert brain.state.restarts == 1

    asyncio.run(scenario())


def test_copies_that_do_not_make_up_the_training_are_not_taken_up_again(plans):
    """Of step 6 rank 1's common file was torn: step 5 is taken up."""

    def held(node, rank, step):
        files = [("alone", True), ("common", False)] if (rank, step) != (1, 6) else [("alone", True)]
        return [
            Copy(
                node=node,
                name=f"own/rank-{rank:05}.{kind}.{step % 2}",
                generation=1,
                ranks=2,
                step=step,
                rank=rank,
                alone=alone,
            )
            for kind, alone in files
        ]

    async def scenario():
        brain, lines = await running(plans)
        exited = wire.Failed(generation=1, rank=1, fault="exit", cause="exited with code 1")
        brain.heard("b", lines["b"], wire.FromAgent(failed=exited))
        begins = []
        for generation in (1, 2):
            for rank, node in enumerate("ab"):
                lines[node].copies = [*held(node, rank, 5), *held(node, rank, 6)]
                brain.deeds.stopped(node)
            message = wire.ToAgent()
            while message.WhichOneof("kind") != "start":
                brain.tell(events.Tick(), "waited")  # it pauses after failures
                await asyncio.sleep(0.05)
                while not lines["a"].outbox.empty() and message.WhichOneof("kind") != "start":
                    message = lines["a"].outbox.get_nowait()
            begins.append(whole(message.start).resume_step)
            refused = wire.Refused(generation=generation + 1, cause="it holds copies of 412 tensors")
            brain.heard("a", lines["a"], wire.FromAgent(refused=refused))
        assert begins == [6, 5]

    asyncio.run(scenario())
