"""What a mixed cluster is worth: the plan beside that of its fastest part alone, and beside all devices as the slowest.

Both are what people do without a planner for unlike devices: leave the slower ones out, or split everything evenly, so
that all wait for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nebula.cluster.values import Cluster, DeviceType
from nebula.errors import Infeasible
from nebula.graph.values import DistributedGraph
from nebula.plan.job import Objective
from nebula.plan.values import PRECISION_DTYPE, Job
from nebula.planner.explore.search import explore
from nebula.planner.search import Answer
from nebula.units import format_seconds


def baselines(
    graph: DistributedGraph,
    cluster: Cluster,
    job: Job,
    objective: Objective,
    answer: Answer,
    enough: Callable[[float], bool],
) -> tuple[str, ...]:
    """A sentence for each baseline of a cluster of several device types; none for one of a single type.

    Args:
        answer: what was found for the whole cluster.
        enough: whether an answer will do, asked with the gap that is proved.
    """
    types = {group.device.name: group.device for group in cluster.groups}
    if len(types) < 2:
        return ()
    dtype = PRECISION_DTYPE[job.precision]
    fastest = max(types.values(), key=lambda t: _count(cluster, t) * _rate(t, dtype))
    slowest = min(types.values(), key=lambda t: _rate(t, dtype))
    others = tuple(group.name for group in cluster.groups if group.device.name != fastest.name)
    as_slow = replace(cluster, groups=tuple(replace(group, device=slowest) for group in cluster.groups))

    def best_s(on: Cluster, asked: Objective) -> float:
        try:
            found = explore(graph, on, job, asked, enough=enough).plan.prediction
        except Infeasible:
            return 0.0
        return found.step_time_s if found else 0.0

    alone_s = best_s(cluster, replace(objective, exclude=(*objective.exclude, *others)))
    slow_s = best_s(as_slow, objective)
    return (
        _sentence(f"on the {_count(cluster, fastest)} {fastest.name} alone", alone_s, answer),
        _sentence(f"with all devices as slow as {slowest.name}", slow_s, answer),
    )


def _count(cluster: Cluster, device: DeviceType) -> int:
    return sum(group.device_count for group in cluster.groups if group.device.name == device.name)


def _rate(device: DeviceType, dtype: str) -> float:
    return device.peak(dtype) * device.product_efficiency


def _sentence(where: str, step_s: float, answer: Answer) -> str:
    assert answer.plan.prediction is not None
    if not step_s:
        return f"For comparison, {where} the model does not fit."
    more = step_s / answer.plan.prediction.step_time_s - 1.0
    difference = f"{abs(more):.0%} {'more' if more >= 0 else 'less'}"
    return f"For comparison, {where} a step takes {format_seconds(step_s)}, {difference}."
