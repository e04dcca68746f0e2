"""Which plan is best: best-first search over splits by lower bounds, exact times for what remains, and a proof.

A candidate is opened only while its lower bound is below the second best time found, so the answer and its runner-up
are the best of the whole space that space.py describes, boundaries apart where there are too many to try them all.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from math import comb
from typing import NamedTuple

import numpy as np

from nebula.cluster.identity import cluster_hash
from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import PRECISION_DTYPE
from nebula.errors import BadInput
from nebula.graph.identity import graph_hash
from nebula.graph.values import DistributedGraph
from nebula.plan.job import Objective
from nebula.plan.layout import uniform_stages
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Sharding
from nebula.planner.engines import engine_of, runs
from nebula.planner.explain import reason, runner_up
from nebula.planner.infeasible import infeasible
from nebula.planner.pool import equal_devices, places
from nebula.planner.price import NOWHERE, Prices, SplitPrice
from nebula.planner.space import RECOMPUTE, Limits, Split, data_and_rows, policies, shardings, tensor_degrees
from nebula.planner.stages import Deals, every_deal, geometric_bound, moved

KEPT = 8
"""Candidates that an answer holds with their full prediction."""

ENUMERATED = 400
"""Up to so many ways to deal the layers, all are tried."""


class Candidate(NamedTuple):
    """A split with boundaries and its exact step time."""

    split: Split
    boundaries: tuple[int, ...]
    step_s: float


SLACKS = (1e-9, 3e-3)
"""How far above the least bound the deals may lie from which better ones are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a search found.

    Attributes:
        plan: the best plan, complete: prediction, reason, runner-up, bound.
        candidates: the best plans with their predictions, best first; the first is `plan` without its words.
        priced: how many splits were priced exactly.
        cut: by rule how many splits were left out.
        seconds: how long the search took.
        bound_s: a step time that nothing in the space can beat.
        notes: what a reader should know: devices left out or unused.
    """

    plan: Plan
    candidates: tuple[Plan, ...]
    priced: int
    cut: dict[str, int]
    seconds: float
    bound_s: float
    notes: tuple[str, ...] = ()

    @property
    def gap(self) -> float:
        """How far above the bound the plan is, as a share of the bound."""
        assert self.plan.prediction is not None
        return self.plan.prediction.step_time_s / self.bound_s - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a search is: splits priced, best step time (infinite before the first) and bound so far."""

    priced: int
    best_s: float
    bound_s: float


class _Node(NamedTuple):
    """A set of splits that is not opened yet: no split of it is faster than bound_s; open() gives smaller sets."""

    bound_s: float
    splits: int
    open: Callable[[], Iterator[_Node | Candidate]]


_Entry = tuple[float, int, _Node]


