"""Measures collectives between the ranks of one node through paddle.distributed, on every rank at the same time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import paddle
from paddle import distributed

from nebula.profiling.measurements import Message
from nebula.profiling.timing import Effort, medians

SIZES = (*(2**power for power in range(12, 26, 2)), 2**25)
"""Bytes of the larger buffer on a rank: 4 KiB to 32 MiB, the size at which fleet closes a bucket of gradients."""

KINDS = ("all_reduce", "broadcast", "all_gather")
"""What gloo knows too; the cost model prices the others by the same two figures."""


def messages(seconds: Callable[[], float], effort: Effort) -> tuple[Message, ...]:
    """Every collective at every size over all ranks; none for one rank."""
    ranks = distributed.get_world_size()
    if ranks < 2:
        return ()
    rows = [Message(kind=kind, ranks=ranks, size_bytes=float(size), seconds=0.0) for size in SIZES for kind in KINDS]
    took = medians([_case(row) for row in rows], seconds, effort, agree)
    return tuple(replace(row, seconds=s) for row, s in zip(rows, took, strict=True))


def agree(numbers: list[int]) -> list[int]:
    """The numbers of rank 0, on every rank."""
    told = paddle.to_tensor(numbers, dtype="int64")
    distributed.broadcast(told, src=0)
    return [int(number) for number in told.numpy()]


def _case(row: Message) -> Callable[[int], None]:
    share = row.ranks if row.kind == "all_gather" else 1
    buffer = paddle.zeros([int(row.size_bytes) // 4 // share], "float32")
    work: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: distributed.all_reduce(buffer),
        "broadcast": lambda: distributed.broadcast(buffer, src=0),
        "all_gather": lambda: distributed.all_gather([], buffer),
    }
    once = work[row.kind]

    def run(repeats: int) -> None:
        for _ in range(repeats):
            once()

    return run
