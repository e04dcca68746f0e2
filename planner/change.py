"""One changed cluster: what is left of a plan there, what might be done about it, and what each of it costs.

Shares with the other changes of a plan what nebula.planner.replan.Replanner keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from nebula.cluster.identity import cluster_hash
from nebula.cluster.places import exclude, usable_devices
from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import beyond_fleet, evaluate
from nebula.errors import BadInput, Infeasible
from nebula.plan.job import Objective
from nebula.plan.laws import wan
from nebula.plan.layout import uniform_stages
from nebula.plan.legality import Case
from nebula.plan.values import PRECISION_DTYPE, MadeFrom, Plan, Prediction, RankPlace
from nebula.planner.by_engine import Asked, planned
from nebula.planner.engines import engine_of
from nebula.planner.holdings import NOWHERE
from nebula.planner.keep import kept_order, substituted
from nebula.planner.moves import Left
from nebula.planner.near import SCHEDULE, Dealt, Near, split_of
from nebula.planner.options import Option, fits, step_s
from nebula.planner.pool import Pool, equal_devices
from nebula.planner.search import Progress, search

if TYPE_CHECKING:
    from nebula.planner.replan import Replanner

SHAPES = 3
"""Ways of running that are improved, placed and priced exactly."""

MOST = 5
"""Plans of a search that are placed and priced anew."""

FASTEST, NEAREST = 3, 2
"""The fastest plans of all, and the first of the nearest, for which it is worked out what moves."""


class Change:
    """One changed cluster.

    Args:
        kept: of the plan.
        changed: the cluster as it is now.

    Attributes:
        left: what is left of the plan.
        lost: nodes of the plan that are not there.
    """

    def __init__(self, kept: Replanner, changed: Cluster) -> None:
        self.kept, self.changed, self.plan = kept, changed, kept.plan
        self.left = Left(kept.plan, changed, kept.sizes, kept.reliability)
        gone = (self.left.found == NOWHERE).nonzero()[0].tolist()
        self.lost = tuple(dict.fromkeys(kept.plan.ranks[rank].node for rank in gone))
        self.pricing = kept.pricing_of(changed)

    @cached_property
    def own(self) -> Cluster:
        """The cluster without devices of other types than the plan uses, as long as there are any of those."""
        groups = {place.node.rpartition("/")[0] for place in self.plan.ranks}
        types = {group.device.name for group in self.kept.cluster.groups if group.name in groups}
        others = {group.name for group in self.changed.groups if group.device.name not in types}
        rest = exclude(self.changed, others)
        return rest if usable_devices(rest) else self.changed

    @cached_property
    def pool(self) -> Pool:
        """The devices that plans near this one may use."""
        return self._pool(self.own)

    def _pool(self, cluster: Cluster) -> Pool:
        return equal_devices(cluster, PRECISION_DTYPE[self.plan.job.precision])

    @property
    def _dealt(self) -> bool:
        """Whether sequences or experts are shared by ranks of the plan."""
        return any(stage.context > 1 or stage.expert > 1 for stage in self.plan.stages)

    @property
    def _of_executor(self) -> bool:
        """Whether fleet runs nothing near the plan: one that shares them, or has stages on several types of device."""
        groups = {place.node.rpartition("/")[0] for place in self.plan.ranks}
        types = {group.device.name for group in self.kept.cluster.groups if group.name in groups}
        return self._dealt or (self.plan.engine == "executor" and len(types) > 1)

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
        asked = self.kept.objective
        if left_s() > 0 and "tensor" not in asked.fixed:
            same = replace(asked, fixed={**asked.fixed, "tensor": self.plan.stages[0].tensor})
            found += self._searched(self.own, same, left_s)
            looked = "tensor"
        if left_s() > 0 or not found:
            enough = left_s if found else lambda: 1.0
            found += self._searched(self.own, asked, enough)
            found += [] if self.own == self.changed else self._searched(self.changed, asked, enough)
            looked = "all"
        # nothing fits, and a search says by how much and what would help
        found = found or self._answered(self.changed, asked)
        return self._reached(found), looked

    def near_options(self) -> list[Option]:
        """What might be done without any search; empty when nothing near the plan fits."""
        found = self._fitting(self._nearest())
        return self._reached(found) if found else []

    def _fitting(self, plans: Iterable[Plan]) -> list[Plan]:
        """Plans with their exact predictions, those that fit into memory and keep close groups within a site."""
        priced = [replace(plan, prediction=self._predict(plan)) for plan in plans if self._within_sites(plan)]
        return [plan for plan in priced if fits(plan)]

    def _within_sites(self, plan: Plan) -> bool:
        """Whether no group crosses a WAN that must not."""
        return not any(wan(Case(plan=plan, layers=plan.stages[-1].layers[1], cluster=self.changed)))

    def _reached(self, plans: list[Plan]) -> list[Option]:
        """The fastest plans with the way to each, and the first of all plans, which are near by how they are made."""
        fastest = sorted(range(len(plans)), key=lambda index: step_s(plans[index]))
        chosen = dict.fromkeys([*fastest[:FASTEST], *range(min(NEAREST, len(plans)))])
        return [self.option(plans[index]) for index in chosen]

    def _nearest(self) -> Iterator[Plan]:
        """The plan itself, or with idle devices in the place of lost ones, and its neighbourhood: the nearest first."""
        here = replace(self.plan, made_from=self._made_from, prediction=None, because="", runner_up=None, bound_s=0.0)
        if self._of_executor:
            # its neighbourhood is what a search of that engine's space finds
            yield from substituted(here, self.left.found, self.changed, self.pool.devices) if self.lost else (here,)
            return
        if self.near.allows(here):
            filled = substituted(here, self.left.found, self.changed, self.pool.devices)
            yield from filled if self.lost else (here,)
        for dealt in self.near.first():
            yield self._kept(self._placed(dealt), self.pool)
        for dealt in map(self.near.improved, self.near.best(SHAPES)):
            plan = self._placed(dealt)
            yield from (plan, self._kept(plan, self.pool))

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

    def _kept(self, plan: Plan, pool: Pool) -> Plan:
        """The plan on those devices of a pool that hold most of its state."""
        order = kept_order(self.plan, self.left.found, plan.stages, pool.devices, self.kept.sizes)
        return replace(plan, ranks=self.kept.places_of(self.pricing, self.changed, order))

    @cached_property
    def _every(self) -> tuple[RankPlace, ...]:
        return self.kept.places_of(self.pricing, self.changed, self.pool.devices)

    def _searched(self, cluster: Cluster, objective: Objective, left_s: Callable[[], float]) -> list[Plan]:
        """The best plans of a search; none where it takes too long or nothing fits."""

        def check(_: Progress) -> None:
            if left_s() <= 0:
                raise _OutOfPatience

        try:
            return self._answered(cluster, objective, check)
        except (_OutOfPatience, BadInput, Infeasible):
            return []

    def _answered(
        self, cluster: Cluster, objective: Objective, on_progress: Callable[[Progress], None] | None = None
    ) -> list[Plan]:
        """The best plans of a search, as they are placed and on the devices that hold most of their state."""
        if self._of_executor:
            asked = Asked(
                graph=self.kept.graph,
                cluster=cluster,
                job=self.plan.job,
                objective=objective,
                token_wise=self.plan.sequence_parallel or self._dealt,
                on_progress=on_progress or (lambda _: None),
            )
            return self._fitting(planned(asked).candidates)
        found = search(self.kept.graph, cluster, self.plan.job, objective, on_progress=on_progress)
        pool = self._pool(cluster)
        return self._fitting(plan for each in found.candidates[:MOST] for plan in (each, self._kept(each, pool)))

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
