"""What to do when the cluster changed: a plan for what is left, chosen by the steps it gets done until the next change.

Getting there counts: a plan that is faster and moves more state is taken where it has caught up by then. Plans near the
old one are tried first; further searches need patience. What does not depend on the lost node is kept in a Replanner.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property

from nebula.cluster.identity import cluster_hash
from nebula.cluster.places import exclude
from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import Pricing, beyond_fleet, evaluate
from nebula.cost_model.many import Many
from nebula.errors import BadInput, Infeasible
from nebula.graph.identity import graph_hash
from nebula.graph.values import DistributedGraph
from nebula.plan.conditions import Reliability
from nebula.plan.job import Objective
from nebula.plan.layout import uniform_stages
from nebula.plan.values import PRECISION_DTYPE, MadeFrom, Plan, Prediction, RankPlace
from nebula.planner.engines import engine_of
from nebula.planner.holdings import NOWHERE
from nebula.planner.keep import kept_order, substituted
from nebula.planner.moves import Left, layer_sizes
from nebula.planner.near import SCHEDULE, Dealt, Near, split_of
from nebula.planner.options import Option, Replanned, answer, fits, step_s
from nebula.planner.pool import Pool, equal_devices, places
from nebula.planner.search import Progress, search
from nebula.planner.survivors import survivors

SHAPES = 5
"""Ways of running that are improved, placed and priced exactly."""

FASTEST, NEAREST = 4, 2
"""The fastest plans of all, and the first of the nearest, for which it is worked out what moves."""

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
        self.sizes = layer_sizes(self.pricing.chains, plan)
        self.step_before_s = self._step_s()
        self._many: Many | None = None

    def warm(self) -> Replanner:
        """Cuts the model and prices runs of layers for all plans near this one, so that the first answer is fast."""
        near = _Change(self, self.cluster).near
        for dealt in (*near.first(), *near.best(SHAPES)):
            near.improved(dealt)
        return self

    def replan(self, changed: Cluster, *, patience_s: float = 0.0) -> Replanned:
        """The plan for a changed cluster; arguments and errors as of the function replan."""
        began_s = self.clock()
        change = _Change(self, exclude(changed, self.objective.exclude))
        if not change.lost and changed == self.cluster and self._is_home(changed):
            options, looked = [change.stay()], "kept"
        else:
            options, looked = change.options(lambda: patience_s - (self.clock() - began_s))
        options = sorted(options, key=lambda option: option.rank)
        offered = len(change.pool.devices)
        return Replanned(
            plan=answer(options, self.plan, self.step_before_s, change.lost, offered),
            options=tuple(options),
            step_before_s=self.step_before_s,
            lost=change.lost,
            survivors=survivors(self.plan, change.left.found),
            looked=looked,
            seconds=self.clock() - began_s,
        )

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

    def pricing_of(self, changed: Cluster) -> Pricing:
        """Prices on a changed cluster: the same where nodes were excluded and nothing else is new."""
        if _offered(changed) == _offered(self.cluster):
            return self.pricing
        fresh = Pricing(self.graph, changed, self.plan.job)
        known = {group.device.name: group.device for group in self.cluster.groups}
        if all(known.get(group.device.name, group.device) == group.device for group in changed.groups):
            fresh.chains = self.pricing.chains
        return fresh


class _Change:
    """One changed cluster: what is left of the plan there, and what might be done."""

    def __init__(self, kept: Replanner, changed: Cluster) -> None:
        self.kept, self.changed, self.plan = kept, changed, kept.plan
        self.left = Left(kept.plan, changed, kept.sizes, kept.reliability)
        gone = (self.left.found == NOWHERE).nonzero()[0].tolist()
        self.lost = tuple(dict.fromkeys(kept.plan.ranks[rank].node for rank in gone))
        self.pricing = kept.pricing_of(changed)

    @cached_property
    def pool(self) -> Pool:
        """The devices that may be used."""
        return equal_devices(self.changed, PRECISION_DTYPE[self.plan.job.precision])

    @cached_property
    def near(self) -> Near:
        """The neighbourhood of the plan."""
        many = self.kept.many_of(self.pricing, self.pool.devices)
        return Near(many, self.pool, self.plan, self.kept.objective.fixed)

    def options(self, left_s: Callable[[], float]) -> tuple[list[Option], str]:
        """What might be done, and how far was looked; `left_s` tells how much patience is left.

        Raises:
            Infeasible: nothing fits.
        """
        found, looked = self._fitting(self._nearest()), "near"
        fixed = self.kept.objective.fixed
        if left_s() > 0 and "tensor" not in fixed:
            one = {**fixed, "tensor": self.plan.stages[0].tensor}
            found += self._searched(replace(self.kept.objective, fixed=one), left_s)
            looked = "tensor"
        if left_s() > 0 or not found:
            found += self._searched(self.kept.objective, left_s if found else lambda: 1.0)
            looked = "all"
        return self._reached(found), looked

    def _fitting(self, plans: Iterable[Plan]) -> list[Plan]:
        """Plans with their exact predictions, those that fit into memory."""
        priced = [replace(plan, prediction=self._predict(plan)) for plan in plans]
        return [plan for plan in priced if fits(plan)]

    def _reached(self, plans: list[Plan]) -> list[Option]:
        """The fastest plans with the way to each, and the first of all plans, which are near by how they are made."""
        fastest = sorted(range(len(plans)), key=lambda index: step_s(plans[index]))
        chosen = dict.fromkeys([*fastest[:FASTEST], *range(min(NEAREST, len(plans)))])
        return [self.option(plans[index]) for index in chosen]

    def _nearest(self) -> Iterator[Plan]:
        """The plan itself, or with idle devices in the place of lost ones, and its neighbourhood: the nearest first."""
        here = replace(self.plan, made_from=self._made_from, prediction=None, because="", runner_up=None, bound_s=0.0)
        if self.near.allows(here):
            filled = substituted(here, self.left.found, self.changed, self.pool.devices)
            yield from filled if self.lost else (here,)
        for dealt in self.near.first():
            yield self._kept(self._placed(dealt))
        for dealt in map(self.near.improved, self.near.best(SHAPES)):
            plan = self._placed(dealt)
            yield from (plan, self._kept(plan))

    def _placed(self, dealt: Dealt) -> Plan:
        """A way with its boundaries, on devices in the order of the pool, in which they lie best."""
        way = dealt.way
        stages = uniform_stages(
            boundaries=dealt.boundaries,
            data=way.data,
            tensor=way.tensor,
            sharding=way.sharding,
            micro_batch_rows=way.rows,
            recompute=way.recompute,
        )
        return Plan(
            stages=stages,
            micro_batches=self.plan.job.global_batch // (way.data * way.rows),
            schedule=SCHEDULE,
            engine=engine_of(split_of(way)),
            ranks=self._every[: way.ranks],
            job=self.plan.job,
            made_from=self._made_from,
        )

    def _kept(self, plan: Plan) -> Plan:
        """The plan on the devices that hold most of its state."""
        order = kept_order(self.plan, self.left.found, plan.stages, self.pool.devices, self.kept.sizes)
        return replace(plan, ranks=tuple(map(self._place.__getitem__, order)))

    @cached_property
    def _every(self) -> tuple[RankPlace, ...]:
        return places(self.changed, self.pool.devices)

    @cached_property
    def _place(self) -> dict[int, RankPlace]:
        return dict(zip(self.pool.devices, self._every, strict=True))

    def _searched(self, objective: Objective, left_s: Callable[[], float]) -> list[Plan]:
        """The best plans of a search, as far as there is patience for it.

        Raises:
            Infeasible: nothing fits; where the tensor degree was fixed only for speed, that says nothing.
        """

        def check(_: Progress) -> None:
            if left_s() <= 0:
                raise _OutOfPatience

        try:
            found = search(self.kept.graph, self.changed, self.plan.job, objective, on_progress=check)
        except (_OutOfPatience, BadInput):
            return []
        except Infeasible:
            if objective.fixed == self.kept.objective.fixed:
                raise
            return []
        return self._fitting(plan for each in found.candidates[:SHAPES] for plan in (each, self._kept(each)))

    def option(self, plan: Plan) -> Option:
        """A plan that is priced, and the way to it."""
        return Option(plan=plan, moves=self.left.moves(plan), horizon_s=self.kept.horizon_s)

    def stay(self) -> Option:
        """The plan as it is."""
        return self.option(replace(self.plan, prediction=self._predict(self.plan)))

    def _predict(self, plan: Plan) -> Prediction:
        if beyond_fleet(plan):
            return evaluate(self.kept.graph, self.changed, plan)
        return self.pricing.predict(plan)

    @cached_property
    def _made_from(self) -> MadeFrom:
        return MadeFrom(
            model=self.kept.graph.name,
            model_hash=self.kept.model_hash,
            cluster=self.changed.name,
            cluster_hash=cluster_hash(self.changed),
        )


class _OutOfPatience(Exception):
    """A search took longer than it was given."""


def _check(plan: Plan, graph: DistributedGraph, model_hash: str, objective: Objective) -> None:
    """Refuses what cannot be re-planned."""
    made, layers = plan.made_from, plan.stages[-1].layers[1]
    if made.model_hash not in ("", model_hash):
        both = f"model {made.model} ({made.model_hash}), this one is {graph.name} ({model_hash})"
        raise BadInput(f"the plan was made for {both}; plan anew with `nebula plan`")
    if layers != len(graph.layers):
        raise BadInput(f"the plan holds {layers} layers, {graph.name} has {len(graph.layers)}; plan anew")
    if objective.minimise != "step_time":
        raise BadInput(f"objective.minimise={objective.minimise!r} cannot be re-planned for yet; use step_time")
    if objective.deadline_s or objective.budget:
        limit = "deadline" if objective.deadline_s else "budget"
        raise BadInput(f"objective.limits.{limit} cannot be re-planned for yet; leave it out")


def _offered(cluster: Cluster) -> Cluster:
    """The cluster with no node excluded: what prices depend on."""
    return replace(cluster, groups=tuple(replace(group, excluded=frozenset()) for group in cluster.groups))