def search(
    graph: DistributedGraph,
    cluster: Cluster,
    job: Job,
    objective: Objective | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Answer:
    """The best plan for training a model on a cluster.

    Args:
        graph: the model.
        cluster: what may be used; of unlike devices the fastest set of equal ones.
        job: batch, precision, optimizer, memory to fill.
        objective: fixed degrees and nodes to leave out; by default the shortest step.
        on_progress: called each time a candidate has been priced.
        clock: seconds, for the time that the search reports.

    Raises:
        BadInput: the objective or the cluster cannot be used.
        Infeasible: nothing fits into memory; the text says by how much and what would help.
    """
    objective = objective or Objective()
    if objective.minimise != "step_time":
        raise BadInput(f"objective.minimise={objective.minimise!r} cannot be planned for yet; use step_time")
    return _Search(graph, cluster, job, objective, clock).run(on_progress or (lambda _: None))


class _Search:
    def __init__(
        self, graph: DistributedGraph, cluster: Cluster, job: Job, objective: Objective, clock: Callable[[], float]
    ) -> None:
        self.graph, self.cluster, self.job, self.clock = graph, cluster, job, clock
        self.began_s = clock()
        self.pool = equal_devices(cluster, PRECISION_DTYPE[job.precision], objective.exclude)
        self.limits = Limits(
            devices=len(self.pool.devices),
            devices_per_node=self.pool.devices_per_node,
            layers=len(graph.layers),
            fixed=objective.fixed,
        )
        self.device_kind = "emulated" if self.pool.device.emulated else self.pool.device.kind
        self.prices = Prices(graph, cluster, job, self.pool)
        self.cut: Counter[str] = Counter()
        self.found: list[Candidate] = []
        self.bounds_s: list[float] = []
        self.order = count()
        self.uncut: set[int] = set()

    def run(self, on_progress: Callable[[Progress], None]) -> Answer:
        heap = [(node.bound_s, next(self.order), node) for node in self.roots()]
        heapq.heapify(heap)
        while heap and heap[0][0] < self.to_beat_s():
            node: _Node | None = heapq.heappop(heap)[2]
            while node:
                node = self.opened(node, heap, on_progress)
        self.cut["bound"] += sum(node.splits for _, _, node in heap)
        if not self.found:
            raise infeasible(self.prices, self.limits)
        return self.answer(min([*self.bounds_s, *(bound for bound, _, _ in heap[:1])]))

    def opened(self, node: _Node, heap: list[_Entry], on_progress: Callable[[Progress], None]) -> _Node | None:
        """Opens a set: candidates are found, smaller sets wait on the heap.

        Returns:
            The most promising smaller set while there is nothing to beat yet, so that there soon is.
        """
        children = []
        for child in node.open():
            if isinstance(child, Candidate):
                self.found.append(child)
                self.found.sort(key=_rank)
                self.bounds_s.append(min(node.bound_s, child.step_s))
                on_progress(Progress(priced=len(self.found), best_s=self.found[0].step_s, bound_s=node.bound_s))
            else:
                children.append(child._replace(bound_s=max(child.bound_s, node.bound_s)))
        children.sort(key=lambda child: child.bound_s)
        dive = children.pop(0) if children and self.to_beat_s() == float("inf") else None
        for child in children:
            heapq.heappush(heap, (child.bound_s, next(self.order), child))
        return dive

    def to_beat_s(self) -> float:
        """The second best time: what a split must beat to be worth opening."""
        return self.found[1].step_s if len(self.found) > 1 else float("inf")

    def roots(self) -> Iterator[_Node]:
        """One set for each tensor degree, number of replicas and micro-batch; bounded by the model's products."""
        row_s = self.prices.product_seconds_per_row()
        pairs = list(data_and_rows(self.job, self.limits, self.cut))
        for tensor in tensor_degrees(self.limits, self.cut):
            for data, rows in pairs:
                stages = min(self.limits.layers, self.limits.devices // (tensor * data))
                splits = len(policies(self.limits)) * self.sharding_count(data)
                if stages < 1:
                    self.cut["devices"] += splits * self.limits.layers
                    continue
                self.cut["devices"] += splits * (self.limits.layers - stages)
                m = self.job.global_batch // (data * rows)
                bound_s = geometric_bound(rows * row_s / tensor, m, stages)
                yield _Node(bound_s, splits * stages, partial(self.by_policy, tensor, data, rows, stages))

    def sharding_count(self, data: int) -> int:
        return len(list(shardings(data, self.limits, Counter())))

    def by_policy(self, tensor: int, data: int, rows: int, stages: int) -> Iterator[_Node]:
        """One set for each recompute policy."""
        for recompute in policies(self.limits):
            splits = stages * self.sharding_count(data)
            if tensor in self.uncut:
                self.cut["shape"] += splits
                continue
            try:
                spans = self.prices.spans(tensor, rows, recompute)
            except BadInput:
                self.uncut.add(tensor)
                self.cut["shape"] += splits
                continue
            m = self.job.global_batch // (data * rows)
            total_s = spans.work_s(m, Sharding(), NOWHERE)
            bound_s = max(m * spans.widest_s, geometric_bound(total_s, m, stages))
            yield _Node(bound_s, splits, partial(self.by_stages, tensor, data, rows, recompute, stages))

    def by_stages(self, tensor: int, data: int, rows: int, recompute: str, stages: int) -> Iterator[_Node]:
        """One set for each number of stages, bounded by the best deal of layers without data communication."""
        allowed = list(shardings(data, self.limits, self.cut))
        leanest = max(allowed, key=lambda s: (s.stage, s.degree), default=None)
        if leanest is None:
            return
        split = Split(data=data, tensor=tensor, pipeline=stages, rows=rows, sharding=leanest, recompute=recompute)
        price = self.prices.without_communication(split)
        table = self.prices.deals(split, price, self.to_beat_s())
        for pipeline in range(1, stages + 1):
            if not self.limits.allows("pipeline", pipeline):
                self.cut["fixed"] += len(allowed)
            elif table.value(pipeline) == float("inf"):
                self.cut[self.lost()] += len(allowed)
            else:
                opened = partial(self.by_sharding, replace(split, pipeline=pipeline), allowed)
                yield _Node(table.value(pipeline), len(allowed), opened)

    def by_sharding(self, split: Split, allowed: list[Sharding]) -> Iterator[_Node]:
        """One set for each sharding that no other beats in every respect, bounded by all work and tails together."""
        every = [replace(split, sharding=sharding) for sharding in allowed]
        run = [one for one in every if runs(one, self.job, self.device_kind)]
        kept = self.prices.undominated(run)
        self.cut["engine"] += len(every) - len(run)
        self.cut["sharding"] += len(run) - len(kept)
        for one in kept:
            yield _Node(self.prices.least_seconds(one), 1, partial(self.placed, one))

    def placed(self, split: Split) -> Iterator[_Node]:
        """The split with its ranks placed, bounded by the best deal of layers."""
        price = self.prices.split(split)
        table = self.prices.deals(split, price, self.to_beat_s())
        if table.value(split.pipeline) == float("inf"):
            self.cut[self.lost()] += 1
            return
        yield _Node(table.value(split.pipeline), 1, partial(self.dealt, split, price, table))

    def dealt(self, split: Split, price: SplitPrice, table: Deals) -> Iterator[Candidate]:
        """The split with the best boundaries found and its exact time."""
        if comb(self.limits.layers - 1, split.pipeline - 1) <= ENUMERATED:
            every = list(every_deal(self.limits.layers, split.pipeline))
            deals = [deal for deal, fits in zip(every, price.fits(every), strict=True) if fits]
            times = price.step_seconds(deals)
            best = int(times.argmin())
            yield Candidate(split, deals[best], float(times[best]))
            return
        starts = {table.boundaries(split.pipeline, slack) for slack in SLACKS}
        ends = [climb(price, start, table.value(split.pipeline)) for start in starts]
        boundaries, step_s = min(ends, key=lambda end: end[1])
        yield Candidate(split, boundaries, step_s)

    def lost(self) -> str:
        """Why a split without any deal is out: before there is a time to beat, only memory can be the reason."""
        return "memory" if self.to_beat_s() == float("inf") else "bound"

    def answer(self, bound_s: float) -> Answer:
        plans = [self.plan(candidate) for candidate in self.found[:KEPT]]
        best, second = plans[0], (runner_up(plans[0], plans[1]) if len(plans) > 1 else None)
        offered = len(self.pool.devices)
        plan = replace(best, because=reason(best, second, offered), runner_up=second, bound_s=bound_s)
        return Answer(
            plan=plan,
            candidates=tuple(plans),
            priced=len(self.found),
            cut={rule: number for rule, number in sorted(self.cut.items()) if number},
            seconds=self.clock() - self.began_s,
            bound_s=bound_s,
            notes=(self.pool.left_out,) if self.pool.left_out else (),
        )

    def plan(self, candidate: Candidate) -> Plan:
        """The plan of a candidate, with its prediction."""
        split = candidate.split
        plan = Plan(
            stages=uniform_stages(
                boundaries=candidate.boundaries,
                data=split.data,
                tensor=split.tensor,
                sharding=split.sharding,
                micro_batch_rows=split.rows,
                recompute=split.recompute,
            ),
            micro_batches=split.micro_batches(self.job),
            schedule="1f1b",
            engine=engine_of(split),
            ranks=self.places[: split.ranks],
            job=self.job,
            made_from=self.made_from,
        )
        return replace(plan, prediction=self.prices.pricing.predict(plan))

    @cached_property
    def places(self) -> tuple[RankPlace, ...]:
        return places(self.cluster, self.pool.devices)

    @cached_property
    def made_from(self) -> MadeFrom:
        return MadeFrom(
            model=self.graph.name,
            model_hash=graph_hash(self.graph),
            cluster=self.cluster.name,
            cluster_hash=cluster_hash(self.cluster),
        )


def climb(price: SplitPrice, boundaries: tuple[int, ...], bound_s: float) -> tuple[tuple[int, ...], float]:
    """Moves single layers across borders as long as the step gets shorter and is not proven the shortest."""
    step_s = float(price.step_seconds([boundaries])[0])
    while (near := list(moved(boundaries))) and step_s > bound_s * (1.0 + 1e-9):
        times = np.where(price.fits(near), price.step_seconds(near), np.inf)
        best = int(times.argmin())
        if times[best] >= step_s * (1.0 - 1e-12):
            break
        boundaries, step_s = near[best], float(times[best])
    return boundaries, step_s


def _rank(candidate: Candidate) -> tuple[object, ...]:
    """Order of candidates: by time; among equals fewer ranks, less sharding, less recomputation."""
    split = candidate.split
    policy = RECOMPUTE.index(split.recompute)
    return (float(f"{candidate.step_s:.12g}"), split.ranks, split.sharding.stage, policy, split.pipeline, split.tensor)
