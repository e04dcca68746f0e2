"""Which device types take the first stages of a pipeline over unlike devices, and which the last.

An exploration lays stages on device types in the order in which a cluster lists them. Layers at the two ends of a model
are unlike (embeddings, small task layers, the head), and a type may prefer one end: the best plan's degrees are
explored again in every other order. Other degrees are not asked whether another order would make them better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations

from nebula.cluster.identity import cluster_hash
from nebula.cluster.topology import ports
from nebula.cluster.values import Cluster
from nebula.errors import BadInput, Infeasible
from nebula.graph.values import DistributedGraph
from nebula.plan.job import Objective
from nebula.plan.values import Job, Plan
from nebula.planner.explore.extent import EVERYTHING, Extent
from nebula.planner.explore.search import explore
from nebula.planner.explored_way import recomputed_under
from nebula.planner.search import INTERRUPTION, Answer, Progress
from nebula.units import format_seconds

MOST_TYPES = 4
"""Of more types only the order of the file and its reverse are looked at."""


def in_best_order(
    answer: Answer,
    graph: DistributedGraph,
    cluster: Cluster,
    job: Job,
    objective: Objective,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    enough: Callable[[float], bool] = lambda _: False,
    extent: Extent = EVERYTHING,
) -> Answer:
    """The answer of an exploration with its stages on the device types in the order that takes least.

    Args:
        answer: of `explore`.
        graph, cluster, job, objective, on_progress, enough, extent: as of `explore`.
    """
    if len(types_of(answer.plan, cluster)) < 2 or answer.ended_by == INTERRUPTION:
        return answer
    asked = replace(objective, fixed={**objective.fixed, **fixed_of(answer.plan)})
    first, *others = type_orders(cluster)
    found = {first: answer.plan}
    for order in others:
        try:
            listed = in_order(cluster, order)
            other = explore(graph, listed, job, asked, on_progress=on_progress, enough=enough, extent=extent, kept=1)
        except (Infeasible, BadInput):
            continue
        except KeyboardInterrupt:
            answer = replace(answer, ended_by=INTERRUPTION)
            break
        found[order] = other.plan
        if other.ended_by == INTERRUPTION:
            answer = replace(answer, ended_by=INTERRUPTION)
            break
    best = min(found, key=lambda order: _seconds(found[order]))
    return answer if best == first else _reordered(answer, found[best], best, cluster)


def _reordered(answer: Answer, plan: Plan, order: Sequence[str], cluster: Cluster) -> Answer:
    """The answer with a plan found for another order of types, and what the order gains."""
    more = _seconds(answer.plan) / _seconds(plan) - 1.0
    words = (
        f"Stages lie on {', '.join(order)} in this order; in the order of the cluster file a step takes "
        f"{format_seconds(_seconds(answer.plan))}, {more:.1%} more."
    )
    bound_s = min(answer.bound_s, _seconds(plan))
    better = replace(
        plan,
        made_from=replace(plan.made_from, cluster_hash=cluster_hash(cluster)),
        because=f"{answer.plan.because} {words}",
        runner_up=answer.plan.runner_up,
        bound_s=bound_s,
    )
    return replace(answer, plan=better, candidates=(better, *answer.candidates), bound_s=bound_s)


def type_orders(cluster: Cluster) -> list[tuple[str, ...]]:
    """The orders of a cluster's device types, that of the file first."""
    types = tuple(dict.fromkeys(group.device.name for group in cluster.groups))
    return list(permutations(types)) if len(types) <= MOST_TYPES else [types, types[::-1]]


def in_order(cluster: Cluster, types: Sequence[str]) -> Cluster:
    """The same cluster with its node groups listed by device type, every node at the port where it was."""
    held = [replace(group, ports=own) for group, own in zip(cluster.groups, ports(cluster), strict=True)]
    return replace(cluster, groups=tuple(sorted(held, key=lambda group: types.index(group.device.name))))


def types_of(plan: Plan, cluster: Cluster) -> set[str]:
    """The device types that a plan uses."""
    names = {group.name: group.device.name for group in cluster.groups}
    return {names[place.node.rpartition("/")[0]] for place in plan.ranks}


def fixed_of(plan: Plan) -> dict[str, int | str]:
    """All degrees of an explored plan, as `objective.fixed` takes them."""
    first = plan.stages[0]
    return {
        "data": first.data,
        "tensor": first.tensor // first.context,
        "context": first.context,
        "expert": first.expert,
        "pipeline": len(plan.homes),
        "micro_batch_rows": first.replicas[0].micro_batch_rows,
        "sharding": first.sharding.stage,
        "sharding_degree": first.sharding.degree,
        "recompute": recomputed_under(plan),
        "offload": first.offload,
        "schedule": plan.schedule,
        "sequence": int(plan.sequence_parallel),
        "virtual_stages": len(plan.stages) // len(plan.homes),
    }


def _seconds(plan: Plan) -> float:
    assert plan.prediction is not None
    return plan.prediction.step_time_s
