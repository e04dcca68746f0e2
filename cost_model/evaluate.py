"""What one plan costs: its step time by parts that sum to it, its memory per stage, its range and where it comes from.

Pure: no plan is changed, nothing is run. Plans that fleet runs are priced by fleet.py, others stage by stage; what that
takes is imported when the first such plan comes, so that searches of fleet's space start quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nebula.cluster.values import Cluster
from nebula.cost_model.fleet import Pricing
from nebula.graph.values import DistributedGraph
from nebula.plan.values import Plan, Prediction

if TYPE_CHECKING:
    from nebula.cost_model.by_stage import ByStage
    from nebula.cost_model.execution import Execution
    from nebula.cost_model.simulate import Timeline


def evaluate(graph: DistributedGraph, cluster: Cluster, plan: Plan, execution: Execution | None = None) -> Prediction:
    """Predicts one training step of a plan.

    Args:
        graph: the model.
        cluster: what it is trained on.
        plan: how.
        execution: what the software does; None: fleet's way, and for plans that fleet cannot run (virtual stages,
            context and expert parallelism) what PaddlePaddle does elsewhere.

    Raises:
        BadInput: the plan does not fit the graph or the cluster.
    """
    if execution is None and not beyond_fleet(plan):
        return Pricing(graph, cluster, plan.job).predict(plan)
    from nebula.cost_model.executed import predict_executed, predict_priced

    if execution is not None:
        return predict_executed(graph, cluster, plan, execution)
    return predict_priced(plan_pricing(graph, cluster, plan), plan)


def plan_pricing(graph: DistributedGraph, cluster: Cluster, plan: Plan) -> ByStage:
    """What prices a plan beyond fleet: how PaddlePaddle carries it out, each stage under its recompute policy."""
    from nebula.cost_model.by_stage import ByStage
    from nebula.cost_model.eager import paddle_execution
    from nebula.cost_model.step import StepPricing

    policies = dict.fromkeys(policy for stage in plan.stages for policy, *_ in stage.policy_runs)
    return ByStage(
        {policy: StepPricing(graph, cluster, paddle_execution(plan.job, cluster, policy)) for policy in policies}
    )


def beyond_fleet(plan: Plan) -> bool:
    """Whether fleet's price is not its own.

    Where the executor runs it, or where it has several stages on a device, another schedule, context, experts or
    offload. Replicas of one stage with unlike numbers of ranks have fleet's price, since no other knows them, and so
    have sharding stages 2 and 3, which the executor leaves to fleet.
    """
    several = len(plan.homes) < len(plan.stages)
    inner = any(stage.context > 1 or stage.expert > 1 or stage.offload != "none" for stage in plan.stages)
    even = all(len({len(r.ranks) for r in stage.replicas}) == 1 for stage in plan.stages)
    executor = plan.engine == "executor" and even and all(stage.sharding.stage < 2 for stage in plan.stages)
    return executor or several or inner or plan.schedule not in ("1f1b", "fthenb")


def predicted_timeline(graph: DistributedGraph, cluster: Cluster, plan: Plan) -> Timeline:
    """Every forward, backward, send, synchronization and update of one predicted step, stage by stage."""
    if not beyond_fleet(plan):
        return Pricing(graph, cluster, plan.job).timeline(plan)
    from nebula.cost_model.executed import executed_timeline

    return executed_timeline(plan_pricing(graph, cluster, plan), plan)
