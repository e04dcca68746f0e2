"""A controller's life: it stands by until it leads, serves while its lease lasts, and ends when the job does."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from nebula.elastic.controller.brain import Brain
from nebula.elastic.controller.plans import Plans
from nebula.elastic.controller.roll_office import RollOffice
from nebula.elastic.controller.service import Service
from nebula.elastic.controller.settings import Settings
from nebula.elastic.controller.show import Show
from nebula.elastic.policy.values import Phase
from nebula.elastic.protocol.control_pb2_grpc import add_ControllerServicer_to_server
from nebula.elastic.protocol.roll_pb2_grpc import add_RollServicer_to_server
from nebula.elastic.store import Fenced, Lease, Store
from nebula.elastic.telling import SILENT, Tell
from nebula.elastic.trust import Doorkeeper, OpenDoor
from nebula.errors import BadInput, RunFailed

TTL_S = 1.5
"""A lease that is not renewed for so long passes on."""
GATHER_S = 30.0
"""How long the first members of a group of replicas wait for the others, which import Paddle."""
NUMBERS = 4096
"""Of members that one controller gives, so that the next gives others."""
SERVICE = "nebula.elastic.v1.Controller"
OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
)
"""A partner that is gone without a word is noticed in about 3 s; a port belongs to one server."""


def holder_name() -> str:
    """Who this process is in a store."""
    return f"{socket.gethostname()}:{os.getpid()}:{time.time_ns() % 10**9}"


async def serve(
    settings: Settings,
    store: Store,
    plans: Plans,
    *,
    listen: str,
    credentials: grpc.ServerCredentials | None,
    door: Doorkeeper | OpenDoor,
    say: Tell = SILENT,
    show: Show | None = None,
) -> str:
    """Leads a job to its end.

    Args:
        listen: HOST:PORT.
        credentials: None: without TLS.
        door: judges who may call.
        show: what others see of it; the caller closes it.

    Returns:
        The job's last sentence.

    Raises:
        RunFailed: the job failed, or another controller took over.
        BadInput: the port is taken, or the job is over already.
    """
    holder = holder_name()
    show = show or Show()
    show.open()
    lease = await _lead(settings.name, holder, store, say, show)
    brain = Brain(settings, store, lease, plans, say)
    brain.watch = show.leads(brain)
    if brain.state.phase.over:
        raise BadInput(f"the job {settings.name} in this store is {brain.state.phase.value}: name another --store")
    server = grpc.aio.server(options=OPTIONS)
    add_ControllerServicer_to_server(Service(brain, holder, door), server)
    if settings.shards:
        token = bytes.fromhex(brain.kept("token", secrets.token_hex(16)))
        first = (lease.token - 1) * NUMBERS
        office = RollOffice(token=token, wanted=1, gather_s=GATHER_S, note=brain.note, first_number=first)
        brain.deeds.members_expected = office.expect
        add_RollServicer_to_server(office, server)
    answers = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(answers, server)
    for name in ("", SERVICE):
        await answers.set(name, health_pb2.HealthCheckResponse.SERVING)
    port = _bind(server, listen, credentials)
    await server.start()
    brain.note("controller", f"{holder} leads {settings.name} with epoch {lease.token} on port {port}")
    asyncio.get_running_loop().set_exception_handler(_quietly)
    try:
        await _until_over(brain, server, answers)
    finally:
        brain.over.set()
        brain.crowd.hang_up()
        await server.stop(0.5)
    if brain.state.phase is Phase.FAILED:
        raise RunFailed(brain.state.why)
    return brain.state.why


async def _until_over(brain: Brain, server: Any, answers: Any) -> None:
    """Leads until the job is over.

    Raises:
        NebulaError: this controller cannot lead any longer.
    """
    brain.begin()
    renewing = asyncio.create_task(_renew(brain.store, brain))
    over = asyncio.create_task(brain.over.wait())
    await asyncio.wait({renewing, over}, return_when=asyncio.FIRST_COMPLETED)
    await answers.enter_graceful_shutdown()
    if not over.done():
        await server.stop(0)
        await renewing
    renewing.cancel()
    if brain.broken is not None:
        raise _told(brain.broken)
    await _hang_up(brain)
    await server.stop(0.5)


async def _lead(name: str, holder: str, store: Store, say: Tell, show: Show) -> Lease:
    """Waits for the lease, and says who has it."""
    told = ""
    while True:
        lease = await asyncio.to_thread(store.lead, name, holder, TTL_S)
        if lease.holder == holder:
            return lease
        if lease.holder != told:
            say(f"{lease.holder} leads {name} with epoch {lease.token}; standing by until it is gone")
            told = lease.holder
            show.waits_for(told)
        await asyncio.sleep(TTL_S / 10)


async def _renew(store: Store, brain: Brain) -> None:
    """Keeps the lease.

    Raises:
        Fenced: it passed to another controller.
        StoreLost: the store does not answer.
    """
    while True:
        await asyncio.sleep(TTL_S / 4)
        try:
            await asyncio.to_thread(store.renew, brain.lease)
        except Fenced as error:
            raise _told(error) from None


def _told(error: BaseException) -> BaseException:
    """An error as its reader is told it."""
    return Fenced(f"{error}; this controller ends, workers go on") if isinstance(error, Fenced) else error


def _quietly(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What ends the controller is said once, by whoever ends it; all else as always."""
    if not isinstance(context.get("exception"), Fenced):
        loop.default_exception_handler(context)


def _bind(server: Any, listen: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            return int(server.add_insecure_port(listen))
        return int(server.add_secure_port(listen, credentials))
    except RuntimeError:
        raise BadInput(f"--listen {listen}: the address cannot be used; is another server on that port?") from None


async def _hang_up(brain: Brain) -> None:
    """Gives agents a moment to hear that it is over."""
    until_s = time.monotonic() + 3.0
    while brain.crowd.lines and time.monotonic() < until_s:
        with suppress(asyncio.TimeoutError):
            await asyncio.sleep(0.02)
