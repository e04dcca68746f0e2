"""Where a rank stands in a plan whose stages are alike: its coordinates on the mesh and the rows it works on.

Pure: rank numbers follow nebula.plan.layout. A plan whose stages differ has no such mesh; nebula.runtime.runnable
refuses it before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nebula.plan.layout import FLEET, Order, order_of, strides
from nebula.plan.values import Plan

PADDLE_AXES = {"data": "dp", "pipeline": "pp", "sharding": "sharding", "tensor": "mp"}
"""Names of the axes in fleet; `sep`, which no plan uses, stands outside of the tensor axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrees:
    """Sizes of the mesh axes; `data` counts the replicas outside the sharding groups, `order` is that of the ranks."""

    data: int
    pipeline: int
    sharding: int
    tensor: int
    order: Order = FLEET

    @property
    def ranks(self) -> int:
        """Points of the mesh."""
        return self.data * self.pipeline * self.sharding * self.tensor

    @property
    def paddle_order(self) -> list[str]:
        """The order of the axes from the outside in, as fleet's hybrid topology takes it."""
        return [PADDLE_AXES[axis] for axis in self.order[:-1]] + ["sep", PADDLE_AXES[self.order[-1]]]

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where a rank stands along each axis."""
        sizes = {axis: getattr(self, axis) for axis in self.order}
        return {axis: rank // step % sizes[axis] for axis, step in strides(self.order, sizes).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One rank's coordinates.

    Attributes:
        data: index outside the sharding group.
        shard: index within the sharding group.
        layers: [first, last) of the rank's stage.
        rows: numbers of the rows of the global batch that its replica works on, in the order of its micro-batches.
    """

    rank: int
    data: int
    stage: int
    shard: int
    tensor: int
    layers: tuple[int, int]
    rows: Sequence[int]


def degrees(plan: Plan) -> Degrees:
    """The mesh of a plan that the legality table lets fleet run."""
    first = plan.stages[0]
    shard = first.sharding.degree
    mesh = Degrees(
        data=first.data // shard,
        pipeline=len(plan.stages),
        sharding=shard,
        tensor=first.tensor,
        order=order_of(plan.stages) or FLEET,
    )
    assert mesh.ranks == plan.world_size, f"{mesh} does not hold {plan.world_size} ranks"
    return mesh


def replica_rows(plan: Plan) -> int:
    """Rows of one replica in one optimizer step."""
    return plan.micro_batches * plan.stages[0].replicas[0].micro_batch_rows


def place(plan: Plan, rank: int) -> Place:
    """The coordinates of a rank.

    Example:
        >>> from nebula.runtime.serial import serial_plan
        >>> place(serial_plan(global_batch=8), 0).rows
        range(0, 8)
    """
    mesh = degrees(plan)
    at = mesh.coordinates(rank)
    rows, replica = replica_rows(plan), at["data"] * mesh.sharding + at["sharding"]
    return Place(
        rank=rank,
        data=at["data"],
        stage=at["pipeline"],
        shard=at["sharding"],
        tensor=at["tensor"],
        layers=plan.stages[at["pipeline"]].layers,
        rows=range(replica * rows, (replica + 1) * rows),
    )
