"""From a way to the plan that people read, keep and run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from nebula.plan.job import EXCHANGES, RECOMPUTE
from nebula.plan.schedule import device_of
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Replica, Stage
from nebula.planner.explore.ways import Way

ENGINE = "executor"
"""Who is to run such plans: the engine for whatever fleet does not do."""


def plan_of(
    way: Way,
    boundaries: Sequence[int],
    ranks: tuple[RankPlace, ...],
    job: Job,
    made_from: MadeFrom,
    again: Sequence[int] = (),
    exchange: str = "ring",
) -> Plan:
    """The plan of a way, without prediction and words.

    Args:
        boundaries: first layer of each virtual stage, and the number of layers.
        ranks: where each rank of each stage is, those of a stage in the order tensor, context, data.
        again: how many layers of each virtual stage are computed again, the first ones; empty: all.
        exchange: how ranks that share the sequence get what attention needs.
    """
    inner, outer = way
    sizes = [b - a for a, b in pairwise(boundaries)]
    counts = again or sizes
    homes = [device_of(outer.schedule, s, outer.pipeline, outer.chunks) for s in range(len(boundaries) - 1)]
    held = [_replicas(way, home) for home in range(outer.pipeline)]
    return Plan(
        stages=tuple(
            Stage(
                layers=(boundaries[index], boundaries[index + 1]),
                replicas=held[home],
                context=inner.context,
                expert=inner.expert,
                sharding=outer.sharding,
                recompute=inner.recompute if counts[index] else RECOMPUTE[0],
                recompute_layers=counts[index] if counts[index] < sizes[index] else 0,
                offload=inner.offload,
                exchange=exchange if inner.context > 1 else EXCHANGES[0],
            )
            for index, home in enumerate(homes)
        ),
        micro_batches=way.micro_batches(job),
        schedule=outer.schedule,
        engine=ENGINE,
        ranks=ranks,
        job=job,
        made_from=made_from,
        sequence_parallel=inner.cuts_sequence,
    )


def _replicas(way: Way, home: int) -> tuple[Replica, ...]:
    inner, data = way.inner, way.outer.data
    firsts = ((home * data + index) * inner.width for index in range(data))
    return tuple(
        Replica(
            ranks=tuple(range(first, first + inner.width)),
            tensor_shares=(1,) * inner.width,
            micro_batch_rows=inner.rows,
        )
        for first in firsts
    )
