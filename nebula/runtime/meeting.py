"""How the ranks of a job meet: Paddle's store, without its delays and without its race.

Three things of Paddle 3.3 cost a start over gloo seconds, or the start itself. A rank that asks for the store before
rank 0 keeps it tries again after 3 s. The store's client writes a request in two pieces and waits for the
acknowledgement of the first, 44 ms a time, because its sockets delay small pieces. And groups leave their addresses
under the same keys of one store, so that a rank that is quick reads those of the group before and is refused: every
group gets a store of its own here.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from paddle.base import core
from paddle.distributed import collective

PATIENCE_S = 900
"""How long ranks wait for each other, as Paddle does."""
_POLL_S = 0.005
_stores: list[Any] = []
"""Stores of groups, which have to live as long as the process."""


def meet(env: Mapping[str, str] = os.environ) -> None:
    """Joins the job's store, and makes the groups that come after quick and safe; all ranks call it before fleet."""
    host, port = _master(env)
    rank = int(env["PADDLE_TRAINER_ID"])
    if rank:
        _wait_for(host, port)
    store = core.create_or_get_global_tcp_store()
    send_at_once()
    plain = getattr(collective._new_process_group_impl, "plain", collective._new_process_group_impl)
    collective._new_process_group_impl = _apart(plain, store, host)


def send_at_once() -> None:
    """Has all TCP sockets of this process send small pieces without delay; those that a listening one accepts, too."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _master(env: Mapping[str, str]) -> tuple[str, int]:
    """Where Paddle looks for the store."""
    first = env.get("PADDLE_MASTER") or env["PADDLE_TRAINER_ENDPOINTS"].split(",")[0]
    if env.get("MASTER_ADDR") and env.get("MASTER_PORT"):
        first = f"{env['MASTER_ADDR']}:{env['MASTER_PORT']}"
    host, _, port = first.rpartition(":")
    return host, int(port)


def _wait_for(host: str, port: int) -> None:
    """Returns once somebody listens there, or after a while, when Paddle says what is wrong."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        with suppress(OSError), socket.create_connection((host, port), 5):
            return
        time.sleep(_POLL_S)


def _apart(plain: Callable[..., Any], store: Any, host: str) -> Callable[..., Any]:
    """Paddle's maker of groups, which gives each gloo group after the first a store of its own."""

    def make(backend: str, given: Any, rank: int, world_size: int, group_name: str, *rest: Any, **more: Any) -> Any:
        group = more.get("group_id", rest[1] if len(rest) > 1 else 0)
        if backend == "gloo" and group:
            given = _store_of(store, f"nebula/group/{group}", host, rank)
        made = plain(backend, given, rank, world_size, group_name, *rest, **more)
        send_at_once()
        return made

    make.plain = plain  # type: ignore[attr-defined]
    return make


def _store_of(store: Any, key: str, host: str, rank: int) -> Any:
    """A store of a group's own, kept by its first rank, whose address the others find in the job's store.

    It is told of one rank, because its keeper would wait for the others, which do not know its address yet.
    """
    if rank == 0:
        own = _own_host(host)
        with socket.socket() as probe:
            probe.bind((own, 0))
            port = probe.getsockname()[1]
        made = core.TCPStore(own, port, True, 1, PATIENCE_S)
        send_at_once()
        store.set(key, f"{own}:{port}".encode())
    else:
        store.wait(key)
        own, _, text = bytes(store.get(key)).decode().rpartition(":")
        made = core.TCPStore(own, int(text), False, 1, PATIENCE_S)
        send_at_once()
    _stores.append(made)
    return made


def _own_host(master: str) -> str:
    """This host's address on the way to the master."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((master, 9))
        return str(probe.getsockname()[0])
