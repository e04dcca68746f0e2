"""Which engine runs a split, and whether any can on the devices at hand, by the legality table.

What no engine can do for any split of a job (a precision, say) is the job's matter and keeps no split out.
"""

from __future__ import annotations

from functools import lru_cache

from nebula.plan.layout import uniform_stages
from nebula.plan.legality import executable
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Sharding
from nebula.planner.space import Split

FEW = 4
"""Degrees beyond this are all alike to the table."""


def engine_of(split: Split) -> str:
    """The engine that a plan with this split names."""
    return "serial" if split.ranks == 1 else "fleet"


def runs(split: Split, job: Job, device_kind: str) -> bool:
    """Whether an engine can run the split on devices of a kind, as far as that depends on the split."""
    sharding = split.sharding
    degrees = min(split.data, 2), min(split.tensor, 2), min(split.pipeline, 2), min(sharding.degree, FEW)
    return _runs(degrees, sharding.stage, split.recompute, job, device_kind)


@lru_cache(maxsize=1024)
def _runs(degrees: tuple[int, int, int, int], stage: int, recompute: str, job: Job, device_kind: str) -> bool:
    data, tensor, pipeline, degree = degrees
    # a split with the same features and few ranks
    small = Split(
        data=degree if degree > 1 else data,
        tensor=tensor,
        pipeline=pipeline,
        rows=1,
        sharding=Sharding(stage=stage, degree=degree),
        recompute=recompute,
    )
    return not set(missing(small, job, device_kind)) - set(missing(ALONE, job, device_kind))


@lru_cache(maxsize=1024)
def missing(split: Split, job: Job, device_kind: str) -> tuple[str, ...]:
    """What keeps every engine from running a split; nothing when one can."""
    stages = uniform_stages(
        boundaries=tuple(range(split.pipeline + 1)),
        data=split.data,
        tensor=split.tensor,
        sharding=split.sharding,
        micro_batch_rows=split.rows,
        recompute=split.recompute,
    )
    plan = Plan(
        stages=stages,
        micro_batches=1,
        schedule="1f1b",
        engine=engine_of(split),
        ranks=tuple(RankPlace("any/0", rank) for rank in range(split.ranks)),
        job=job,
        made_from=MadeFrom(model="", model_hash="", cluster="", cluster_hash=""),
    )
    return executable(plan, device_kind).missing


ALONE = Split(data=1, tensor=1, pipeline=1, rows=1, sharding=Sharding(), recompute="none")
"""One rank: what keeps every engine from running it is the job's matter."""
