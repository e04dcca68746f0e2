"""One changed cluster: what is left of a plan there, what might be done about it, and what each of it costs.

Shares with the other changes of a plan what nebula.planner.replan.Replanner keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from nebula.cluster.identity import cluster_hash
from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import beyond_fleet, evaluate
from nebula.errors import BadInput, Infeasible
from nebula.plan.job import Objective
from nebula.plan.layout import uniform_stages
from nebula.plan.values import PRECISION_DTYPE, MadeFrom, Plan, Prediction, RankPlace
from nebula.planner.engines import engine_of
from nebula.planner.holdings import NOWHERE
from nebula.planner.keep import kept_order, substituted
from nebula.planner.moves import Left
from nebula.planner.near import SCHEDULE, Dealt, Near, split_of
from nebula.planner.options import Option, fits, step_s
from nebula.planner.pool import Pool, equal_devices
from nebula.planner.search import Answer, Progress, search

if TYPE_CHECKING:
    from nebula.planner.replan import Replanner

SHAPES = 3
"""Ways of running that are improved, placed and priced exactly."""

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
        asked = self.kept.objective
        if left_s() > 0 and "tensor" not in asked.fixed:
            found += self._searched(replace(asked, fixed={**asked.fixed, "tensor": self.plan.stages[0].tensor}), left_s)
            looked = "tensor"
        if left_s() > 0:
            found += self._searched(asked, left_s)
            looked = "all"
        if not found:
            found, looked = self._answered(search(self.kept.graph, self.changed, self.plan.job, asked)), "all"
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
        return self.kept.places_of(self.pricing, self.changed, self.pool.devices)

    @cached_property
    def _place(self) -> dict[int, RankPlace]:
        return dict(zip(self.pool.devices, self._every, strict=True))

    def _searched(self, objective: Objective, left_s: Callable[[], float]) -> list[Plan]:
        """The best plans of a search; none where it takes too long or nothing fits."""

        def check(_: Progress) -> None:
            if left_s() <= 0:
                raise _OutOfPatience

        try:
            return self._answered(search(self.kept.graph, self.changed, self.plan.job, objective, on_progress=check))
        except (_OutOfPatience, BadInput, Infeasible):
            return []

    def _answered(self, found: Answer) -> list[Plan]:
        """The best plans of a search, as they are placed and on the devices that hold most of their state."""
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
