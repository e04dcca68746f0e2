"""Members as processes of their own, with a roll served over gRPC: they are killed, and others join, as they train."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import grpc
import pytest

from nebula.checkpoint.policy import Policy
from nebula.elastic.controller.roll_office import RollOffice
from nebula.elastic.protocol.roll_pb2_grpc import add_RollServicer_to_server
from nebula.models.data.encoded import encoded_corpus
from nebula.plan.files import save_plan
from nebula.runtime.serial import serial_plan
from nebula.runtime.training import Training, save

ENTRY = "nebula.elastic.entry.replica"
SHARDS, ROWS, STEPS = 4, 4, 24


class Roll:
    """The controller's side on a thread of its own."""

    def __init__(self, wanted):
        self.said, self._wanted, self._loop = [], wanted, asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(20)

    async def _serve(self):
        office = RollOffice(
            token=os.urandom(16), wanted=self._wanted, gather_s=30.0, told=lambda _, said: self.said.append(said)
        )
        self._server = grpc.aio.server()
        add_RollServicer_to_server(office, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port

    def close(self):
        asyncio.run_coroutine_threadsafe(self._server.stop(0), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)


class Group:
    """A folder in which members train."""

    def __init__(self, folder, wanted, steps=STEPS, every=0):
        self.folder, self.roll, self.members = folder, Roll(wanted), []
        checkpoint = replace(Policy(every=every, folder="checkpoints", keep=3), every=every) if every else None
        training = Training(preset="ernie-3.0-small", seq_len=16, steps=steps, evaluate=False, resume=True)
        training = replace(training, checkpoint=checkpoint) if checkpoint else training
        encoded_corpus(training.config.vocabulary)
        save(training, folder)
        save_plan(serial_plan(global_batch=ROWS, micro_batches=SHARDS), folder / "plan.json")

    def join(self):
        number = len(self.members)
        with (self.folder / f"member.{number}.log").open("w") as log:
            env = {"NEBULA_PLAN": str(self.folder / "plan.json"), "NEBULA_ROLL": f"127.0.0.1:{self.roll.port}"}
            process = subprocess.Popen(
                [sys.executable, "-m", ENTRY, str(self.folder)],
                env={**os.environ, **env, "NEBULA_NODE": f"node/{number}", "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.members.append(process)
        return process

    def steps(self):
        path = self.folder / "steps.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def reach(self, step, timeout_s=90):
        until_s = time.monotonic() + timeout_s
        while len(self.steps()) < step:
            assert time.monotonic() < until_s, self.logs()
            time.sleep(0.02)

    def end(self, timeout_s=120):
        codes = [member.wait(timeout_s) for member in self.members]
        assert all(code in (0, -signal.SIGKILL) for code in codes), (codes, self.logs())
        return codes

    def logs(self):
        return "\n".join(f"{p.name}: {p.read_text()[-1500:]}" for p in self.folder.glob("*.log")) + str(self.roll.said)

    def close(self):
        for member in self.members:
            member.kill()
            member.wait()
        self.roll.close()


@pytest.fixture
def group(tmp_path):
    made = []

    def make(name, wanted, **more):
        folder = tmp_path / name
        folder.mkdir()
        made.append(Group(folder, wanted, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_two_members_of_whom_one_is_killed_and_another_joins_have_the_losses_of_one(group):
    alone = group("alone", 1)
    alone.join()
    alone.end()
    expected = [step["loss"] for step in alone.steps()]
    assert len(expected) == STEPS

    both = group("both", 2)
    both.join()
    victim = both.join()
    both.reach(6)
    victim.send_signal(signal.SIGKILL)
    both.reach(10)
    both.join()
    assert sorted(both.end()) == [-signal.SIGKILL, 0, 0]
    assert [step["step"] for step in both.steps()] == list(range(1, STEPS + 1))
    assert [step["loss"] for step in both.steps()] == expected
    assert any("is lost; one goes on" in said for said in both.roll.said)
    one, other = (each.folder / "weights.safetensors" for each in (alone, both))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_the_member_that_writes_is_killed_and_the_next_one_writes_on(group):
    both = group("both", 2, every=5)
    first = both.join()
    both.reach(0)
    both.join()
    both.reach(9)
    first.send_signal(signal.SIGKILL)
    both.end()
    assert [step["step"] for step in both.steps()] == list(range(1, STEPS + 1))
    took_s = [step["took_s"] for step in both.steps()]
    assert max(took_s[10:]) < 5.0
