"""Plans whose stages span device types: what an even split over all devices comes to, and with rows that follow speed.

The explored space has stages on devices of one type each. The best plans for a cluster whose devices all are taken for
its slowest type know no such rule: they are priced here on the devices as they are, with every share of the rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from nebula.cluster.values import Cluster
from nebula.cost_model.by_stage import ByStage
from nebula.cost_model.executed import predict_priced
from nebula.graph.values import DistributedGraph
from nebula.plan.job import Objective
from nebula.plan.legality import violations
from nebula.plan.values import Plan
from nebula.planner.explore.refine import WORTH, outside, pricing_of, step_seconds
from nebula.planner.search import Answer
from nebula.planner.space import divisors
from nebula.units import format_seconds

MOST_ROWS = 16
"""Of a micro-batch of one replica."""

SHARES = 400
"""Ways to share the rows of one plan that are priced at most."""


def joint(
    answer: Answer,
    plans: Sequence[Plan],
    graph: DistributedGraph,
    cluster: Cluster,
    objective: Objective | None = None,
) -> Answer:
    """The answer, or a plan whose stages span device types where that is faster.

    Args:
        answer: of an exploration of a cluster of several types.
        plans: for the cluster with all devices as the slowest type.
        graph: the model.
        cluster: as it is.
        objective: degrees that are fixed stay.
    """
    assert answer.plan.prediction is not None
    at, best_s = pricing_of(graph, cluster, answer.plan.job), answer.plan.prediction.step_time_s
    fixed, best = (objective or Objective()).fixed, answer.plan
    for plan in plans:
        plan = replace(plan, made_from=answer.plan.made_from)
        if violations(plan, layers=len(graph.layers), cluster=cluster):
            continue
        for one in (plan, *islice(shared_rows(plan, kinds_of(plan, cluster), fixed), SHARES)):
            step_s = step_seconds(at, one, best_s * (1.0 - WORTH))
            if math.isfinite(step_s):
                best, best_s = one, step_s
    return answer if best is answer.plan else _joined(answer, best, at, cluster)


def kinds_of(plan: Plan, cluster: Cluster) -> list[tuple[str, ...]]:
    """For each replica of a stage the device types that its ranks lie on, stage by stage of the pipeline."""
    names = {group.name: group.device.name for group in cluster.groups}
    on = [names[place.node.rpartition("/")[0]] for place in plan.ranks]
    found: list[tuple[str, ...]] = []
    for index in range(plan.stages[0].data):
        ranks = (rank for stage in plan.stages for rank in stage.replicas[index].ranks)
        found.append(tuple(dict.fromkeys(on[rank] for rank in ranks)))
    return found


def shared_rows(plan: Plan, kinds: Sequence[tuple[str, ...]], fixed: Mapping[str, object]) -> Iterator[Plan]:
    """The plan with every share of the rows between its replicas on unlike devices; those on like ones have as many.

    Args:
        plan: whose replicas have equal rows.
        kinds: for each replica what it lies on.
        fixed: degrees that the user decided.
    """
    counts = Counter(kinds)
    if len(counts) < 2 or "micro_batch_rows" in fixed:
        return
    batch = plan.job.global_batch
    for micro_batches in sorted(divisors(batch), key=lambda m: abs(math.log(m / plan.micro_batches))):
        for rows in _shares(batch // micro_batches, list(counts.values())):
            share = dict(zip(counts, rows, strict=True))
            yield _with_rows(plan, micro_batches, [share[kind] for kind in kinds])


def _shares(rows: int, counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Rows of one replica of each kind, at least one, of which all replicas together have so many."""
    first, *others = counts
    if not others:
        if rows % first == 0 and 1 <= rows // first <= MOST_ROWS:
            yield (rows // first,)
        return
    for own in range(1, min(MOST_ROWS, rows // first) + 1):
        for more in _shares(rows - own * first, others):
            yield (own, *more)


def _with_rows(plan: Plan, micro_batches: int, rows: Sequence[int]) -> Plan:
    stages = (
        replace(
            stage,
            replicas=tuple(replace(r, micro_batch_rows=n) for r, n in zip(stage.replicas, rows, strict=True)),
        )
        for stage in plan.stages
    )
    return replace(plan, micro_batches=micro_batches, stages=tuple(stages))


def _joined(answer: Answer, best: Plan, at: ByStage, cluster: Cluster) -> Answer:
    assert answer.plan.prediction is not None
    best = replace(best, prediction=predict_priced(at, best))
    assert best.prediction is not None
    rows = {
        " and ".join(kind): replica.micro_batch_rows
        for kind, replica in zip(kinds_of(best, cluster), best.stages[0].replicas, strict=True)
    }
    shares = ", ".join(f"{count} on {kind}" for kind, count in rows.items())
    less_s = answer.plan.prediction.step_time_s - best.prediction.step_time_s
    because = (
        f"Stages span device types, with rows of a micro-batch for each replica: {shares}. A step takes "
        f"{format_seconds(less_s)} less than that of the best plan whose stages lie on one type each, "
        f"{less_s / answer.plan.prediction.step_time_s:.1%}."
    )
    return outside(answer, best, because, "whose stages lie on one type each")
