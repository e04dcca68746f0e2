"""Rank numbers of a plan whose stages are alike, in the order of Paddle's fleet: data outermost, then pipeline,
then sharding, then tensor innermost (`order` of HybridCommunicateGroup as nebula.runtime sets it)."""

from __future__ import annotations

from nebula.plan.values import Replica, Sharding, Stage


def rank_of(*, data: int, stage: int, shard: int, tensor: int, pipeline: int, sharding: int, tensor_degree: int) -> int:
    """The global rank at the given coordinates.

    Example:
        >>> rank_of(data=1, stage=0, shard=0, tensor=1, pipeline=2, sharding=1, tensor_degree=2)
        5
    """
    return ((data * pipeline + stage) * sharding + shard) * tensor_degree + tensor


def uniform_stages(
    *,
    boundaries: tuple[int, ...],
    data: int,
    tensor: int,
    sharding: Sharding,
    micro_batch_rows: int,
    recompute: str = "none",
) -> tuple[Stage, ...]:
    """Stages that differ in their layers only.

    Args:
        boundaries: first layer of each stage and, last, the number of layers.
        data: replicas in all, those that share a sharding group included; a multiple of sharding.degree.
        tensor: ranks of one replica of one stage.
    """
    pipeline, degree = len(boundaries) - 1, sharding.degree
    assert data % degree == 0, f"sharding degree {degree} does not divide data {data}"

    def replica(index: int, stage: int) -> Replica:
        outer, shard = divmod(index, degree)
        place = {"data": outer, "stage": stage, "shard": shard, "pipeline": pipeline, "sharding": degree}
        ranks = tuple(rank_of(tensor=t, tensor_degree=tensor, **place) for t in range(tensor))
        return Replica(ranks=ranks, tensor_shares=(1,) * tensor, micro_batch_rows=micro_batch_rows)

    return tuple(
        Stage(
            layers=(boundaries[s], boundaries[s + 1]),
            replicas=tuple(replica(i, s) for i in range(data)),
            sharding=sharding,
            recompute=recompute,
        )
        for s in range(pipeline)
    )
