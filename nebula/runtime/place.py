"""Where a rank stands in a plan whose stages are alike: its coordinates on the mesh and the rows it works on.

Pure: rank numbers follow nebula.plan.layout. A plan whose stages differ has no such mesh; nebula.runtime.runnable
refuses it before.
"""

from __future__ import annotations

from dataclasses import dataclass

from nebula.plan.values import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrees:
    """Sizes of the mesh axes in fleet's order; `data` counts the replicas outside the sharding groups."""

    data: int
    pipeline: int
    sharding: int
    tensor: int

    @property
    def ranks(self) -> int:
        """Points of the mesh."""
        return self.data * self.pipeline * self.sharding * self.tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One rank's coordinates.

    Attributes:
        data: index outside the sharding group.
        shard: index within the sharding group.
        layers: [first, last) of the rank's stage.
        rows: [first, last) of the global batch that its replica works on.
    """

    rank: int
    data: int
    stage: int
    shard: int
    tensor: int
    layers: tuple[int, int]
    rows: tuple[int, int]


def degrees(plan: Plan) -> Degrees:
    """The mesh of a plan that the legality table lets fleet run."""
    first = plan.stages[0]
    shard = first.sharding.degree
    mesh = Degrees(data=first.data // shard, pipeline=len(plan.stages), sharding=shard, tensor=first.tensor)
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
        (0, 8)
    """
    mesh = degrees(plan)
    rest, tensor = divmod(rank, mesh.tensor)
    rest, shard = divmod(rest, mesh.sharding)
    data, stage = divmod(rest, mesh.pipeline)
    rows, replica = replica_rows(plan), data * mesh.sharding + shard
    return Place(
        rank=rank,
        data=data,
        stage=stage,
        shard=shard,
        tensor=tensor,
        layers=plan.stages[stage].layers,
        rows=(replica * rows, (replica + 1) * rows),
    )
