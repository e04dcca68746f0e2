"""What a controller makes of replicas: while one is away the others count alone, and its return is a recovery."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nebula.cli.subject import load_subject
from nebula.elastic.chaos.run import Injected, outcomes
from nebula.elastic.chaos.values import Fault, Kind
from nebula.elastic.controller import pulse
from nebula.elastic.controller.brain import Brain
from nebula.elastic.controller.ledger import Ledger
from nebula.elastic.controller.metrics import Meter
from nebula.elastic.controller.plans import Plans
from nebula.elastic.controller.service import on_wire
from nebula.elastic.controller.settings import Settings
from nebula.elastic.policy import Limits, events
from nebula.elastic.policy import roll as policy
from nebula.elastic.policy.values import Bounds, Phase
from nebula.elastic.protocol import VERSION
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.store import MemoryStore
from nebula.runtime.progress import Section
from nebula.runtime.serial import serial_plan

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
from elastic_job import RUN

LIMITS = Limits(gather_s=0.05, grace_s=0.05)
LOOKED_S = 3 * pulse.LOOK_S


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    path = tmp_path_factory.mktemp("group") / "run.yaml"
    path.write_text(RUN.format(steps=10, every=5))
    plan = serial_plan(global_batch=2, micro_batches=2)
    return Plans(load_subject(path, None).run.cluster, plan, lambda _: plan)


class Replicas:
    """A controller with the agents and members of nodes a and b, of which a test says what they do."""

    def __init__(self, plans):
        settings = Settings(
            name="job", bounds=Bounds(least=1, most=2), words=(), log_folder="", limits=LIMITS, shards=2
        )
        store = MemoryStore()
        self.brain = Brain(settings, store, store.lead("job", "me", 60.0), plans)
        self.lines = {}

    async def begin(self):
        for node in "ab":
            self.join(node)
        await self.until(lambda: self.brain.state.phase is Phase.RUNNING)
        for number, node in enumerate("ab"):
            self.enrol(node, number)
        self.brain.group.told(policy.begun(self.brain.group.roll), "training goes on with 2 members")
        self.settle()
        for step in (0, 1):
            await self.tell(a=step, b=step)
        assert self.kinds()[-1] == "begun"
        return self

    async def until(self, there):
        while not there():
            await asyncio.sleep(0.01)

    def join(self, node):
        hello = wire.Hello(protocol=VERSION, node=node, slots=1, ports=[1, 2], wall_s=time.time())
        self.lines[node] = self.brain.attendance.joined(hello, str)

    def enrol(self, node, number):
        roll, given = policy.numbered(self.brain.group.roll)
        assert given == number
        self.brain.group.told(*policy.enrolled(roll, number, policy.Member(node=node, address="x:1"), 0))

    def settle(self):
        self.brain.group.told(*policy.settled(self.brain.group.roll, self.brain.group.roll.epoch))

    def lose(self, number):
        self.brain.group.told(*policy.left(self.brain.group.roll, number))

    def fail(self, node, fault="exit"):
        failed = wire.Failed(generation=1, rank=0, fault=fault, cause="was killed", seen_s=time.time())
        self.brain.heard(node, self.lines[node], wire.FromAgent(failed=failed))

    async def tell(self, section=Section.DATA, work_s=(), **steps):
        """Agents tell how far they are, and the controller looks."""
        for node, step in steps.items():
            paces = [wire.Pace(rank="ab".index(node), steps=step, work_s=dict(work_s)[node])] if work_s else []
            told = wire.Progress(generation=1, least_step=step, most_step=step, section=section, paces=paces)
            self.brain.heard(node, self.lines[node], wire.FromAgent(progress=told))
        await asyncio.sleep(LOOKED_S)

    @property
    def events(self):
        return self.brain.journal.after(0)

    def kinds(self):
        return [event.kind for event in self.events]

    def last(self, kind):
        return next(event for event in reversed(self.events) if event.kind == kind)

    def spent(self, *, each_s):
        """Where the time would have gone if so much had passed from event to event."""
        timed = [replace(event, wall_s=each_s * n, seconds={}) for n, event in enumerate(self.events)]
        return {category.value: s for category, s in Ledger(timed).until(each_s * len(timed), 0.0).seconds().items()}


def test_while_one_of_two_is_away_half_of_the_time_is_productive(plans):
    async def scenario():
        job = await Replicas(plans).begin()
        before, number = job.spent(each_s=40.0), len(job.events)
        job.lose(1)
        assert job.events[-1].share == 0.5
        job.fail("b")
        job.enrol("b", 2)
        assert job.events[-1].share == 0.5
        job.settle()
        assert (job.events[-1].because, job.events[-1].share) == ("member 2 on b has the state", 1.0)
        assert len(job.events) == number + 4
        after = job.spent(each_s=40.0)
        assert after["productive"] - before["productive"] == 40.0 + 3 * 20.0
        assert after["degraded"] - before["degraded"] == 3 * 20.0

    asyncio.run(scenario())


@pytest.mark.parametrize("first", ["member", "agent"])
def test_one_that_was_killed_is_back_once_it_has_the_state_and_a_step_is_done(plans, first):
    """Whether its stream or its agent tells of it first."""

    async def scenario():
        job = await Replicas(plans).begin()
        meter = Meter(job.brain)
        job.brain.watch = meter
        killed = Injected(fault=Fault(kind=Kind.KILL, node="b", at_s=0.0), node="b", wall_s=job.brain.now_s())
        tell = [lambda: job.lose(1), lambda: job.fail("b")]
        for one in tell if first == "member" else reversed(tell):
            one()
            await job.tell(a=2)
        await job.tell(a=3, b=0)
        job.enrol("b", 2)
        await job.tell(a=4, b=0)
        assert job.brain.recovery is not None
        assert job.brain.state.step == 4  # the other goes on, and its steps count
        job.settle()
        await job.tell(a=4, b=0)
        await job.tell(a=5, b=5)
        back = job.last("stepping")
        assert back.because.startswith("2 replicas step together after ")
        assert back.trace == job.last("failed").trace != ""
        assert back.seconds["lost_steps"] == 0
        assert job.brain.recovery is None
        found = outcomes([killed], [on_wire(event) for event in job.events])[0]
        assert 0 <= found.seen_s < found.back_s
        metrics = meter.text().decode()
        for stage in ("detect", "start", "load", "new_step", "all"):
            assert f'nebula_recovery_duration_seconds_count{{stage="{stage}"}} 1.0' in metrics
        assert 'nebula_failure_detection_seconds_count{kind="exit"} 1.0' in metrics
        assert "nebula_world_size 2.0" in metrics

    asyncio.run(scenario())


def test_the_time_before_a_hang_is_seen_is_detecting(plans):
    async def scenario():
        job = await Replicas(plans).begin()
        await job.tell(a=2, b=2)
        await asyncio.sleep(0.3)
        job.fail("b", "hang")
        assert 0.3 < job.last("hang").seconds["detecting"] < 3.0

    asyncio.run(scenario())


def test_one_that_is_drained_or_has_done_all_steps_is_no_loss(plans):
    async def scenario():
        job = await Replicas(plans).begin()
        job.brain.tell(events.DrainAsked(node="b", cause="somebody asked"), "drained")
        job.lose(1)
        assert job.brain.recovery is None
        group = job.brain.group
        group.told(policy.done(group.roll, 0), "")
        job.lose(0)
        assert job.brain.recovery is None
        assert (job.events[-1].because, job.events[-1].share) == ("member 0 on a has done all steps", 0.5)

    asyncio.run(scenario())


def test_a_lost_node_that_nobody_replaces_leaves_a_group_that_goes_on(plans):
    async def scenario():
        job = await Replicas(plans).begin()
        job.brain.attendance.gone("b", job.lines["b"])
        job.lose(1)
        await job.tell(a=2)
        assert job.brain.recovery is not None
        await job.until(lambda: "lost" in job.kinds())
        await job.tell(a=3)
        await job.tell(a=4)
        assert job.last("stepping").because.startswith("one replica steps after ")
        assert job.last("stepping").share == 0.5

    asyncio.run(scenario())


def test_where_nobody_is_left_the_group_begins_anew_and_lost_steps_count(plans):
    async def scenario():
        job = await Replicas(plans).begin()
        await job.tell(a=7, b=7)
        for number in (1, 0):
            job.lose(number)
        number = len(job.events) - 1
        assert job.events[-1].because == "member 0 on a is lost; nobody has the state"
        before = job.spent(each_s=10.0)
        await job.tell(a=7)  # said before
        for number, node in ((2, "a"), (3, "b")):
            job.fail(node)
            job.enrol(node, number)
        await job.tell(a=0, b=0, section=Section.LOAD)
        job.settle()
        for step in (5, 6, 7):
            await job.tell(a=step, b=step)
        assert job.kinds()[-1] != "stepping"
        after = job.spent(each_s=10.0)
        assert after["productive"] == before["productive"]
        assert after["starting"] - before["starting"] == 10.0 * 5
        await job.tell(a=8, b=8)
        back = job.last("stepping")
        assert back.seconds["lost_steps"] == 2
        assert back.seconds["recomputing"] > 0
        assert job.brain.account().lost_steps == 2
        assert job.brain.recovery is None

    asyncio.run(scenario())


def test_until_members_have_called_a_controller_that_is_back_its_nodes_count(plans):
    async def scenario():
        job = await Replicas(plans).begin()
        job.brain.group.roll = policy.Roll(wanted=2)
        job.enrol("b", 0)
        assert job.events[-1].share == 1.0

    asyncio.run(scenario())


def test_a_replica_whose_shards_take_longer_is_found(plans, monkeypatch):
    monkeypatch.setattr(pulse, "SCORE_S", 0.0)

    async def scenario():
        job = await Replicas(plans).begin()
        for window in range(1, 8):
            step = 4 * window
            await job.tell(a=step, b=step, work_s={"a": 0.1 * step, "b": 0.35 * step})
        assert job.last("slow").because.startswith("b takes 3.50 times as long as the others and is put aside")
        assert job.brain.state.members == ("a",)

    asyncio.run(scenario())


def test_replicas_of_which_some_have_no_shard_are_not_compared(plans, monkeypatch):
    monkeypatch.setattr(pulse, "SCORE_S", 0.0)

    async def scenario():
        job = await Replicas(plans).begin()
        job.enrol("b", 2)
        for window in range(1, 8):
            step = 4 * window
            await job.tell(a=step, b=step, work_s={"a": 0.1 * step, "b": 0.35 * step})
        assert "slow" not in job.kinds()

    asyncio.run(scenario())
