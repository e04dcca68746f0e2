"""Nodes that leave: what they alone hold in memory is taken up by others or written to the disk before they go."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_elastic_copies import WEIGHTS, copy, rows, sources

from nebula.checkpoint.copies import TENSORS, WHERE
from nebula.checkpoint.copy_file import CopyFile
from nebula.checkpoint.folder import checkpoints
from nebula.checkpoint.from_copies import write_checkpoint
from nebula.checkpoint.reader import Reader
from nebula.elastic.agent.copies import Copies
from nebula.elastic.agent.peer import Peer
from nebula.elastic.controller.brain import Brain
from nebula.elastic.controller.departures import lost_without
from nebula.elastic.controller.restore import newest
from nebula.elastic.controller.settings import Settings
from nebula.elastic.policy.values import Bounds, Phase
from nebula.elastic.protocol import VERSION
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.control_pb2_grpc import add_PeerServicer_to_server
from nebula.elastic.store import MemoryStore
from nebula.elastic.trust import OpenDoor
from nebula.errors import BadInput, RunFailed
from nebula.runtime.fence import FILE as FENCE


def test_what_is_lost_without_those_who_leave():
    there = [copy(0, 9), copy(1, 9), copy(0, 6), copy(1, 6), copy(0, 6, node="b", kept=True)]
    assert lost_without(there, "") is None
    assert lost_without(there, "a").step == 9
    assert lost_without(there, "ab").step == 9
    alike = [copy(0, 9), copy(1, 9), copy(0, 9, node="b", kept=True)]
    assert lost_without(alike, "a") is None
    assert lost_without([], "ab") is None


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.sampled_from("abc")), max_size=12),
    st.sets(st.sampled_from("abc")),
)
def test_what_stays_and_what_is_lost_are_all_there_was(held, leaving):
    there = [copy(rank, step, node=node) for rank, step, node in held]
    lost, all_of_it = lost_without(there, leaving), newest(there)
    stays = newest(one for one in there if one.node not in leaving)
    assert max((one.step for one in (lost, stays) if one), default=-1) == (all_of_it.step if all_of_it else -1)
    assert lost is None or stays is None or lost.step > stays.step


class Told:
    """A job under a brain, whose agents are two lines that are read here."""

    def __init__(self, plans, least=1, memory_every=1):
        bounds = Bounds(least=least, most=2)
        settings = Settings(name="job", bounds=bounds, words=(), log_folder="", memory_every=memory_every)
        store = MemoryStore()
        self.brain, self.lines = Brain(settings, store, store.lead("job", "me", 60.0), plans), {}

    def join(self, *names):
        for name in names:
            hello = wire.Hello(protocol=VERSION, node=name, slots=1, ports=[1, 2], wall_s=time.time())
            self.lines[name] = self.brain.attendance.joined(hello, str)

    async def next(self, name, *kinds):
        """The next message to an agent that is of one of these kinds; None within a moment: there is none."""
        while True:
            try:
                message = await asyncio.wait_for(self.lines[name].outbox.get(), 5 if len(kinds) == 1 else 0.3)
            except asyncio.TimeoutError:
                return None
            if message is not None and message.WhichOneof("kind") in kinds:
                return getattr(message, message.WhichOneof("kind"))

    async def begin(self, **told):
        self.join("a", "b")
        for name in "ab":
            assert (await self.next(name, "start")).generation == 1
        progress = wire.Progress(generation=1, least_step=8, most_step=9, section=3, **told)
        for name, line in self.lines.items():
            self.brain.heard(name, line, wire.FromAgent(progress=progress))

    def leaves(self, name):
        leaving = wire.Leaving(because="its agent got SIGTERM")
        self.brain.heard(name, self.lines[name], wire.FromAgent(leaving=leaving))

    def stopped(self, *held):
        """The agents say that all workers have ended, and what they hold."""
        for name, line in self.lines.items():
            copies = [
                wire.Copy(name=one.name, generation=1, step=one.step, rank=one.rank, alone=one.alone, ranks=2)
                for one in held
                if one.node == name
            ]
            stopped = wire.Stopped(generation=self.brain.state.generation, copies=copies, ports=[1, 2], most_step=11)
            self.brain.heard(name, line, wire.FromAgent(stopped=stopped))

    def rescued(self, name, **what):
        self.brain.heard(name, self.lines[name], wire.FromAgent(rescued=wire.Rescued(**what)))

    def events(self, kind):
        return [event.because for event in self.brain.journal.after(0) if event.kind == kind]


def test_where_all_leave_one_writes_what_they_hold_before_they_may_go(plans):
    async def scenario():
        job = Told(plans)
        await job.begin()
        job.leaves("a")
        assert (await job.next("a", "stop")).at_step == 11
        job.leaves("b")  # while the step is still done
        job.stopped(copy(0, 11), copy(1, 11), copy(1, 11, alone=False))
        rescue = await job.next("b", "rescue")
        assert {source.node for source in rescue.sources} == {"a", "b"}
        assert [await job.next(name, "leave", "rescue") for name in "ab"] == [None, None]
        assert job.events("saving") == [
            "step 11 goes to the disk before a, b may go: nobody who stays has it in memory"
        ]
        job.rescued("b", checkpoint="/run/checkpoints/step-00000011")
        assert [(await job.next(name, "leave")).because for name in "ab"] == ["a may go", "b may go"]
        assert job.events("saved") == ["step 11 is on the disk: /run/checkpoints/step-00000011"]
        assert job.brain.state.phase is Phase.WAITING

    asyncio.run(scenario())


def test_who_leaves_a_job_that_then_has_too_few_nodes_leaves_nothing_behind(plans):
    """The one who stays has an older step of the other; a generation of both takes up the disk."""

    async def scenario():
        job = Told(plans, least=2)
        await job.begin()
        job.leaves("b")
        job.stopped(copy(0, 11), copy(1, 11), copy(0, 8), copy(1, 8, node="a", kept=True))
        assert (await job.next("a", "rescue")).generation == 1
        job.rescued("a", checkpoint="step-00000011")
        assert await job.next("b", "leave")
        job.brain.attendance.gone("b", job.lines["b"])
        job.join("b")
        start = await job.next("a", "start")
        assert start.everything is False
        assert "from the newest checkpoint on the disk" in job.events("started")[-1]

    asyncio.run(scenario())


def test_whoever_is_left_writes_where_the_writer_is_taken_away(plans):
    async def scenario():
        job = Told(plans)
        await job.begin()
        job.leaves("a")
        job.leaves("b")
        job.stopped(copy(0, 11), copy(0, 8), copy(1, 8, node="a", kept=True), copy(1, 11), copy(1, 11, alone=False))
        assert await job.next("b", "rescue")
        job.brain.attendance.gone("b", job.lines["b"])
        assert await job.next("a", "rescue")
        assert "step 8 goes to the disk before a may go" in job.events("saving")[-1]
        job.rescued("a", cause="/run is full")
        assert await job.next("a", "leave")
        assert job.events("unsaved") == ["a could not write step 8: /run is full"]

    asyncio.run(scenario())


def test_nobody_is_held_up_who_has_nothing_that_others_lack(plans):
    async def scenario():
        job = Told(plans)
        await job.begin()
        job.leaves("a")
        job.leaves("b")
        job.stopped()
        assert [(await job.next(name, "leave")).because for name in "ab"] == ["a may go", "b may go"]
        other = Told(plans)
        await other.begin()
        other.leaves("b")
        other.stopped(copy(0, 11), copy(1, 11))
        assert other.brain.state.members == ("a",)  # which takes up what b has
        assert await other.next("b", "leave", "rescue") is None

    asyncio.run(scenario())


@pytest.mark.parametrize(("memory_every", "unkept"), [(0, False), (1, True), (3, True)])
def test_where_memory_does_not_keep_it_all_hear_in_time_of_the_step_that_goes_to_the_disk(plans, memory_every, unkept):
    """Steps take 0.1 s, and agents hear within a heartbeat of 0.5 s and a second."""

    async def scenario():
        job = Told(plans, memory_every=memory_every)
        await job.begin(step_s=0.1, unkept=unkept)
        job.leaves("a")
        stops = [await job.next(name, "stop") for name in "ab"]
        assert [(stop.at_step, stop.on_disk) for stop in stops] == [(9 + 2 + 15, True)] * 2

    asyncio.run(scenario())


def held_copies(folder, checkpoints, *parts, step=11, keep=3):
    folder.mkdir(parents=True, exist_ok=True)
    where = {"folder": str(checkpoints), "keep": keep}
    for rank, part in enumerate(parts):
        file = CopyFile(folder / f"rank-{rank:05}.alone.0")
        file.write([part], {TENSORS: 1, WHERE: where, "model": "small"}, generation=1, ranks=2, step=step)


def free(folder: Path) -> None:
    del folder


def test_copies_become_a_checkpoint_of_their_training(tmp_path):
    for step in (5, 8, 11):
        held_copies(tmp_path / str(step), tmp_path / "run", rows(0, 3), rows(3, 6), step=step, keep=2)
        written = write_checkpoint(tmp_path / str(step), free)
    assert written == tmp_path / "run" / "step-00000011"
    reader = Reader(written)
    reader.verify()
    assert (reader.read("model/w") == WEIGHTS).all()
    assert reader.manifest.facts == {"model": "small"}
    assert [one.step for one in checkpoints(tmp_path / "run")] == [8, 11]
    before = (written / "manifest.json").stat().st_mtime_ns
    assert write_checkpoint(tmp_path / "11", free) == written
    assert (written / "manifest.json").stat().st_mtime_ns == before


def test_copies_that_are_not_all_of_it_or_are_fenced_off_become_none(tmp_path):
    held_copies(tmp_path / "half", tmp_path / "run", rows(0, 3))
    with pytest.raises(BadInput, match="do not make up the tensor"):
        write_checkpoint(tmp_path / "half", free)
    CopyFile(_made(tmp_path / "old") / "rank-00000.alone.0").write(
        [rows(0, 6)], {TENSORS: 1}, generation=1, ranks=1, step=11
    )
    with pytest.raises(BadInput, match="do not say where checkpoints are"):
        write_checkpoint(tmp_path / "old", free)

    def fenced(_: Path) -> None:
        raise RunFailed("generation 3 writes there by now")

    held_copies(tmp_path / "whole", tmp_path / "run", rows(0, 6))
    with pytest.raises(RunFailed, match="generation 3"):
        write_checkpoint(tmp_path / "whole", fenced)
    assert not list((tmp_path / "run").glob("*")) or not (tmp_path / "run").exists()


def _made(folder):
    folder.mkdir()
    return folder


def test_a_node_fetches_what_it_lacks_and_writes_all_of_it(tmp_path):
    """Each of two nodes holds half of the weights; a later generation's fence is not passed."""
    run = _made(tmp_path / "run")
    nodes = {name: Copies(_made(tmp_path / name), name, grpc.insecure_channel) for name in "ab"}
    for rank, name in enumerate("ab"):
        file = CopyFile(tmp_path / name / "own" / f"rank-{rank:05}.alone.1")
        where = {"folder": str(run), "keep": 3}
        file.write([rows(3 * rank, 3 * rank + 3)], {TENSORS: 1, WHERE: where}, generation=1, ranks=2, step=11)
    server = grpc.server(ThreadPoolExecutor(1))
    add_PeerServicer_to_server(Peer(nodes["b"], OpenDoor()), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        of_b = [
            wire.Source(name=one.name, node="b", address=f"127.0.0.1:{port}", rank=one.rank, alone=True)
            for one in nodes["b"].held()
        ]
        (run / FENCE).write_text("2")
        with pytest.raises(RunFailed, match="generation 2 writes"):
            nodes["a"].rescue(1, [*sources(nodes["a"], 1), *of_b])
        assert [path.name for path in run.iterdir()] == [FENCE]
        found = Reader(nodes["a"].rescue(2, [*sources(nodes["a"], 1), *of_b]))
    finally:
        server.stop(0).wait()
    found.verify()
    assert (found.read("model/w") == WEIGHTS).all()
    assert {one.name for one in nodes["a"].held()} == {"own/rank-00000.alone.1"}
    assert not (tmp_path / "a" / "rescue").exists()
