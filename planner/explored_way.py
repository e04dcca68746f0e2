"""The way of a plan that the explorer found: the inverse of nebula.planner.explore.plans.plan_of."""

from __future__ import annotations

from nebula.cluster.values import Cluster
from nebula.plan.job import RECOMPUTE
from nebula.plan.values import Plan
from nebula.planner.explore.pools import pools_of
from nebula.planner.explore.ways import ALL, FEWEST, Inner, Outer, Way


def explored_way(plan: Plan, cluster: Cluster, excluded: tuple[str, ...] = ()) -> Way:
    """The degrees of a plan of the explored space.

    Args:
        plan: whose stages lie on one type of device each.
        cluster: that it is for.
        excluded: nodes and groups that must not be used.

    Raises:
        BadInput: the cluster offers no device.
    """
    first, homes = plan.stages[0], plan.homes
    kinds = {group.name: group.device.name for group in cluster.groups}
    ranks = [plan.stages[own[0]].ranks[0] for own in homes]
    on = [kinds[plan.ranks[rank].node.rpartition("/")[0]] for rank in ranks]
    policy = recomputed_under(plan)
    all_alike = all(stage.recompute == policy and not stage.recompute_layers for stage in plan.stages)
    inner = Inner(
        tensor=first.tensor // first.context,
        context=first.context,
        expert=first.expert,
        rows=first.replicas[0].micro_batch_rows,
        recompute=policy,
        offload=first.offload,
        layers=ALL if all_alike else FEWEST,
        sequence=plan.sequence_parallel or first.tensor == first.context,
    )
    outer = Outer(
        data=first.data,
        stages=tuple(on.count(kind.name) for kind in pools_of(cluster, excluded).types),
        schedule=plan.schedule,
        chunks=len(plan.stages) // len(homes),
        sharding=first.sharding,
    )
    return Way(inner, outer)


def recomputed_under(plan: Plan) -> str:
    """The recompute policy of the stages that compute something again; `none` where none does."""
    return next((stage.recompute for stage in plan.stages if stage.recompute != RECOMPUTE[0]), RECOMPUTE[0])
