"""What planning came to, be it a plan or the reason why there is none: a row of a sweep or of a scaling curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nebula.cluster.places import usable_devices
from nebula.cluster.values import Cluster
from nebula.cost_model.economy import Outlook, outlook
from nebula.errors import BadInput, Infeasible
from nebula.graph.values import DistributedGraph
from nebula.plan.conditions import Conditions
from nebula.plan.job import Objective
from nebula.plan.values import Job, Plan
from nebula.planner.by_engine import Asked, planned
from nebula.planner.search import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A plan with what it comes to, or why there is none.

    Attributes:
        devices: that were offered; 0 when not even the cluster could be used.
        plan: with its prediction; None when there is none.
        outlook: days and money of the plan; None without a plan.
        reason: why there is no plan, in a sentence; empty with a plan.
    """

    devices: int = 0
    plan: Plan | None = None
    outlook: Outlook | None = None
    reason: str = ""

    @property
    def step_time_s(self) -> float:
        """Of the plan; 0 without one."""
        return self.plan.prediction.step_time_s if self.plan and self.plan.prediction else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Of the plan; 0 without one."""
        return self.plan.prediction.tokens_per_s if self.plan and self.plan.prediction else 0.0

    @property
    def tokens_per_s_per_device(self) -> float:
        """Tokens per second over the devices that were offered, so that unused ones count; 0 without a plan."""
        return self.tokens_per_s / self.devices if self.devices else 0.0


def plan_outcome(
    graph: DistributedGraph,
    cluster: Cluster,
    job: Job,
    objective: Objective | None = None,
    *,
    conditions: Conditions | None = None,
    find: Callable[[DistributedGraph, Cluster, Job, Objective], Answer] | None = None,
    token_wise: bool = True,
) -> Outcome:
    """The best plan with its outlook, or why there is none; what a user can cause is no error here.

    Args:
        find: how plans are found; by default the best of any engine is.
        token_wise: of that search, as of nebula.planner.by_engine.Asked.
    """
    devices = len(usable_devices(cluster))
    try:
        wanted = objective or Objective()
        if find is None:
            asked = Asked(graph=graph, cluster=cluster, job=job, objective=wanted, token_wise=token_wise)
            plan = planned(asked).plan
        else:
            plan = find(graph, cluster, job, wanted).plan
        return Outcome(devices=devices, plan=plan, outlook=outlook(graph, cluster, plan, conditions))
    except (BadInput, Infeasible) as error:
        return Outcome(devices=devices, reason=first_sentence(error))


def first_sentence(error: BadInput | Infeasible) -> str:
    """An error without the line and the caret that stand below it."""
    return str(error).partition("\n")[0]
