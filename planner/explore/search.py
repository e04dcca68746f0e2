"""Which way is best: best-first over inner halves, then whole ways, by lower bounds; with its proof, at any time.

What fleet cannot run yet is in this space, so its answers are marked not executable and are never the default.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import numpy as np

from nebula.cluster.identity import cluster_hash
from nebula.cluster.places import exclude, slowness, usable_devices
from nebula.cluster.values import Cluster
from nebula.cost_model.executed import paddle_execution, predict_executed
from nebula.errors import BadInput, Infeasible
from nebula.graph.identity import graph_hash
from nebula.graph.values import DistributedGraph
from nebula.plan.job import Objective
from nebula.plan.values import Job, MadeFrom, Plan
from nebula.planner.aims import wants_more
from nebula.planner.explain import reason, runner_up
from nebula.planner.explore.bounds import Bounds
from nebula.planner.explore.layers import Layers
from nebula.planner.explore.near import neighbours
from nebula.planner.explore.plans import plan_of
from nebula.planner.explore.price import Pools, Priced, WayPrices
from nebula.planner.explore.ways import RULES, Inner, Space, Way, experts_of
from nebula.planner.search import Answer, Progress

TRIES = 2
"""Ways of a promising inner half that are priced before the search."""

KEPT = 6
"""Ways that an answer holds with their full prediction: the best and its five nearest."""

TOLERANCE = 0.01
"""Ways whose bound is nearer to the best than this share are not looked at: so far an answer may lie above the best."""


def explore(
    graph: DistributedGraph,
    cluster: Cluster,
    job: Job,
    objective: Objective | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    enough: Callable[[float], bool] = lambda _: False,
) -> Answer:
    """The best plan of the whole space that the cost model knows, whether or not an engine can run it yet.

    Args:
        graph: the model.
        cluster: what may be used; stages lie on devices of one type each.
        job: batch, precision, optimizer, memory to fill.
        objective: fixed degrees and nodes to leave out.
        on_progress: called each time a way has been priced.
        clock: seconds, for the time that the search reports.
        enough: asked with the gap that is proved so far, whether the answer found will do.

    Raises:
        BadInput: the cluster offers no device.
        Infeasible: no way fits into memory.
    """
    return _Explorer(graph, cluster, job, objective or Objective(), on_progress or (lambda _: None), clock).run(enough)


def pools_of(cluster: Cluster, excluded: tuple[str, ...] = ()) -> Pools:
    """The devices that may be used, those of one type together, nodes in order and slow ones last.

    Raises:
        BadInput: there is none.
    """
    by_type: dict[str, list[int]] = defaultdict(list)
    for device in usable_devices(exclude(cluster, excluded)):
        by_type[cluster.device_type(device).name].append(device)
    if not by_type:
        raise BadInput(f"cluster {cluster.name} offers no device: its nodes are excluded or have none")
    ordered = [sorted(found, key=lambda d: slowness(cluster, d)) for found in by_type.values()]
    return Pools(
        devices=tuple(np.array(found) for found in ordered),
        types=tuple(cluster.device_type(found[0]) for found in ordered),
    )


class _Node(NamedTuple):
    """A set of ways that is not opened yet, with its bound: a base, an inner half or a whole way."""

    bound_s: float
    order: int
    what: Inner | Way
    base: bool = False


class _Explorer:
    """One search: what was found, what waits."""

    def __init__(
        self,
        graph: DistributedGraph,
        cluster: Cluster,
        job: Job,
        objective: Objective,
        on_progress: Callable[[Progress], None],
        clock: Callable[[], float],
    ) -> None:
        if wants_more(objective):
            raise BadInput("the explored space is searched for the shortest step: leave out minimise and limits")
        self.graph, self.cluster, self.job = graph, cluster, job
        self.on_progress, self.clock, self.began_s = on_progress, clock, clock()
        pools = pools_of(cluster, objective.exclude)
        self.prices = WayPrices(Layers(graph, cluster, job), pools)
        self.space = Space(
            job=job,
            devices=tuple(len(found) for found in pools.devices),
            per_node=min(g.devices_per_node for g in cluster.groups),
            layers=len(graph.layers),
            experts=experts_of(graph),
            tokens=max(1, int(graph.tokens_per_row)),
            fixed=objective.fixed,
        )
        self.bounds = Bounds(space=self.space, prices=self.prices)
        self.found: dict[Way, Priced] = {}
        self.fullest: tuple[float, Way] | None = None
        self.heap: list[_Node] = []
        self.cut: Counter[str] = Counter()
        self.best_s, self.to_beat_s = math.inf, math.inf
        self._order = count()

    def run(self, enough: Callable[[float], bool]) -> Answer:
        """The answer; an interruption gives the best so far.

        Raises:
            Infeasible: nothing fits.
        """
        try:
            self._start()
            while self.heap and self.heap[0].bound_s < self.to_beat_s:
                self._open(heapq.heappop(self.heap))
                if self.found and enough(self.best_s / self._bound_s() - 1.0):
                    break
        except KeyboardInterrupt:
            if not self.found:
                raise
        self.cut["bound"] += len(self.heap)
        if not self.found:
            raise self._nothing()
        return self._answer()

    def _bound_s(self) -> float:
        """No way of the space is faster."""
        return min(self.to_beat_s, self.heap[0].bound_s) if self.heap else self.to_beat_s

    def _start(self) -> None:
        for inner in self.space.inners():
            try:
                bound_s = self.bounds.least_seconds(inner, self.bounds.work(inner))
            except BadInput:
                self.cut["shape"] += 1
                continue
            self._push(bound_s, inner, base=True)
        for inner in self._promising():
            self._sample(inner)
        self._climb()

    def _climb(self) -> None:
        """Goes from the best way found to better ones near it, as long as there are any."""
        tried: set[Way] = set()
        while self.found:
            best = min(self.found, key=lambda way: self.found[way].step_s)
            near = [way for way in neighbours(best, self.space) if way not in tried and way not in self.found]
            tried.update(near)
            for way in near:
                with suppress(BadInput):
                    self._price(way)
            if self.found[best].step_s <= self.best_s:
                return

    def _promising(self) -> list[Inner]:
        """For each number of ranks that share the experts, and each tensor degree, the inner half of least bound."""
        first: dict[tuple[int, int], Inner] = {}
        for node in sorted(self.heap):
            if isinstance(node.what, Inner):
                first.setdefault((node.what.expert, node.what.tensor), node.what)
        return list(first.values())

    def _sample(self, inner: Inner) -> None:
        """Prices a few good ways of an inner half, so that it is soon known what there is to beat."""
        for policy in dict.fromkeys((self.space.policies[-1], self.space.policies[0])):
            one = inner._replace(rows=self.space.rows[0], recompute=policy)
            work = self.bounds.work(one)
            good = sorted(self.bounds.outers(one, work, self.to_beat_s), key=lambda pair: pair[0])
            for _, outer in good[:TRIES]:
                way = Way(one, outer)
                if way not in self.found:
                    self._price(way)

    def _push(self, bound_s: float, what: Inner | Way, *, base: bool = False) -> None:
        if bound_s < self.to_beat_s:
            heapq.heappush(self.heap, _Node(bound_s, next(self._order), what, base))
        else:
            self.cut["bound"] += 1

    def _open(self, node: _Node) -> None:
        if isinstance(node.what, Way):
            self._price(node.what)
        elif node.base:
            for inner in self.space.variants(node.what):
                self._push(node.bound_s, inner)
        else:
            work = self.bounds.work(node.what)
            if self.bounds.least_seconds(node.what, work) >= self.to_beat_s:
                self.cut["bound"] += 1
                return
            for bound_s, outer in self.bounds.outers(node.what, work, self.to_beat_s):
                self._push(max(bound_s, node.bound_s), Way(node.what, outer))

    def _price(self, way: Way) -> None:
        priced = self.prices.price(way, self.to_beat_s)
        if math.isinf(priced.step_s):
            self.cut["memory" if priced.peak_share > 1.0 else "bound"] += 1
            if priced.peak_share > 1.0 and (self.fullest is None or priced.peak_share < self.fullest[0]):
                self.fullest = priced.peak_share, way
            return
        self.found[way] = priced
        self.best_s = min(self.best_s, priced.step_s)
        self.to_beat_s = self.best_s / (1.0 + TOLERANCE)
        self.on_progress(Progress(priced=len(self.found), best_s=self.best_s, bound_s=self._bound_s()))

    def _answer(self) -> Answer:
        ranked = sorted(self.found, key=lambda way: (self.found[way].step_s, way.ranks))[:KEPT]
        made_from = MadeFrom(
            model=self.graph.name,
            model_hash=graph_hash(self.graph),
            cluster=self.cluster.name,
            cluster_hash=cluster_hash(self.cluster),
        )
        plans = [self._plan(way, made_from) for way in ranked]
        bound_s = self._bound_s()
        offered = sum(self.space.devices)
        second = runner_up(plans[0], plans[1]) if len(plans) > 1 else None
        return Answer(
            plan=replace(plans[0], because=reason(plans, offered), runner_up=second, bound_s=bound_s),
            candidates=tuple(plans),
            priced=len(self.found),
            cut={rule: number for rule, number in sorted(self.cut.items()) if number},
            seconds=self.clock() - self.began_s,
            bound_s=bound_s,
            notes=tuple(f"Left out by rule ({name}): {sentence}." for name, sentence in RULES.items()),
        )

    def _plan(self, way: Way, made_from: MadeFrom) -> Plan:
        grids = self.prices.grids(way)
        plan = plan_of(way, self.found[way].boundaries, grids, self.cluster, self.job, made_from)
        execution = paddle_execution(self.job, way.inner.recompute)
        return replace(plan, prediction=predict_executed(self.graph, self.cluster, plan, execution))

    def _nothing(self) -> Infeasible:
        if self.fullest is None and not self.space.fixed:
            return Infeasible(
                f"{self.graph.name} does not fit on {sum(self.space.devices)} devices: what its states and activations "
                f"need on average is more than objective.limits.memory_fraction={self.job.memory_fraction:g} allows"
            )
        if self.fullest is None:
            return Infeasible(
                f"no way to train {self.graph.name} on {sum(self.space.devices)} devices has the degrees that "
                f"objective.fixed asks for: {dict(self.space.fixed)}; relax one"
            )
        share, way = self.fullest
        return Infeasible(
            f"{self.graph.name} does not fit on {sum(self.space.devices)} devices: even the leanest way priced "
            f"({way}) needs {share:.0%} of what objective.limits.memory_fraction={self.job.memory_fraction:g} allows"
        )
