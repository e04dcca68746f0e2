"""What to do when the cluster changed: a plan for what is left, chosen by the steps it gets done until the next change.

Getting there counts: a plan that is faster and moves more state is taken where it has caught up by then. Plans near the
old one are tried first; further searches need patience. What does not depend on the lost node is kept in a Replanner.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from nebula.cluster.identity import cluster_hash
from nebula.cluster.places import exclude
from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import beyond_fleet, evaluate
from nebula.cost_model.fleet import Pricing
from nebula.cost_model.many import Many
from nebula.errors import BadInput, Infeasible, closest
from nebula.graph.identity import graph_hash
from nebula.graph.values import DistributedGraph
from nebula.plan.conditions import Reliability
from nebula.plan.job import FIXABLE, Objective
from nebula.plan.values import Plan, RankPlace
from nebula.planner.change import Change
from nebula.planner.moves import plan_sizes
from nebula.planner.options import Option, Replanned, reason
from nebula.planner.pool import places
from nebula.planner.survivors import survivors

DAY_S = 86400.0


def replan(
    graph: DistributedGraph,
    plan: Plan,
    changed: Cluster,
    *,
    before: Cluster | None = None,
    objective: Objective | None = None,
    reliability: Reliability | None = None,
    patience_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Replanned:
    """The plan for a cluster that changed; a Replanner that is kept answers faster.

    Args:
        graph: the model.
        plan: that runs, or ran.
        changed: the cluster as it is now; nodes that were lost are excluded or not in it.
        before: the cluster that the plan runs on; None: the changed one with all of its nodes, and healthy.
        objective: fixed degrees and further nodes to leave out.
        reliability: how long a repair takes (over that time options are judged), and the rate of the storage.
        patience_s: about how long further searches may take, first among plans of the same tensor degree, then among
            all; 0: there are none, unless nothing near the old plan fits.
        clock: seconds.

    Raises:
        BadInput: the plan is not of this model, or the objective cannot be re-planned for.
        Infeasible: nothing fits on what is left.
    """
    home = before or healthy(changed)
    kept = Replanner(graph, home, plan, objective=objective, reliability=reliability, clock=clock)
    return kept.replan(changed, patience_s=patience_s)


def healthy(cluster: Cluster) -> Cluster:
    """The cluster with all of its nodes, none of them slow."""
    return replace(cluster, groups=tuple(replace(g, excluded=frozenset(), slow=()) for g in cluster.groups))


class Replanner:
    """Re-plans one plan as often as its cluster changes; what does not depend on the lost node is worked out once.

    Arguments and errors are those of replan; `cluster` is what the plan runs on.
    """

    def __init__(
        self,
        graph: DistributedGraph,
        cluster: Cluster,
        plan: Plan,
        *,
        objective: Objective | None = None,
        reliability: Reliability | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.graph, self.cluster, self.plan, self.clock = graph, cluster, plan, clock
        self.objective, self.reliability = objective or Objective(), reliability or Reliability()
        self.model_hash = graph_hash(graph)
        _check(plan, graph, self.model_hash, self.objective)
        self.horizon_s = self.reliability.repair_s or DAY_S
        self.pricing = Pricing(graph, cluster, plan.job)
        self.sizes = plan_sizes(self.pricing.chains, plan)
        self.step_before_s = self._step_s()
        self._many: Many | None = None
        self._places: dict[int, RankPlace] = {}

    def warm(self) -> Replanner:
        """Rehearses the loss of a node, so that the model is cut and runs of layers are priced when one is lost."""
        # a cluster of one node has nothing to go on with, nor has one that is full
        with suppress(BadInput, Infeasible):
            self.replan(exclude(self.cluster, [self.plan.ranks[-1].node]))
        return self

    def replan(self, changed: Cluster, *, patience_s: float = 0.0) -> Replanned:
        """The plan for a changed cluster; arguments and errors as of the function replan."""
        began_s = self.clock()
        change = Change(self, exclude(changed, self.objective.exclude))
        if not change.lost and changed == self.cluster and self._is_home(changed):
            options, looked, plan = [change.stay()], "kept", self.plan
            plan = plan if plan.prediction else options[0].plan
        else:
            options, looked = change.options(lambda: patience_s - (self.clock() - began_s))
            options.sort(key=lambda option: option.rank)
            because = reason(options, self.plan, self.step_before_s, change.lost, len(change.pool.devices))
            plan = replace(options[0].plan, because=because)
        return Replanned(
            plan=plan,
            options=tuple(options),
            step_before_s=self.step_before_s,
            lost=change.lost,
            survivors=survivors(self.plan, change.left.found),
            looked=looked,
            seconds=self.clock() - began_s,
        )

    def near(self, changed: Cluster) -> tuple[Option, ...]:
        """What might be done on a changed cluster without any search, best first; empty when nothing near fits."""
        change = Change(self, exclude(changed, self.objective.exclude))
        return tuple(sorted(change.near_options(), key=lambda option: option.rank))

    def _is_home(self, cluster: Cluster) -> bool:
        return self.plan.made_from.cluster_hash in ("", cluster_hash(cluster))

    def _step_s(self) -> float:
        if self.plan.prediction:
            return self.plan.prediction.step_time_s
        if beyond_fleet(self.plan):
            return evaluate(self.graph, self.cluster, self.plan).step_time_s
        return self.pricing.predict(self.plan).step_time_s

    def many_of(self, pricing: Pricing, devices: tuple[int, ...]) -> Many:
        """Prices of many candidates on some devices; tables are kept for as long as the pricing stays."""
        if self._many is None or self._many.pricing is not pricing:
            self._many = Many(pricing, devices)
        return self._many.on(devices)

    def places_of(self, pricing: Pricing, changed: Cluster, devices: tuple[int, ...]) -> tuple[RankPlace, ...]:
        """Where devices are; those of the cluster that the plan runs on are named once."""
        if pricing is not self.pricing:
            return places(changed, devices)
        if not self._places:
            every = range(self.cluster.device_count)
            self._places = dict(zip(every, places(self.cluster, every), strict=True))
        return tuple(map(self._places.__getitem__, devices))

    def pricing_of(self, changed: Cluster) -> Pricing:
        """Prices on a changed cluster: the same where nodes were excluded and nothing else is new."""
        if _offered(changed) == _offered(self.cluster):
            return self.pricing
        fresh = Pricing(self.graph, changed, self.plan.job)
        known = {group.device.name: group.device for group in self.cluster.groups}
        if all(known.get(group.device.name, group.device) == group.device for group in changed.groups):
            fresh.chains = self.pricing.chains
        return fresh


def _check(plan: Plan, graph: DistributedGraph, model_hash: str, objective: Objective) -> None:
    """Refuses what cannot be re-planned."""
    made, layers = plan.made_from, plan.stages[-1].layers[1]
    if made.model_hash not in ("", model_hash):
        both = f"model {made.model} ({made.model_hash}), this one is {graph.name} ({model_hash})"
        raise BadInput(f"the plan was made for {both}; plan anew with `nebula plan`")
    if layers != len(graph.layers):
        raise BadInput(f"the plan holds {layers} layers, {graph.name} has {len(graph.layers)}; plan anew")
    for name in objective.fixed:
        if name not in FIXABLE:
            raise BadInput(f"objective.fixed: {name!r} is no degree; {closest(name, FIXABLE)}")
    if objective.minimise != "step_time":
        raise BadInput(f"objective.minimise={objective.minimise!r} cannot be re-planned for yet; use step_time")
    if objective.deadline_s or objective.budget:
        limit = "deadline" if objective.deadline_s else "budget"
        raise BadInput(f"objective.limits.{limit} cannot be re-planned for yet; leave it out")


def _offered(cluster: Cluster) -> Cluster:
    """The cluster with no node excluded: what prices depend on."""
    return replace(cluster, groups=tuple(replace(group, excluded=frozenset()) for group in cluster.groups))
