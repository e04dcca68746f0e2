"""Rank numbers of a plan whose stages are alike: the axes of its mesh from the outside in, the last fastest.

Paddle's fleet numbers ranks in any order of its axes (`order` of its hybrid topology); by default data, pipeline,
sharding, tensor. Tensor groups are neighbours in every order here: they talk most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

from nebula.plan.values import Replica, Sharding, Stage

Order = tuple[str, ...]
"""Axes from the outside in."""

FLEET: Order = ("data", "pipeline", "sharding", "tensor")
"""The order that fleet takes where nobody says otherwise."""

ORDERS: tuple[Order, ...] = tuple((*outer, "tensor") for outer in permutations(FLEET[:-1]))
"""Every order in which ranks can be numbered, fleet's own first."""


def strides(order: Order, degrees: Mapping[str, int]) -> dict[str, int]:
    """By how much a rank number grows along each axis.

    Example:
        >>> strides(FLEET, {"data": 2, "pipeline": 2, "sharding": 1, "tensor": 2})
        {'tensor': 1, 'sharding': 2, 'pipeline': 2, 'data': 4}
    """
    found, stride = {}, 1
    for axis in reversed(order):
        found[axis] = stride
        stride *= degrees[axis]
    return found


def uniform_stages(
    *,
    boundaries: tuple[int, ...],
    data: int,
    tensor: int,
    sharding: Sharding,
    micro_batch_rows: int,
    recompute: str = "none",
    order: Order = FLEET,
) -> tuple[Stage, ...]:
    """Stages that differ in their layers only.

    Args:
        boundaries: first layer of each stage and, last, the number of layers.
        data: replicas in all, those that share a sharding group included; a multiple of sharding.degree.
        tensor: ranks of one replica of one stage.
        order: in which ranks are numbered.
    """
    pipeline, degree = len(boundaries) - 1, sharding.degree
    assert data % degree == 0, f"sharding degree {degree} does not divide data {data}"
    step = strides(order, {"data": data // degree, "pipeline": pipeline, "sharding": degree, "tensor": tensor})

    shares = (1,) * tensor

    def replica(index: int, stage: int) -> Replica:
        outer, shard = divmod(index, degree)
        first = outer * step["data"] + stage * step["pipeline"] + shard * step["sharding"]
        ranks = tuple(range(first, first + tensor))
        return Replica(ranks=ranks, tensor_shares=shares, micro_batch_rows=micro_batch_rows)

    return tuple(
        Stage(
            layers=(boundaries[s], boundaries[s + 1]),
            replicas=tuple(replica(i, s) for i in range(data)),
            sharding=sharding,
            recompute=recompute,
        )
        for s in range(pipeline)
    )


def order_of(stages: Sequence[Stage]) -> Order | None:
    """The order in which the ranks of alike stages are numbered, fleet's own where several fit; None if none does."""
    first = stages[0]
    degree = max(1, first.sharding.degree)
    if first.data % degree:
        return None
    mesh = {"data": first.data // degree, "pipeline": len(stages), "sharding": degree, "tensor": first.tensor}
    return next((order for order in ORDERS if _numbered(stages, degree, strides(order, mesh))), None)


def _numbered(stages: Sequence[Stage], degree: int, step: Mapping[str, int]) -> bool:
    """Whether every replica holds the ranks that the strides give it."""
    for index, stage in enumerate(stages):
        for place, replica in enumerate(stage.replicas):
            outer, shard = divmod(place, degree)
            first = outer * step["data"] + index * step["pipeline"] + shard * step["sharding"]
            if replica.ranks != tuple(range(first, first + len(replica.ranks))):
                return False
    return True
