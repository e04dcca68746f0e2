"""Which plan is best: best-first search over sets of splits by their lower bounds, and the answer with its proof.

A set is opened only while its lower bound is below the second best time found, so the answer and its runner-up are the
best of the whole space that tree.py spans, boundaries apart where too many deals of layers come near to try them all.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING

from nebula.cluster.identity import cluster_hash
from nebula.cluster.values import Cluster
from nebula.cost_model.chain import Chains
from nebula.errors import BadInput, Infeasible
from nebula.graph.identity import graph_hash
from nebula.graph.values import DistributedGraph
from nebula.plan.job import OFFLOAD, Objective
from nebula.plan.layout import uniform_stages
from nebula.plan.values import PRECISION_DTYPE, Job, MadeFrom, Plan, RankPlace
from nebula.planner.engines import engine_of
from nebula.planner.explain import reason, runner_up
from nebula.planner.fixed import check_fixed
from nebula.planner.infeasible import infeasible
from nebula.planner.pool import equal_devices, places
from nebula.planner.price import Prices
from nebula.planner.scale import AIM, Scale, Scaled, by_step_time
from nebula.planner.sites import no_site_holds
from nebula.planner.space import Limits, Split
from nebula.planner.tree import NEVER, Candidate, Node, Tree
from nebula.units import format_seconds

if TYPE_CHECKING:
    from nebula.planner.cuts import Cuts

MANY = 400
"""Tensor degrees, replicas and rows from which on there is much to do."""

LOOKED_AT = 200
"""Sets of least bound whose cuts may be made ahead."""

KEPT = 8
"""Candidates that an answer holds with their full prediction."""

INTERRUPTION, PATIENCE = "interruption", "patience"
"""What may end a search before its proof is complete."""

SCHEDULE = "1f1b"
"""Under which plans are priced."""

OF_FLEET: Mapping[str, int | str] = {
    "schedule": SCHEDULE,
    "sequence": 0,
    "context": 1,
    "expert": 1,
    "virtual_stages": 1,
}
"""Degrees that are the same in all plans that fleet runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a search found.

    Attributes:
        plan: the best plan, complete: prediction, reason, runner-up, bound.
        candidates: the best plans with their predictions, best first; the first is `plan` without its words.
        priced: how many splits were priced exactly.
        cut: by rule how many splits were left out (nebula.planner.space.RULES).
        seconds: how long the search took.
        bound_s: a step time that nothing in the space can beat.
        notes: what a reader should know: devices left out or unused.
        ended_by: what ended the search before its proof was complete, INTERRUPTION or PATIENCE; empty: nothing did.
    """

    plan: Plan
    candidates: tuple[Plan, ...]
    priced: int
    cut: dict[str, int]
    seconds: float
    bound_s: float
    notes: tuple[str, ...] = ()
    ended_by: str = ""

    @property
    def gap(self) -> float:
        """How far above the bound the plan is, as a share of the bound."""
        assert self.plan.prediction is not None
        return self.plan.prediction.step_time_s / self.bound_s - 1.0


Settle = Callable[[Answer, Prices, Scale], Answer]
"""Makes an answer of an answer, with the prices that led to it and the scale by which plans are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a search is: splits priced, best step time and bound so far."""

    priced: int
    best_s: float
    bound_s: float


Told = Callable[[Progress], None]
"""Who is told each time a candidate has been priced."""


def search(
    graph: DistributedGraph,
    cluster: Cluster,
    job: Job,
    objective: Objective | None = None,
    *,
    chains: Chains | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    settle: Settle | None = None,
    batches: tuple[int, ...] = (),
    scaled: Scaled | None = None,
    processes: int = 0,
    to_beat: float = NEVER,
) -> Answer:
    """The best plan for training a model on a cluster that fleet runs.

    Args:
        graph: the model.
        cluster: what may be used; of unlike devices the fastest set of equal ones.
        job: batch, precision, optimizer, memory to fill.
        objective: fixed degrees and nodes to leave out; by default the shortest step.
        chains: of the graph, whose blocks are cut already; further ones are cut there.
        on_progress: called each time a candidate has been priced.
        clock: seconds, for the time that the search reports.
        settle: looks at what was found again, within that time (nebula.planner.placed_answer).
        batches: rows of one step of other jobs that the split must be able to train as well.
        scaled: by what plans are compared; by default the step time. A bound_s of another scale is the step time with
            which a plan on as many devices as the answer's would come to the bound.
        processes: that cut the graph and search; 0: one for each core where there is much to do. The answer is the
            same with any number of them.
        to_beat: on the scale; plans that come to no less are not looked for, and one may be the answer nevertheless.

    Raises:
        BadInput: the objective or the cluster cannot be used.
        Infeasible: nothing fits into memory; the text says by how much and what would help.
    """
    objective = objective or Objective()
    check_objective(objective)
    for name, value in beyond_fleet(objective.fixed).items():
        raise BeyondFleet(f"objective.fixed.{name}={value!r}: fleet does not run that; the engine executor may")
    scaled, on_progress = scaled or by_step_time, on_progress or (lambda _: None)
    one = _Search(graph, cluster, job, objective, chains, on_progress, clock, batches, scaled, processes)
    one.asked_to_beat = to_beat
    answer = one.run()
    if settle is not None:
        try:
            answer = settle(answer, one.prices, one.scale)
        except KeyboardInterrupt:
            answer = replace(answer, ended_by=INTERRUPTION)
        answer = replace(answer, seconds=clock() - one.began_s)
    return answer


def check_objective(objective: Objective) -> None:
    """Refuses what a search does not heed, so that nothing asked for is silently left out."""
    if objective.minimise != AIM:
        raise BadInput(f"objective.minimise={objective.minimise!r} is for `nebula plan`; use {AIM} here")
    if objective.deadline_s:
        raise BadInput("objective.limits.deadline is for `nebula plan`; leave it out here")
    if objective.budget:
        raise BadInput("objective.limits.budget is for `nebula plan`; leave it out here")
    if objective.allow:
        raise BadInput(f"objective.allow={list(objective.allow)} is for `nebula plan --explore`; add --explore")
    if objective.fixed.get("offload", OFFLOAD[0]) != OFFLOAD[0]:
        asked = objective.fixed["offload"]
        raise BadInput(
            f"objective.fixed.offload={asked!r}: no engine runs it yet; look at it with `nebula plan --explore`"
        )


class BeyondFleet(BadInput):
    """A degree is fixed that no plan has which fleet runs."""


def beyond_fleet(fixed: Mapping[str, int | str]) -> dict[str, int | str]:
    """Those of fixed degrees that no plan has which fleet runs."""
    return {name: value for name, value in fixed.items() if OF_FLEET.get(name, value) != value}


class _Search:
    """One search: what was found, what waits, and the answer made of it."""

    def __init__(
        self,
        graph: DistributedGraph,
        cluster: Cluster,
        job: Job,
        objective: Objective,
        chains: Chains | None,
        on_progress: Callable[[Progress], None],
        clock: Callable[[], float],
        batches: tuple[int, ...],
        scaled: Scaled,
        processes: int,
    ) -> None:
        self.graph, self.cluster, self.job, self.processes = graph, cluster, job, processes
        self.on_progress, self.clock, self.began_s = on_progress, clock, clock()
        self.pool = equal_devices(cluster, PRECISION_DTYPE[job.precision], objective.exclude)
        self.limits = Limits(
            devices=len(self.pool.devices),
            devices_per_node=self.pool.devices_per_node,
            layers=len(graph.layers),
            fixed=objective.fixed,
            batches=batches,
        )
        self.prices = Prices(graph, cluster, job, self.pool, chains)
        kind = "emulated" if self.pool.device.emulated else self.pool.device.kind
        check_fixed(self.prices, self.limits, kind)
        self.scale = scaled(self.pool)
        self.tree = Tree(self.prices, self.limits, kind, self.scale, lambda: self.to_beat)
        self.found: dict[Split, Candidate] = {}
        self.to_beat, self.best, self.bound = NEVER, NEVER, NEVER
        self.asked_to_beat = self.cap = NEVER
        self._order = count()

    def run(self) -> Answer:
        """The answer; an interruption gives the best so far, with its gap.

        Raises:
            Infeasible: nothing fits.
        """
        heap = [(node.bound, next(self._order), node) for node in self.tree.roots()]
        heapq.heapify(heap)
        opened = least = heap[0][0] if heap else 0.0
        ended, cuts = "", None
        try:
            cuts = self._cut_ahead(heap)
            for candidate in self.tree.samples():
                self.note(candidate, least)
            self.cap, self.to_beat = self.asked_to_beat, min(self.to_beat, self.asked_to_beat)
            while heap and heap[0][0] < self.to_beat:
                opened, _, node = heapq.heappop(heap)
                for child in node.open():
                    if isinstance(child, Node):
                        self._keep(heap, child, max(child.bound, opened))
                    else:
                        self.bound = min(self.bound, max(child.bound, opened))
                        self.note(child, opened)
        except KeyboardInterrupt:
            if not self.found:
                raise
            ended = INTERRUPTION
            # what was being opened may hold better ones
            self.bound = min(self.bound, opened)
        finally:
            if cuts is not None:
                cuts.close()
        self.tree.cut["bound"] += sum(node.splits for _, _, node in heap)
        if not self.found:
            if refused := self.scale.refused(len(self.pool.devices)):
                raise Infeasible(refused)
            if self.tree.cut["wan"]:
                raise no_site_holds(self.cluster, self.pool.devices)
            if self.cap < NEVER:
                raise Infeasible(f"no plan of fleet that fits takes less than {format_seconds(self.cap)} a step")
            raise infeasible(self.prices, self.limits)
        answer = self.answer(min(self.best, self.bound, self.cap, *(bound for bound, _, _ in heap[:1])))
        return replace(answer, ended_by=ended)

    def _cut_ahead(self, heap: Sequence[tuple[float, int, Node]]) -> Cuts:
        """Others cut what samples and then the sets on the heap ask for."""
        wanted = [*self.tree.sampled(), *(node.cut for _, _, node in sorted(heap)[:LOOKED_AT] if node.cut)]
        # what is cut already need not be cut again
        much = len(heap) >= MANY and not self.prices.pricing.chains.cut
        return self.prices.cut_ahead(wanted, self.processes or (0 if much else 1))

    def _keep(self, heap: list[tuple[float, int, Node]], node: Node, bound: float) -> None:
        """Keeps a set to be opened later, unless what there is to beat rules it out already."""
        if bound < self.to_beat:
            heapq.heappush(heap, (bound, next(self._order), node))
        else:
            self.tree.cut["bound"] += node.splits

    def note(self, candidate: Candidate, bound: float) -> None:
        """Keeps a candidate that breaks no limit; others must beat the second best to be worth opening."""
        known = self.found.get(candidate.split)
        if candidate.score < (known.score if known else NEVER):
            self.found[candidate.split] = candidate
        if not self.found:
            return
        ranked = sorted(self.found.values(), key=lambda each: each.score)
        self.best, self.to_beat = ranked[0].score, min(self.cap, ranked[1].score if len(ranked) > 1 else NEVER)
        best_s = ranked[0].step_s
        shown_s = best_s * (bound / self.best)
        self.on_progress(Progress(priced=len(self.found), best_s=best_s, bound_s=shown_s))

    def answer(self, bound: float) -> Answer:
        """The plans of the best candidates, the first with its words."""
        ranked = sorted(self.found.values(), key=lambda candidate: candidate.rank)
        plans = [self.plan(candidate) for candidate in ranked[:KEPT]]
        best, second = plans[0], (runner_up(plans[0], plans[1]) if len(plans) > 1 else None)
        assert best.prediction is not None
        bound_s = best.prediction.step_time_s * min(1.0, bound / ranked[0].score)
        because = reason(plans, len(self.pool.devices), by_devices=self.scale.by_devices)
        return Answer(
            plan=replace(best, because=because, runner_up=second, bound_s=bound_s),
            candidates=tuple(plans),
            priced=len(self.found),
            cut={rule: number for rule, number in sorted(self.tree.cut.items()) if number},
            seconds=self.clock() - self.began_s,
            bound_s=bound_s,
            notes=(self.pool.left_out,) if self.pool.left_out else (),
        )

    def plan(self, candidate: Candidate) -> Plan:
        """The plan of a candidate, with its prediction."""
        split = candidate.split
        way, _ = self.prices.arranged(split)
        stages = uniform_stages(
            boundaries=candidate.boundaries,
            data=split.data,
            tensor=split.tensor,
            sharding=split.sharding,
            micro_batch_rows=split.rows,
            recompute=split.recompute,
            order=way.order,
        )
        plan = Plan(
            stages=stages,
            micro_batches=split.micro_batches(self.job),
            schedule=SCHEDULE,
            engine=engine_of(split),
            ranks=tuple(map(self.place_of.__getitem__, way.devices.tolist())),
            job=self.job,
            made_from=self.made_from,
        )
        return replace(plan, prediction=self.prices.pricing.predict(plan))

    @cached_property
    def place_of(self) -> dict[int, RankPlace]:
        """Where each device that may be used is."""
        return dict(zip(self.pool.devices, places(self.cluster, self.pool.devices), strict=True))

    @cached_property
    def made_from(self) -> MadeFrom:
        """Names and hashes of what the plans are made from."""
        return MadeFrom(
            model=self.graph.name,
            model_hash=graph_hash(self.graph),
            cluster=self.cluster.name,
            cluster_hash=cluster_hash(self.cluster),
        )
