"""Agents without workers: sessions of the real protocol from one process, whose ranks only claim to step.

Each has a connection and a name of its own, answers a Stop with Stopped and a Start with progress, and fails with a
long log when it is told to. What happens to all of them is said on stdout, a JSON line each; orders come on stdin.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from nebula import __version__
from nebula.elastic.authority import SERVER_NAME, Identity, load_identity
from nebula.elastic.protocol import VERSION
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.control_pb2_grpc import ControllerStub
from nebula.elastic.protocol.shared import whole
from nebula.elastic.trust import now
from nebula.runtime.progress import Section

OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
"""As agents have them, but for connections: each its own."""
STEP_S = 0.5
"""Of the training that the ranks claim to do."""
LINE = "x" * 100
RETRY_S = 0.2


@dataclass(slots=True)
class Crowd:
    """What is known of all agents of the process.

    Attributes:
        told: generation -> agents that were told to begin it.
    """

    count: int
    told: dict[int, int] = field(default_factory=dict)

    def say(self, **what: Any) -> None:
        """A line for who started this process."""
        print(json.dumps({**what, "at_s": time.monotonic()}), flush=True)

    def start(self, start: wire.Start) -> None:
        """Counts one that was told to begin."""
        number = start.generation
        self.told[number] = self.told.get(number, 0) + 1
        if self.told[number] == self.count:
            self.say(generation=number, ranks=len(whole(start).ranks))


class Agent:
    """One session."""

    def __init__(self, number: int, crowd: Crowd) -> None:
        self.name, self.number, self.crowd = f"n{number:04}", number, crowd
        self.generation, self.begun_s, self.heartbeat_s = 0, 0.0, 0.5
        self.outbox: asyncio.Queue[wire.FromAgent] = asyncio.Queue()

    async def run(self, stub: Any) -> None:
        """Talks, and connects again when the line breaks."""
        while True:
            call = stub.Join()
            writing = asyncio.create_task(self._write(call))
            try:
                async for message in call:
                    self._hear(message)
                self.crowd.say(broken=f"{self.name}: the controller hung up")
            except grpc.RpcError as error:
                why = error.details() if isinstance(error, grpc.Call) else error
                self.crowd.say(broken=f"{self.name}: {why}")
            finally:
                writing.cancel()
            await asyncio.sleep(RETRY_S)

    def fail(self, tail_bytes: int) -> None:
        """Says that its rank has failed, with the end of a log."""
        lines = [LINE] * (tail_bytes // len(LINE))
        failed = wire.Failed(
            generation=self.generation,
            rank=self.number,
            fault="exit",
            cause="exited with code 1: its peer is gone",
            last_lines=lines,
            seen_s=time.time(),
        )
        self.outbox.put_nowait(wire.FromAgent(failed=failed))

    def _hello(self) -> wire.Hello:
        return wire.Hello(
            protocol=VERSION,
            node=self.name,
            slots=1,
            address="127.0.0.1",
            peer_port=1,
            ports=self._ports(),
            wall_s=time.time(),
            version=__version__,
            instance=self.number + 1,
            generation=self.generation,
        )

    @staticmethod
    def _ports() -> tuple[int, int]:
        return (40001, 40002)

    def _hear(self, message: wire.ToAgent) -> None:
        kind = message.WhichOneof("kind")
        if kind == "welcome":
            self.heartbeat_s = message.welcome.heartbeat_s
        elif kind == "start":
            self.generation, self.begun_s = message.start.generation, time.monotonic()
            self.crowd.start(message.start)
        elif kind == "stop":
            self.outbox.put_nowait(wire.FromAgent(stopped=self._stopped(message.stop.generation)))
            self.generation = 0
        elif kind == "refusal":
            self.crowd.say(broken=f"{self.name}: {message.refusal.sentence}")

    def _stopped(self, generation: int) -> wire.Stopped:
        copy = wire.Copy(generation=generation, step=self._step(), ranks=1000)
        mine = wire.Copy(name=f"own/{self.number}", rank=self.number, alone=True)
        kept = wire.Copy(name=f"kept/{self.number}", rank=(self.number + 999) % 1000, alone=True)
        for one in (mine, kept):
            one.MergeFrom(copy)
        return wire.Stopped(generation=generation, copies=[mine, kept], ports=self._ports(), most_step=self._step())

    def _step(self) -> int:
        return 1 + int((time.monotonic() - self.begun_s) / STEP_S) if self.generation else 0

    async def _write(self, call: Any) -> None:
        await call.write(wire.FromAgent(hello=self._hello()))
        while True:
            try:
                message = await asyncio.wait_for(self.outbox.get(), self.heartbeat_s / 2)
            except asyncio.TimeoutError:
                message = wire.FromAgent(progress=self._progress())
            await call.write(message)

    def _progress(self) -> wire.Progress:
        step = self._step()
        return wire.Progress(
            generation=self.generation,
            least_step=step,
            most_step=step,
            step_s=STEP_S,
            section=Section.DATA if step else Section.BEGIN,
            paces=[wire.Pace(rank=self.number, steps=step, work_s=step * STEP_S / 2)],
        )


async def serve(address: str, identity: Identity | None, first: int, count: int) -> None:
    """Runs so many agents until stdin is closed."""
    crowd = Crowd(count)
    agents = [Agent(first + number, crowd) for number in range(count)]
    tasks = [asyncio.create_task(agent.run(ControllerStub(channel(address, identity)))) for agent in agents]
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        for agent in agents:
            agent.fail(int(line))
    for task in tasks:
        task.cancel()


def channel(address: str, identity: Identity | None) -> grpc.aio.Channel:
    """A connection of its own to the controller."""
    if identity is None:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    credentials = grpc.ssl_channel_credentials(identity.ca, identity.key, identity.certificate)
    named = [*OPTIONS, ("grpc.ssl_target_name_override", SERVER_NAME)]
    return grpc.aio.secure_channel(address, credentials, options=named)


def main() -> None:
    """ADDRESS CERTS FIRST COUNT; CERTS is `-` without TLS."""
    address, certs, first, count = sys.argv[1:]
    identity = None if certs == "-" else load_identity(Path(certs), "agent", now())
    asyncio.run(serve(address, identity, int(first), int(count)))


if __name__ == "__main__":
    main()
