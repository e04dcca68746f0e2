"""Candidates for tests: at random over everything that a batch can hold, and the plan that each of them is."""

from __future__ import annotations

import random

from nebula.cluster.values import Cluster
from nebula.cost_model.candidates import SINGLE, Candidates, Way
from nebula.plan.job import RECOMPUTE
from nebula.plan.layout import uniform_stages
from nebula.plan.values import Job, Plan, Sharding
from nebula.planner.pool import places
from nebula.planner.space import divisors
from tests.pure.cost_samples import MADE_FROM


def random_way(rng: random.Random, layers: int, devices: int, job: Job, tensors=(1, 2, 4), schedules=SINGLE) -> Way:
    """A way of those layers that has room on the devices and divides the batch."""
    tensor = rng.choice(tensors)
    pipeline = rng.randint(1, min(layers, devices // tensor))
    data = rng.choice([d for d in divisors(job.global_batch) if d * tensor * pipeline <= devices])
    degree = rng.choice(divisors(data))
    return Way(
        pipeline=pipeline,
        schedule=rng.choice(schedules),
        tensor=tensor,
        rows=rng.choice([r for r in divisors(job.global_batch // data) if r <= 4]),
        recompute=rng.choice(RECOMPUTE),
        data=data,
        sharding=Sharding(stage=rng.randint(1, 3), degree=degree) if degree > 1 else Sharding(),
    )


def random_boundaries(rng: random.Random, layers: int, pipeline: int) -> tuple[int, ...]:
    """Stages of any lengths."""
    return (0, *sorted(rng.sample(range(1, layers), pipeline - 1)), layers)


def random_candidates(rng: random.Random, ways: int, each: int, layers: int, devices: int, job: Job, **more):
    """So many ways, each with so many boundaries."""
    return dealt(rng, [random_way(rng, layers, devices, job, **more) for _ in range(ways)], each, layers)


def dealt(rng: random.Random, ways: list[Way], each: int, layers: int) -> Candidates:
    """Those ways, each with so many boundaries, in any order."""
    parts = [(way, [random_boundaries(rng, layers, way.pipeline) for _ in range(each)]) for way in ways]
    return Candidates.of(parts)[rng.sample(range(len(ways) * each), len(ways) * each)]


def plans(candidates: Candidates, cluster: Cluster, job: Job) -> dict[int, Plan]:
    """Each candidate as the plan that evaluate takes."""
    every = places(cluster, range(cluster.device_count))
    found = {}
    for way, members in candidates.by_way():
        for index in members.tolist():
            stages = uniform_stages(
                boundaries=tuple(candidates.boundaries[index, : way.pipeline + 1].tolist()),
                data=way.data,
                tensor=way.tensor,
                sharding=way.sharding,
                micro_batch_rows=way.rows,
                recompute=way.recompute,
            )
            found[index] = Plan(
                stages=stages,
                micro_batches=job.global_batch // (way.data * way.rows),
                schedule=way.schedule,
                engine="fleet",
                ranks=every[: way.ranks],
                job=job,
                made_from=MADE_FROM,
            )
    return found
