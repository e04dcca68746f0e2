"""Who works on which rows where, and what crosses a border between two stages; pure, the same on every rank.

A micro-batch of the pipeline has the rows of all replicas of a stage together, which every stage parts among its own
replicas in order. At a border rank i of a replica that receives takes its rows from rank i mod n of the n ranks that
hold them: activations and gradients at a border are the same on all ranks of a tensor group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from nebula.plan.schedule import actions, virtual_stage_of
from nebula.plan.values import Plan, Stage

Rows = tuple[int, int]
"""[first, last) of a micro-batch of the pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One rank's place in a plan.

    Attributes:
        home: which group of ranks of the pipeline it is in.
        stages: indices of the stages it holds, several where they are virtual.
        replica: index of its replica in each of them.
        place: index of its rank in the replica, whose tensor groups follow each other.
        rows: of a micro-batch.
    """

    rank: int
    home: int
    stages: tuple[int, ...]
    replica: int
    place: int
    rows: Rows

    def rows_of_batch(self, plan: Plan) -> tuple[int, ...]:
        """Numbers of the rows of a global batch that its replica works on, micro-batch after micro-batch."""
        size = plan.job.global_batch // plan.micro_batches
        return tuple(i * size + row for i in range(plan.micro_batches) for row in range(*self.rows))


class Message(NamedTuple):
    """What crosses a border: `F` activations or `B` gradients of a micro-batch, for a stage."""

    kind: str
    stage: int
    micro_batch: int


class Share(NamedTuple):
    """A part of a message: from or to a rank, [first, last) of the rows that this rank works on."""

    peer: int
    first: int
    last: int


def rows_of(stage: Stage) -> tuple[Rows, ...]:
    """The rows of a micro-batch that each replica works on."""
    return tuple(pairwise(accumulate((r.micro_batch_rows for r in stage.replicas), initial=0)))


def seat_of(plan: Plan, rank: int) -> Seat:
    """Where a rank of the plan sits."""
    for home, stages in enumerate(plan.homes):
        stage = plan.stages[stages[0]]
        for index, (replica, rows) in enumerate(zip(stage.replicas, rows_of(stage), strict=True)):
            if rank in replica.ranks:
                at = replica.ranks.index(rank)
                return Seat(rank=rank, home=home, stages=stages, replica=index, place=at, rows=rows)
    raise AssertionError(f"rank {rank} has no place in the plan")


def takes(giver: Stage, seat: Seat) -> Iterator[Share]:
    """From whom a rank takes its rows at a border, in the order of the rows."""
    first, last = seat.rows
    for replica, (low, high) in zip(giver.replicas, rows_of(giver), strict=True):
        if max(first, low) < min(last, high):
            peer = replica.ranks[seat.place % len(replica.ranks)]
            yield Share(peer, max(first, low) - first, min(last, high) - first)


def gives(seat: Seat, width: int, taker: Stage) -> Iterator[Share]:
    """To whom a rank of a replica of `width` ranks gives its rows at a border."""
    first, last = seat.rows
    for replica, (low, high) in zip(taker.replicas, rows_of(taker), strict=True):
        if max(first, low) < min(last, high):
            for peer in replica.ranks[seat.place :: width]:
                yield Share(peer, max(first, low) - first, min(last, high) - first)


def orders(plan: Plan) -> tuple[tuple[tuple[str, int, int], ...], ...]:
    """For each home what it does in which order: (kind, micro-batch, stage)."""
    homes = plan.homes
    count, chunks = len(homes), len(homes[0])
    return tuple(
        tuple((a.kind, a.micro_batch, virtual_stage_of(plan.schedule, home, a.chunk, count)) for a in order)
        for home, order in enumerate(actions(plan.schedule, count, plan.micro_batches, chunks))
    )


def sent(plan: Plan, giver: Seat, taker: int) -> Iterator[Message]:
    """What one rank sends another in one step, in the order in which it does."""
    last = len(plan.stages) - 1
    for kind, micro_batch, stage in orders(plan)[giver.home]:
        to = stage + 1 if kind == "F" else stage - 1
        if kind == "W" or not 0 <= to <= last:
            continue
        width = len(plan.stages[stage].replicas[giver.replica].ranks)
        if any(share.peer == taker for share in gives(giver, width, plan.stages[to])):
            yield Message("F" if kind == "F" else "B", to, micro_batch)


def channels(plan: Plan) -> tuple[tuple[int, int], ...]:
    """All pairs (giver, taker) of different ranks between which messages travel, sorted."""
    seats = [seat_of(plan, rank) for rank in range(plan.world_size)]
    found = set()
    for seat in seats:
        for index in seat.stages:
            for other in (index - 1, index + 1):
                if 0 <= other < len(plan.stages):
                    width = len(plan.stages[index].replicas[seat.replica].ranks)
                    found |= {(seat.rank, share.peer) for share in gives(seat, width, plan.stages[other])}
    return tuple(sorted(pair for pair in found if pair[0] != pair[1]))
