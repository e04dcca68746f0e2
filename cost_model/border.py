"""What the border between two pipeline stages costs either of them, and who sends what over it.

Fleet sends parts and gathers them; between stages that are cut unlike, the executor's ranks send rows. Every formula
takes numbers or arrays, so that evaluate prices one border and search all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

from nebula.cluster.values import DeviceType
from nebula.cost_model.communication import Amount, Levels, collective
from nebula.cost_model.groups import ALONE
from nebula.plan.values import Replica, Stage


def send_seconds(size_bytes: Amount, messages: Amount, border: Levels, tensor_ranks: int) -> Amount:
    """What sending to a neighbour stage occupies of the sender: each tensor rank sends its part of the tensors."""
    return collective("send", border).seconds(size_bytes / tensor_ranks, messages)


def receive_seconds(size_bytes: Amount, messages: Amount, border: Levels, tensor: Levels) -> Amount:
    """What the receiver does with it: an all_gather of the parts among its tensor group."""
    return collective("all_gather", tensor if border else ALONE).seconds(size_bytes, messages)


def meets(device: DeviceType) -> bool:
    """Whether fleet's ranks take the input of their next forward before they send a gradient back.

    PaddlePaddle 3.3.1 has messages travel at the same time where they are one batch, which on devices of a plug-in it
    never makes; there its 1F1B receives from the stage before and then sends to it, so that neither waits for ever.
    """
    return device.emulated or device.kind in PLUG_INS


PLUG_INS = ("npu", "xpu")
"""Kinds of devices that PaddlePaddle knows through a plug-in."""


class Message(NamedTuple):
    """What one rank sends another for a micro-batch: so many of the rows of its replica."""

    giver: int
    taker: int
    rows: int


def messages(stage: Stage, behind: Stage) -> Iterator[Message]:
    """The messages over the border behind a stage; gradients come back by the same pairs.

    Each stage parts the rows of a micro-batch among its replicas in order; rank i of a replica takes its rows from rank
    i mod n of the n ranks that hold them, as the executor does.
    """
    for giver, (low, high) in _parted(stage):
        for taker, (first, end) in _parted(behind):
            rows = min(high, end) - max(low, first)
            if rows > 0:
                for index, rank in enumerate(taker.ranks):
                    yield Message(giver.ranks[index % len(giver.ranks)], rank, rows)


def alike(stage: Stage, behind: Stage) -> bool:
    """Whether the ranks of two stages hold the same rows, those of a replica as many."""
    kinds = [[(len(r.ranks), r.micro_batch_rows) for r in each.replicas] for each in (stage, behind)]
    return kinds[0] == kinds[1]


def _parted(stage: Stage) -> Iterator[tuple[Replica, tuple[int, int]]]:
    """The replicas, each with its rows of a micro-batch."""
    ends = accumulate((replica.micro_batch_rows for replica in stage.replicas), initial=0)
    return zip(stage.replicas, pairwise(ends), strict=True)
