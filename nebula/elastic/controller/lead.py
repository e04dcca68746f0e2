"""A controller's life: it stands by until it leads, serves while its lease lasts, and ends when the job does."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from nebula.elastic.controller.brain import Brain
from nebula.elastic.controller.front import Front
from nebula.elastic.controller.plans import Plans
from nebula.elastic.controller.roll_office import RollOffice
from nebula.elastic.controller.service import Service
from nebula.elastic.controller.settings import Settings
from nebula.elastic.controller.show import Show
from nebula.elastic.holder import holder_name
from nebula.elastic.policy.values import Phase
from nebula.elastic.protocol.control_pb2_grpc import add_ControllerServicer_to_server
from nebula.elastic.protocol.roll_pb2_grpc import add_RollServicer_to_server
from nebula.elastic.store import Fenced, Lease, Store
from nebula.elastic.telling import SILENT, Tell
from nebula.elastic.trust import Doorkeeper, OpenDoor, Papers
from nebula.errors import BadInput, RunFailed

TTL_S = 1.5
"""A lease that is not renewed for so long passes on; that of a process which has ended at once."""
GATHER_S = 30.0
"""How long the first members of a group of replicas wait for the others, which import Paddle."""
NUMBERS = 4096
"""Of members that one controller gives, so that the next gives others."""
SERVICE = "nebula.elastic.v1.Controller"


async def serve(
    settings: Settings,
    store: Store,
    plans: Plans,
    *,
    listen: str,
    papers: Papers | None,
    door: Doorkeeper | OpenDoor,
    say: Tell = SILENT,
    show: Show | None = None,
) -> str:
    """Leads a job to its end.

    Args:
        listen: HOST:PORT.
        papers: of this controller; None: without TLS.
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
    service = Service(brain, holder, door)
    services: list[Callable[[Any], None]] = [lambda server: add_ControllerServicer_to_server(service, server)]
    if settings.shards:
        token = bytes.fromhex(brain.kept("token", secrets.token_hex(16)))
        first = (lease.token - 1) * NUMBERS
        office = RollOffice(token=token, wanted=1, gather_s=GATHER_S, told=brain.group.told, first_number=first)
        brain.deeds.members_expected = office.expect
        services.append(lambda server: add_RollServicer_to_server(office, server))
    answers = health.aio.HealthServicer()
    services.append(lambda server: health_pb2_grpc.add_HealthServicer_to_server(answers, server))
    for name in ("", SERVICE):
        await answers.set(name, health_pb2.HealthCheckResponse.SERVING)
    front = Front(services, listen, papers)
    await front.open()
    brain.note("controller", f"{holder} leads {settings.name} with epoch {lease.token} on port {front.port}")
    asyncio.get_running_loop().set_exception_handler(_quietly)
    try:
        await _until_over(brain, front, answers)
    finally:
        brain.over.set()
        brain.crowd.hang_up()
        await front.close()
    if brain.state.phase is Phase.FAILED:
        raise RunFailed(brain.state.why)
    return brain.state.why


async def _until_over(brain: Brain, front: Front, answers: Any) -> None:
    """Leads until the job is over.

    Raises:
        NebulaError: this controller cannot lead any longer.
    """
    brain.begin()
    renewing = asyncio.create_task(_renew(brain, front))
    over = asyncio.create_task(brain.over.wait())
    await asyncio.wait({renewing, over}, return_when=asyncio.FIRST_COMPLETED)
    await answers.enter_graceful_shutdown()
    if not over.done():
        await front.close(0.0)
        await renewing
    renewing.cancel()
    if brain.broken is not None:
        raise _told(brain.broken)
    await _hang_up(brain)


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


async def _renew(brain: Brain, front: Front) -> None:
    """Keeps the lease, and the server at the newest certificate.

    Raises:
        Fenced: it passed to another controller.
        StoreLost: the store does not answer.
    """
    while True:
        await asyncio.sleep(TTL_S / 4)
        try:
            await asyncio.to_thread(brain.store.renew, brain.lease)
        except Fenced as error:
            raise _told(error) from None
        if front.outdated:
            brain.note("certificate", "the controller's certificate was renewed: agents connect again")
            brain.crowd.hang_up()
            await front.open_again()


def _told(error: BaseException) -> BaseException:
    """An error as its reader is told it."""
    return Fenced(f"{error}; this controller ends, workers go on") if isinstance(error, Fenced) else error


def _quietly(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What ends the controller is said once, by whoever ends it; all else as always."""
    if not isinstance(context.get("exception"), Fenced):
        loop.default_exception_handler(context)


async def _hang_up(brain: Brain) -> None:
    """Gives agents a moment to hear that it is over."""
    until_s = time.monotonic() + 3.0
    while brain.crowd.lines and time.monotonic() < until_s:
        with suppress(asyncio.TimeoutError):
            await asyncio.sleep(0.02)
