"""The plans that a search found with their ranks placed where a step is shortest, and the answer made of them.

A search prices splits with ranks in fleet's order on the devices as they stand in the cluster file. What another order
of axes or nodes can gain is seen here, for each of the best plans that could still become the best. The bound stays
that of the searched space; a plan that its placement brings below the bound is its own bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from nebula.cluster.values import Cluster
from nebula.cost_model.chain import Chains
from nebula.graph.values import DistributedGraph
from nebula.plan.job import Objective
from nebula.plan.values import Job, Plan
from nebula.planner.arrangements import Arrangements
from nebula.planner.explain import reason, runner_up
from nebula.planner.options import fits
from nebula.planner.placement import Placement, best_placement
from nebula.planner.placement import reason as placement_reason
from nebula.planner.price import Prices
from nebula.planner.scale import Rates, Scale, Scaled
from nebula.planner.search import Answer, Progress, search
from nebula.planner.space import Split
from nebula.planner.tree import NEVER

PLACED = 4
"""Plans of an answer whose ranks are placed: the best by what they take in fleet's order."""


def placed_search(
    graph: DistributedGraph,
    cluster: Cluster,
    job: Job,
    objective: Objective | None = None,
    *,
    chains: Chains | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    batches: tuple[int, ...] = (),
    scaled: Scaled | None = None,
    processes: int = 0,
    to_beat: float = NEVER,
) -> Answer:
    """The best plan for training a model on a cluster, ranks placed; arguments and errors as of `search`."""
    return search(
        graph,
        cluster,
        job,
        objective,
        chains=chains,
        on_progress=on_progress,
        settle=placed,
        batches=batches,
        scaled=scaled,
        processes=processes,
        to_beat=to_beat,
    )


def placed(answer: Answer, prices: Prices, scale: Scale) -> Answer:
    """The answer of a search with the ranks of its best plans placed."""
    pricing, devices = prices.pricing, prices.pool.devices
    ways = Arrangements(pricing.cluster, devices, pricing.fabric)
    placements: dict[int, Placement] = {}

    def score(plan: Plan) -> float:
        assert plan.prediction is not None
        return scale.exact(pricing.devices(plan), plan.prediction.step_time_s, plan.prediction.computing_s)

    best = float("inf")
    for index, plan in enumerate(answer.candidates[:PLACED]):
        if plan.world_size > 1 and _least(plan, scale.rates(plan.world_size)) < best:
            seconds = partial(prices.step_seconds, *split_and_boundaries(plan))
            placements[index] = best_placement(plan, ways, pricing.predict, seconds)
            best = min(best, score(placements[index].plan))
    if not placements:
        return answer
    return _answer(answer, placements, pricing.cluster, len(devices), score, by_devices=scale.by_devices)


def split_and_boundaries(plan: Plan) -> tuple[Split, tuple[int, ...]]:
    """The split of a plan that fleet runs, and the first layer of each stage and the number of layers."""
    first = plan.stages[0]
    split = Split(
        data=first.data,
        tensor=first.tensor,
        pipeline=len(plan.stages),
        rows=first.replicas[0].micro_batch_rows,
        sharding=first.sharding,
        recompute=first.recompute,
    )
    return split, (*(stage.layers[0] for stage in plan.stages), plan.stages[-1].layers[1])


def _answer(
    answer: Answer,
    placements: dict[int, Placement],
    cluster: Cluster,
    offered: int,
    score: Callable[[Plan], float],
    *,
    by_devices: bool,
) -> Answer:
    """The answer with those of its candidates replaced that a placement made faster, and better by the score."""
    better = {
        index: placement.plan
        for index, placement in placements.items()
        if fits(placement.plan) and score(placement.plan) < score(answer.candidates[index]) * (1.0 - 1e-9)
    }
    plans = [better.get(index, plan) for index, plan in enumerate(answer.candidates)]
    scores = list(map(score, plans))
    order = sorted(range(len(plans)), key=scores.__getitem__)
    ranked = [plans[index] for index in order]
    told = placements.get(order[0])
    words = ""
    if told is not None and (order[0] in better or told.crossing):
        words = " " + placement_reason(told, cluster)
    bound = answer.bound_s / _seconds(answer.candidates[0]) * score(answer.candidates[0])
    best = replace(
        ranked[0],
        because=(reason(ranked, offered, by_devices=by_devices) if better else answer.plan.because) + words,
        runner_up=runner_up(ranked[0], ranked[1]) if len(ranked) > 1 else None,
        bound_s=_seconds(ranked[0]) * min(1.0, bound / scores[order[0]]),
    )
    return replace(answer, plan=best, candidates=tuple(ranked), bound_s=best.bound_s)


def _seconds(plan: Plan) -> float:
    assert plan.prediction is not None
    return plan.prediction.step_time_s


def _least(plan: Plan, rates: Rates) -> float:
    """What the plan would come to if data parallelism and borders cost nothing: no placement comes below."""
    assert plan.prediction is not None
    parts = plan.prediction.parts
    step_s = plan.prediction.step_time_s - parts.data_communication_s - parts.pipeline_communication_s
    return rates.least(step_s, 0.0)
