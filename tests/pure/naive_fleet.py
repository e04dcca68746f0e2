"""Every plan of the space of `nebula plan`, by loops over whole numbers, each priced by itself.

Written from docs/space.md and the legality table; of the planner nothing is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from nebula.cluster.values import Cluster, DeviceType, NodeGroup
from nebula.cost_model.fleet import Pricing
from nebula.errors import BadInput
from nebula.plan.legality import executable, violations
from nebula.plan.values import PRECISION_DTYPE, Job, MadeFrom, Plan, Prediction, RankPlace, Replica, Sharding, Stage
from tests.pure.brute_cases import Case

MADE_FROM = MadeFrom(model="", model_hash="", cluster="", cluster_hash="")


class Degrees(NamedTuple):
    """What is decided about a plan; `layers` holds how many layers each stage has."""

    data: int
    tensor: int
    rows: int
    sharding: int
    sharding_degree: int
    recompute: str
    layers: tuple[int, ...]

    @property
    def split(self) -> tuple[object, ...]:
        """All but the boundaries."""
        return (*self[:-1], len(self.layers))

    def given(self) -> dict[str, int | str]:
        """By the names that `objective.fixed` takes."""
        return {
            "data": self.data,
            "tensor": self.tensor,
            "pipeline": len(self.layers),
            "sharding": self.sharding,
            "sharding_degree": self.sharding_degree,
            "recompute": self.recompute,
            "micro_batch_rows": self.rows,
        }


class Offer(NamedTuple):
    """The devices that a plan may use, in the order of its ranks, and how many the smallest of their nodes has."""

    device: DeviceType
    places: tuple[RankPlace, ...]
    per_node: int


def usable_nodes(cluster: Cluster, left_out: tuple[str, ...]) -> Iterator[tuple[NodeGroup, str, float]]:
    """Group, name and slowness of every node that may be used, in order."""
    for group in cluster.groups:
        for node in range(group.count):
            name = f"{group.name}/{node}"
            if node not in group.excluded and group.name not in left_out and name not in left_out:
                yield group, name, dict(group.slow).get(node, 1.0)


def offer(cluster: Cluster, job: Job, left_out: tuple[str, ...]) -> Offer:
    """All devices of the type that computes most in all, nodes in order, slower nodes last."""
    found: dict[str, list[tuple[float, RankPlace]]] = {}
    smallest: dict[str, int] = {}
    types = {group.device.name: group.device for group in cluster.groups}
    for group, name, slow in usable_nodes(cluster, left_out):
        kind, size = group.device.name, group.devices_per_node
        found.setdefault(kind, []).extend((slow, RankPlace(name, device)) for device in range(size))
        smallest[kind] = min(size, smallest.get(kind, size))
    dtype = PRECISION_DTYPE[job.precision]
    best = max(found, key=lambda name: len(found[name]) * types[name].peak(dtype) * types[name].product_efficiency)
    ordered = sorted(found[best], key=lambda pair: pair[0])
    return Offer(types[best], tuple(place for _, place in ordered), smallest[best])


def compositions(whole: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write a number as so many numbers from 1 on, in order."""
    if parts == 1:
        yield (whole,)
        return
    for first in range(1, whole - parts + 2):
        for rest in compositions(whole - first, parts - 1):
            yield (first, *rest)


def every_degrees(layers: int, offered: Offer, job: Job, fixed: Mapping[str, object]) -> Iterator[Degrees]:
    """What numbers allow, and a user who fixed some of them."""
    devices = len(offered.places)
    tensors = [t for t in range(1, offered.per_node + 1) if offered.per_node % t == 0]
    for tensor in [int(str(fixed["tensor"]))] if "tensor" in fixed else tensors:
        for data in range(1, devices // tensor + 1):
            for rows in range(1, job.global_batch + 1):
                for pipeline in range(1, min(layers, devices // (tensor * data)) + 1):
                    for sharding, degree in every_sharding(data):
                        for recompute in ("none", "selective", "full"):
                            first = Degrees(data, tensor, rows, sharding, degree, recompute, (1,) * pipeline)
                            given = first.given()
                            if job.global_batch % (data * rows) or any(given[n] != v for n, v in fixed.items()):
                                continue
                            for held in compositions(layers, pipeline):
                                yield first._replace(layers=held)


def every_sharding(data: int) -> list[tuple[int, int]]:
    """Pairs of stage and degree."""
    return [(0, 1)] + [(s, d) for s in (1, 2, 3) for d in range(2, data + 1) if data % d == 0]


def plan_of(degrees: Degrees, offered: Offer, job: Job) -> Plan:
    """The plan with its ranks numbered data, pipeline, sharding, tensor from the outside in."""
    pipeline, shards = len(degrees.layers), degrees.sharding_degree
    stages, first = [], 0
    for index, count in enumerate(degrees.layers):
        replicas = []
        for outer in range(degrees.data // shards):
            for shard in range(shards):
                start = ((outer * pipeline + index) * shards + shard) * degrees.tensor
                ranks = tuple(start + t for t in range(degrees.tensor))
                replicas.append(
                    Replica(ranks=ranks, tensor_shares=(1,) * degrees.tensor, micro_batch_rows=degrees.rows)
                )
        stages.append(
            Stage(
                layers=(first, first + count),
                replicas=tuple(replicas),
                sharding=Sharding(stage=degrees.sharding, degree=shards),
                recompute=degrees.recompute,
            )
        )
        first += count
    used = degrees.data * degrees.tensor * pipeline
    return Plan(
        stages=tuple(stages),
        micro_batches=job.global_batch // (degrees.data * degrees.rows),
        schedule="1f1b",
        engine="fleet" if used > 1 else "serial",
        ranks=offered.places[:used],
        job=job,
        made_from=MADE_FROM,
    )


class Found(NamedTuple):
    """A legal plan and what it costs."""

    plan: Plan
    prediction: Prediction

    @property
    def plan_with_prediction(self) -> Plan:
        """The plan as it would be saved."""
        return replace(self.plan, prediction=self.prediction)

    @property
    def fits(self) -> bool:
        """Whether every stage is within its limit."""
        return all(held.total_bytes <= held.limit_bytes for held in self.prediction.memory)


def every_degrees_of(case: Case) -> list[Degrees]:
    """What the numbers of a case allow."""
    offered = offer(case.cluster, case.job, case.objective.exclude)
    return list(every_degrees(len(case.graph.layers), offered, case.job, case.objective.fixed))


def every_plan(case: Case, choices: list[Degrees]) -> dict[Degrees, Found]:
    """All legal plans of a case that an engine runs, fitting or not, with their predictions.

    What an engine lacks for whatever plan of the job (a precision) keeps none out.

    Args:
        choices: what the numbers allow.
    """
    job, layers, found = case.job, len(case.graph.layers), {}
    offered = offer(case.cluster, job, case.objective.exclude)
    kind = "emulated" if offered.device.emulated else offered.device.kind
    lacking = set(executable(plan_of(Degrees(1, 1, 1, 0, 1, "none", (1,)), offered, job), kind).missing)
    pricing = Pricing(case.graph, case.cluster, job)
    for degrees in choices:
        plan = plan_of(degrees, offered, job)
        if violations(plan, layers=layers, cluster=case.cluster) or set(executable(plan, kind).missing) - lacking:
            continue
        try:
            found[degrees] = Found(plan, pricing.predict(plan))
        except BadInput:
            # the tensor degree does not divide what it has to cut
            continue
    return found
