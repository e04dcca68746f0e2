"""How throughput grows with the devices: the best plan at each of several sizes of one cluster.

Weak scaling keeps the rows of a device, strong scaling the global batch. The planner is free at every size unless
objective.fixed holds it, so a curve compares best with best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nebula.cluster.places import exclude
from nebula.cluster.resize import smallest_step, with_devices
from nebula.cluster.values import Cluster
from nebula.errors import BadInput
from nebula.graph.values import DistributedGraph
from nebula.plan.conditions import Conditions
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.outcome import Outcome, first_sentence, plan_outcome

CURVES = ("weak", "strong")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPoint:
    """One size of a curve.

    Attributes:
        devices: of the cluster at this size.
        global_batch: rows of a step at this size; 0 when there is no whole number of them.
        efficiency: tokens per second and device over those at the smallest size that has a plan; 0 without a plan.
    """

    devices: int
    global_batch: int
    outcome: Outcome
    efficiency: float = 0.0


def scaling(
    graph: DistributedGraph,
    cluster: Cluster,
    job: Job,
    objective: Objective | None = None,
    *,
    sizes: Sequence[int],
    curve: str = "weak",
    conditions: Conditions | None = None,
    on_point: Callable[[int], None] = lambda _: None,
) -> tuple[ScalingPoint, ...]:
    """The points of a curve, by their sizes.

    Args:
        graph: the model.
        cluster: as large as job.global_batch is meant for.
        job: its global batch is that of the whole cluster.
        objective: as of a search; nodes to leave out are left out at every size.
        sizes: numbers of devices.
        curve: `weak` or `strong`.
        conditions: for days and money.
        on_point: called with the number of points that are planned.

    Raises:
        BadInput: the objective names a node that the cluster does not have.
    """
    assert curve in CURVES
    objective = objective or Objective()
    cluster, objective = exclude(cluster, objective.exclude), replace(objective, exclude=())
    points = []
    for number, devices in enumerate(sorted(set(sizes))):
        on_point(number)
        points.append(_point(graph, cluster, job, objective, devices, curve, conditions))
    return with_efficiency(points)


def doubled_sizes(cluster: Cluster) -> tuple[int, ...]:
    """From the smallest size of a cluster's mix on, twice as many each time, up to the whole cluster.

    Example: 240 nodes of 8 devices give 8, 16, 32, ..., 1,024, 1,920.
    """
    sizes, devices = [], smallest_step(cluster)
    while devices < cluster.device_count:
        sizes.append(devices)
        devices *= 2
    return (*sizes, cluster.device_count)


def batch_at(job: Job, cluster: Cluster, devices: int, curve: str) -> int:
    """The global batch at a size.

    Raises:
        BadInput: weak scaling has no whole number of rows there.
    """
    if curve == "strong":
        return job.global_batch
    rows, rest = divmod(job.global_batch * devices, cluster.device_count)
    if rest:
        equation = f"{job.global_batch} rows × {devices} / {cluster.device_count} devices"
        raise BadInput(f"weak scaling at {devices} devices: {equation} is no whole number of rows; change global_batch")
    return rows


def with_efficiency(points: Sequence[ScalingPoint]) -> tuple[ScalingPoint, ...]:
    """The points with the throughput of a device against that at the smallest size that has a plan."""
    base = next((p.outcome.tokens_per_s / p.devices for p in points if p.outcome.plan), 1.0)
    return tuple(replace(p, efficiency=p.outcome.tokens_per_s / p.devices / base) for p in points)


def _point(
    graph: DistributedGraph,
    cluster: Cluster,
    job: Job,
    objective: Objective,
    devices: int,
    curve: str,
    conditions: Conditions | None,
) -> ScalingPoint:
    try:
        rows = batch_at(job, cluster, devices, curve)
        sized = with_devices(cluster, devices)
    except BadInput as error:
        return ScalingPoint(devices=devices, global_batch=0, outcome=Outcome(reason=first_sentence(error)))
    found = plan_outcome(graph, sized, replace(job, global_batch=rows), objective, conditions=conditions)
    return ScalingPoint(devices=devices, global_batch=rows, outcome=found)
