"""An agent's life: it makes its scratch space, serves its peers, and works until it is released."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from nebula.elastic.agent.addresses import own_address
from nebula.elastic.agent.agent import Agent, of_signal
from nebula.elastic.agent.check import tried
from nebula.elastic.agent.copies import Copies
from nebula.elastic.agent.node import Node
from nebula.elastic.agent.peer import Peer
from nebula.elastic.agent.relay import Relay
from nebula.elastic.agent.session import Session
from nebula.elastic.authority import Identity
from nebula.elastic.entry import replica
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.control_pb2_grpc import add_PeerServicer_to_server
from nebula.elastic.trust import Doorkeeper, OpenDoor, Papers, dial, server_credentials
from nebula.units import format_rate

SHARED_MEMORY = Path("/dev/shm")
GONE_S = 2.0
"""How long the end of the server is waited for."""
BEGIN = "nebula-agent-"
"""How the names of scratch folders begin; the process follows."""
OPTIONS = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


def run(
    controllers: Sequence[str],
    *,
    name: str,
    slots: int,
    identity: Identity | None,
    logs: Path | None = None,
    spares: bool = True,
    allows_faults: bool = False,
    address: str = "",
    certificate: tuple[Path, str] | None = None,
    check: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Works for a job until the controller says that it is over.

    Args:
        controllers: HOST:PORT of each.
        identity: None: without TLS.
        address: where other nodes reach this one; empty: as the way to the controller tells.
        certificate: where the identity was read from, folder and name: members of a group of replicas read it, too.

        check: try the device before joining, and the ways to others after.

    Raises:
        BadInput: the controller refuses this agent.
        RunFailed: the job failed, or the device did not pass.
    """
    fitness = _tried(say) if check else None
    sweep(SHARED_MEMORY)
    scratch = Path(tempfile.mkdtemp(prefix=f"{BEGIN}{os.getpid()}-", dir=SHARED_MEMORY))
    node = Node(
        name=name,
        slots=slots,
        address=address or own_address(controllers[0]),
        scratch=scratch,
        logs=logs,
        fitness=fitness,
        spares=spares,
        allows_faults=allows_faults,
        roll=_roll(controllers, address or own_address(controllers[0]), certificate),
    )
    papers = Papers(identity) if identity else None
    relay = Relay() if allows_faults else None
    to = dial(papers, OPTIONS)
    copies = Copies(scratch, name, (lambda peer: to(relay.through(peer))) if relay else to)
    door = Doorkeeper(identity, say) if identity else OpenDoor()
    server = grpc.server(ThreadPoolExecutor(4, "peer"), options=(("grpc.so_reuseport", 0),))
    add_PeerServicer_to_server(Peer(copies, door), server)
    answers = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(answers, server)
    answers.set("", health_pb2.HealthCheckResponse.SERVING)
    at = f"{node.address}:0"
    port = server.add_secure_port(at, server_credentials(papers)) if papers else server.add_insecure_port(at)
    server.start()
    try:

        def connect(hello: Callable[[], wire.Hello], heard: Callable[[Any], None]) -> Session:
            return Session(controllers, to, hello, heard, papers, relay)

        agent = Agent(node, copies, connect, relay.front(node.address, port) if relay else port, say)
        of_signal(agent)
        agent.run()
    finally:
        server.stop(0).wait(GONE_S)
        shutil.rmtree(scratch, ignore_errors=True)


def _tried(say: Callable[[str], None]) -> wire.Fitness:
    found = tried(os.environ)
    rate = f"{format_rate(found.copy_bytes_per_s)} to the device and back"
    say(f"the device was tried: {found.flops / 1e9:.1f} GFLOP/s in fp32, {rate}, no byte wrong")
    return wire.Fitness(flops=found.flops, copy_bytes_per_s=found.copy_bytes_per_s)


def _roll(controllers: Sequence[str], host: str, certificate: tuple[Path, str] | None) -> dict[str, str]:
    """By what a member of a group of replicas finds the others."""
    found = {replica.ROLL: ",".join(controllers), replica.HOST: host}
    if certificate is not None:
        found |= {replica.CERTS: str(certificate[0].resolve()), replica.CERTIFICATE: certificate[1]}
    return found


def sweep(folder: Path) -> None:
    """Removes the scratch space of agents that were killed."""
    for path in folder.glob(f"{BEGIN}*-*"):
        process = path.name.removeprefix(BEGIN).partition("-")[0]
        if process.isdigit() and not Path("/proc", process).exists():
            shutil.rmtree(path, ignore_errors=True)
