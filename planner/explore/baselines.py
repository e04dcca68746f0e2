"""What a mixed cluster is worth: the plan beside that of its best part alone, and beside all devices as the slowest.

Both are what people do without a planner for unlike devices: leave the slower ones out, or split everything evenly, so
that all wait for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from nebula.cluster.values import Cluster, DeviceType
from nebula.errors import BadInput, Infeasible
from nebula.graph.values import DistributedGraph
from nebula.plan.job import Objective
from nebula.plan.values import PRECISION_DTYPE, Job, Plan
from nebula.planner.explore.search import explore
from nebula.planner.search import Answer
from nebula.units import format_seconds


class Baseline(NamedTuple):
    """Another way to use a mixed cluster.

    Attributes:
        where: what is done.
        step_s: of the best plan for that; 0: none fits.
        plans: the best plans for that, best first, predicted for what the devices are taken for.
    """

    where: str
    step_s: float
    plans: tuple[Plan, ...] = ()


def told(answer: Answer, each: Sequence[Baseline]) -> tuple[str, ...]:
    """A sentence for each baseline beside what was found for the whole cluster."""
    return tuple(_sentence(one, answer) for one in each)


def is_mixed(cluster: Cluster) -> bool:
    """Whether there are devices of several types."""
    return len(_types(cluster)) > 1


def alone(
    graph: DistributedGraph, cluster: Cluster, job: Job, objective: Objective, enough: Callable[[float], bool]
) -> list[Baseline]:
    """Each device type by itself, the one with the shortest step first, those that do not hold the model last.

    Of several that do not, the one that computes fastest is first.

    Args:
        graph, cluster, job, objective: as of an exploration.
        enough: whether an answer will do, asked with the gap that is proved.
    """
    dtype, types = PRECISION_DTYPE[job.precision], _types(cluster)
    found = []
    for kind in sorted(types, key=lambda kind: -_count(cluster, kind) * _rate(kind, dtype)):
        others = tuple(group.name for group in cluster.groups if group.device.name != kind.name)
        asked = replace(objective, exclude=(*objective.exclude, *others))
        where = f"on the {_count(cluster, kind):,} {kind.name} alone"
        found.append(_best(where, graph, cluster, job, asked, enough))
    return sorted(found, key=lambda each: each.step_s or math.inf)


def as_slowest(
    graph: DistributedGraph, cluster: Cluster, job: Job, objective: Objective, enough: Callable[[float], bool]
) -> Baseline:
    """All devices as the slowest type with the least memory of any, which is what an even split comes to."""
    types = _types(cluster)
    slowest = min(types, key=lambda kind: _rate(kind, PRECISION_DTYPE[job.precision]))
    least = replace(slowest, memory_bytes=min(kind.memory_bytes for kind in types))
    groups = (replace(group, device=least) for group in cluster.groups)
    where = f"with all devices as slow as {slowest.name}"
    return _best(where, graph, replace(cluster, groups=tuple(groups)), job, objective, enough)


def _best(
    where: str,
    graph: DistributedGraph,
    cluster: Cluster,
    job: Job,
    objective: Objective,
    enough: Callable[[float], bool],
) -> Baseline:
    try:
        found = explore(graph, cluster, job, objective, enough=enough)
    except (BadInput, Infeasible):
        return Baseline(where, 0.0)
    assert found.plan.prediction is not None
    return Baseline(where, found.plan.prediction.step_time_s, found.candidates)


def _types(cluster: Cluster) -> list[DeviceType]:
    """The device types of a cluster."""
    return list({group.device.name: group.device for group in cluster.groups}.values())


def _count(cluster: Cluster, device: DeviceType) -> int:
    """Devices of a type."""
    return sum(group.device_count for group in cluster.groups if group.device.name == device.name)


def _rate(device: DeviceType, dtype: str) -> float:
    return device.peak(dtype) * device.product_efficiency


def _sentence(each: Baseline, answer: Answer) -> str:
    assert answer.plan.prediction is not None
    if not each.step_s:
        return f"For comparison, {each.where} the model does not fit."
    more = each.step_s / answer.plan.prediction.step_time_s - 1.0
    difference = f"{abs(more):.0%} {'more' if more >= 0 else 'less'}"
    return f"For comparison, {each.where} a step takes {format_seconds(each.step_s)}, {difference}."
