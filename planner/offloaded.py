"""The plan of a split whose layers are dealt so that its fullest device holds least, and what offload makes of it.

No engine offloads yet, so such a plan is priced as the explored ones are (nebula.planner.explore).
"""

from __future__ import annotations

from dataclasses import replace

from nebula.plan.job import OFFLOAD
from nebula.plan.layout import uniform_stages
from nebula.plan.values import MadeFrom, Plan
from nebula.planner.engines import engine_of
from nebula.planner.pool import places
from nebula.planner.price import Prices
from nebula.planner.space import Split

SCHEDULE = "1f1b"

SLACK = 1e-9
"""Deals within this share of the least full one are as good."""


def leanest_plan(prices: Prices, split: Split) -> Plan:
    """The plan of a split whose fullest device holds least, without its prediction.

    Raises:
        BadInput: the tensor degree does not divide what it has to cut.
    """
    return unpriced_plan(prices, split, prices.leanest_deals(split).boundaries(split.pipeline, SLACK))


def unpriced_plan(prices: Prices, split: Split, boundaries: tuple[int, ...]) -> Plan:
    """The plan of a split and its boundaries, without its prediction."""
    pricing, cluster = prices.pricing, prices.pricing.cluster
    return Plan(
        stages=uniform_stages(
            boundaries=boundaries,
            data=split.data,
            tensor=split.tensor,
            sharding=split.sharding,
            micro_batch_rows=split.rows,
            recompute=split.recompute,
        ),
        micro_batches=split.micro_batches(prices.job),
        schedule=SCHEDULE,
        engine=engine_of(split),
        ranks=places(cluster, prices.pool.devices[: split.ranks]),
        job=prices.job,
        made_from=MadeFrom(model=pricing.graph.name, model_hash="", cluster=cluster.name, cluster_hash=""),
    )


def offload_that_fits(prices: Prices, split: Split) -> str:
    """The least that a split has to offload to fit, one of OFFLOAD; empty where nothing does.

    Raises:
        BadInput: the tensor degree does not divide what it has to cut.
    """
    from nebula.cost_model.evaluate import plan_pricing
    from nebula.cost_model.executed import plan_memory

    plan, pricing = leanest_plan(prices, split), prices.pricing
    at = plan_pricing(pricing.graph, pricing.cluster, plan)
    for offload in OFFLOAD[1:]:
        offloaded = replace(plan, stages=tuple(replace(stage, offload=offload) for stage in plan.stages))
        if all(held.share <= 1.0 for held in plan_memory(at, offloaded)):
            return offload
    return ""


def offload_words(prices: Prices, split: Split) -> str:
    """The same as a remedy; empty where there is none."""
    offload = offload_that_fits(prices, split)
    return (
        f"offload {offload} would do, which `nebula plan --explore objective.allow=[offload]` prices" if offload else ""
    )
