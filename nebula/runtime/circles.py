"""Who exchanges how? Ranks on one kind of device over its communicator, others through the memory of their hosts.

A job on one kind of device uses Paddle's groups alone. Where kinds differ (nebula.plan.kinds), no library
spans all ranks: Paddle's groups are made within a kind, and whatever crosses kinds, or lies on plain CPUs, whose gloo
does not bear several groups, goes through nebula.runtime.hosts.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import paddle
import paddle.distributed as dist

from nebula.runtime.hosts import Array, Hosts

T = TypeVar("T")
BACKENDS = {"gpu": "nccl", "xpu": "bkcl"}
"""Paddle's library for the groups of a kind of device; a vendor's plug-in brings xccl."""


class Task(Protocol):
    """Something that is on its way."""

    def wait(self) -> Any:
        """Returns once it has left, or has come."""


class Circle(Protocol):
    """Some ranks that exchange tensors, this one among them; all call together, tensors of one shape and dtype."""

    def all_reduce(self, tensor: paddle.Tensor, *, most: bool = False) -> None:
        """Leaves the sum on all, or the maximum."""

    def reduce(self, tensor: paddle.Tensor, to: int) -> None:
        """Leaves the sum on one of them, by its rank in the job."""

    def broadcast(self, tensor: paddle.Tensor, owner: int) -> None:
        """Leaves one's tensor on all."""


class Wire(Protocol):
    """One way from one rank to another; what is sent first comes first."""

    def send(self, tensor: paddle.Tensor) -> Task:
        """Sends a tensor, which stays as it is until the task is done."""

    def receive(self, tensor: paddle.Tensor) -> Task:
        """Fills a tensor by the time the task is done."""


@dataclass(slots=True)
class _Job:
    """How the ranks of this process's job reach each other; `hosts` is None where one library spans them all."""

    kinds: tuple[str, ...] = ()
    hosts: Hosts | None = None


_JOB = _Job()


def meet(kinds: tuple[str, ...], rank: int) -> None:
    """Tells how the ranks reach each other from now on; all call it together, once Paddle's store is there.

    Args:
        kinds: of the devices of all ranks; empty: one library spans them all.
    """
    if _JOB.hosts:
        _JOB.hosts.close()
    _JOB.kinds, _JOB.hosts = kinds, None
    if kinds:
        endpoint = os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:0")
        _JOB.hosts = Hosts(rank, _OfStore(rank), endpoint.rpartition(":")[0])


def kinds() -> tuple[str, ...]:
    """Of the devices of all ranks, where no library spans them; else empty."""
    return _JOB.kinds


def group(ranks: Sequence[int]) -> Any:
    """Paddle's group of ranks on one kind of device; all ranks of the job call it, whether they are among these."""
    if not _JOB.kinds or len(ranks) == 1:
        return dist.new_group(list(ranks))
    (kind,) = {_JOB.kinds[rank] for rank in ranks}
    assert kind != "cpu", "plain CPUs exchange through their hosts"
    return dist.new_group(list(ranks), backend=BACKENDS.get(kind, "xccl"))


def circle(ranks: Sequence[int]) -> Circle:
    """A circle of ranks; all ranks of the job call it, whether they are among these."""
    if _through_hosts(ranks):
        return _HostCircle(_hosts(), tuple(ranks))
    return _DeviceCircle(group(ranks))


def everyone(ranks: int) -> Circle:
    """The circle of all ranks of the job."""
    return _HostCircle(_hosts(), tuple(range(ranks))) if _JOB.hosts else _DeviceCircle(None)


def wire(giver: int, taker: int) -> Wire:
    """A way from one rank to another; all ranks of the job call it, whether they are one of these."""
    if _through_hosts((giver, taker)):
        return _HostWire(_hosts(), giver, taker)
    return _DeviceWire(group((giver, taker)), giver, taker)


def from_all(value: T, ranks: int) -> list[T]:
    """A small plain value of every rank, on every rank; all call it at the same point."""
    if ranks == 1:
        return [value]
    if _JOB.hosts:
        return _JOB.hosts.gathered(value, range(ranks))
    values: list[T] = []
    dist.all_gather_object(values, value)
    return values


def _through_hosts(ranks: Sequence[int]) -> bool:
    kinds = {_JOB.kinds[rank] for rank in ranks} if _JOB.kinds else set()
    return len(kinds) > 1 or kinds == {"cpu"}


def _hosts() -> Hosts:
    assert _JOB.hosts is not None
    return _JOB.hosts


class _OfStore:
    """Where ranks find each other in the store of Paddle's launch."""

    def __init__(self, rank: int) -> None:
        self._store = paddle.base.core.create_or_get_global_tcp_store()
        if rank == 0:
            self._store.set("nebula/hosts/token", secrets.token_bytes(16))

    def token(self) -> bytes:
        return self._read("token")

    def tell(self, rank: int, address: str) -> None:
        self._store.set(f"nebula/hosts/{rank}", address.encode())

    def find(self, rank: int) -> str:
        return self._read(str(rank)).decode()

    def _read(self, key: str) -> bytes:
        self._store.wait(f"nebula/hosts/{key}")
        return bytes(self._store.get(f"nebula/hosts/{key}"))


class _DeviceCircle:
    """Over the devices' communicator.

    Args:
        group: Paddle's; None: of all ranks.
    """

    def __init__(self, group: Any) -> None:
        self._group = group

    def all_reduce(self, tensor: paddle.Tensor, *, most: bool = False) -> None:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX if most else dist.ReduceOp.SUM, group=self._group)

    def reduce(self, tensor: paddle.Tensor, to: int) -> None:
        dist.reduce(tensor, to, group=self._group)

    def broadcast(self, tensor: paddle.Tensor, owner: int) -> None:
        dist.broadcast(tensor, owner, group=self._group)


class _HostCircle:
    """Through the memory of the hosts; half precision is summed in float32."""

    def __init__(self, hosts: Hosts, ranks: tuple[int, ...]) -> None:
        self._hosts, self._ranks = hosts, ranks

    def all_reduce(self, tensor: paddle.Tensor, *, most: bool = False) -> None:
        operation = np.maximum if most else np.add
        self._exchange(tensor, lambda array: self._hosts.all_reduce(array, self._ranks, operation))

    def reduce(self, tensor: paddle.Tensor, to: int) -> None:
        self._exchange(tensor, lambda array: self._hosts.reduce(array, self._ranks, to))

    def broadcast(self, tensor: paddle.Tensor, owner: int) -> None:
        self._exchange(tensor, lambda array: self._hosts.broadcast(array, self._ranks, owner))

    def _exchange(self, tensor: paddle.Tensor, work: Callable[[Array], Array]) -> None:
        half = tensor.dtype in (paddle.bfloat16, paddle.float16)
        array = work((tensor.astype("float32") if half else tensor).numpy())
        paddle.assign(_placed(array, tensor).astype(tensor.dtype), tensor)


class _DeviceWire:
    """Over the devices' communicator."""

    def __init__(self, group: Any, giver: int, taker: int) -> None:
        self._group, self._giver, self._taker = group, giver, taker

    def send(self, tensor: paddle.Tensor) -> Task:
        task: Task = dist.isend(tensor, self._taker, group=self._group)
        return task

    def receive(self, tensor: paddle.Tensor) -> Task:
        task: Task = dist.irecv(tensor, self._giver, group=self._group)
        return task


class _HostWire:
    """Through the memory of the hosts."""

    def __init__(self, hosts: Hosts, giver: int, taker: int) -> None:
        self._hosts, self._giver, self._taker = hosts, giver, taker

    def send(self, tensor: paddle.Tensor) -> Task:
        return _Sent(self._hosts.send(self._taker, tensor.numpy(), "border"))

    def receive(self, tensor: paddle.Tensor) -> Task:
        return _Coming(self._hosts, self._giver, tensor)


class _Sent:
    def __init__(self, future: Any) -> None:
        self._future = future

    def wait(self) -> None:
        self._future.result()


class _Coming:
    def __init__(self, hosts: Hosts, giver: int, tensor: paddle.Tensor) -> None:
        self._hosts, self._giver, self._tensor = hosts, giver, tensor

    def wait(self) -> None:
        name = str(self._tensor.dtype).removeprefix("paddle.")
        array = np.empty(self._tensor.shape, np.uint16 if name == "bfloat16" else name)
        self._hosts.receive(self._giver, array, "border")
        paddle.assign(_placed(array, self._tensor), self._tensor)


def _placed(array: Array, like: paddle.Tensor) -> paddle.Tensor:
    """An array as a tensor where another lies."""
    return paddle.to_tensor(array, place=like.place)
