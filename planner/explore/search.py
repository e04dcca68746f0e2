"""Which way is best: best-first over inner halves, then whole ways, by lower bounds; with its proof, at any time.

The whole space holds what no engine can run yet; answers of that are marked, and are never the default. How far a
search goes says its extent.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from nebula.cluster.identity import cluster_hash
from nebula.cluster.values import Cluster
from nebula.cost_model.chain import Chains
from nebula.errors import BadInput, Infeasible
from nebula.graph.identity import graph_hash
from nebula.graph.values import DistributedGraph
from nebula.plan.job import OFFLOAD, RECOMPUTE, Objective
from nebula.plan.values import Job, MadeFrom, Plan
from nebula.planner.collection import seldom_collected
from nebula.planner.explain import reason, runner_up
from nebula.planner.explore.extent import EVERYTHING, Extent
from nebula.planner.explore.near import neighbours
from nebula.planner.explore.openings import Openings
from nebula.planner.explore.questions import PredictionOf, PriceOf
from nebula.planner.explore.sets import left_of, waiting_of
from nebula.planner.explore.space import Space
from nebula.planner.explore.waiting import Frontier
from nebula.planner.explore.ways import ALL, ALLOWED_RULES, RULES, Inner, Way
from nebula.planner.search import INTERRUPTION, PATIENCE, Answer, Progress
from nebula.units import format_seconds

NOTHING_LISTED = Frontier()

KEPT = 6
"""Ways that an answer holds with their full prediction: the best and its five nearest."""


@seldom_collected()
def explore(
    graph: DistributedGraph,
    cluster: Cluster,
    job: Job,
    objective: Objective | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    enough: Callable[[float], bool] = lambda _: False,
    known: Sequence[Way] = (),
    frontier: Frontier = NOTHING_LISTED,
    processes: int = 0,
    extent: Extent = EVERYTHING,
    to_beat_s: float = math.inf,
    kept: int = KEPT,
    chains: Chains | None = None,
) -> Explored:
    """The best plan of the space that the cost model knows, by default whether or not an engine can run it yet.

    Args:
        graph: the model.
        cluster: what may be used; stages lie on devices of one type each.
        job: batch, precision, optimizer, memory to fill.
        objective: fixed degrees and nodes to leave out.
        on_progress: called each time a way has been priced.
        clock: seconds, for the time that the search reports.
        enough: asked with the gap that is proved so far, whether the answer found will do.
        known: ways that an earlier search of the same found; what is no better than they are is not looked at.
        frontier: where that search ended; by default all is listed anew.
        processes: that work out bounds and prices; 0: one for each core where there is much to do. The answer is the
            same with any number of them.
        extent: how far the space goes.
        to_beat_s: ways that are no faster are not looked for; a slower plan may be the answer nevertheless.
        kept: ways that the answer holds with their full prediction.
        chains: of the graph, some of whose blocks may be cut already.

    Raises:
        BadInput: the cluster offers no device, or fixed degrees contradict the model.
        NothingFaster: no way is faster than `to_beat_s`, and none that is not was come across.
        Infeasible: no way fits into memory.
    """
    one = _Explorer(
        graph, cluster, job, objective or Objective(), on_progress or (lambda _: None), clock, extent, chains
    )
    one.cap_s, one.kept = to_beat_s, kept
    try:
        return one.run(enough, known, frontier, processes)
    finally:
        one.workers.close()


class NothingFaster(Infeasible):
    """No way is faster than what there was to beat.

    Attributes:
        bound_s: no way is faster than that.
    """

    def __init__(self, text: str, bound_s: float) -> None:
        super().__init__(text)
        self.bound_s = bound_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored(Answer):
    """What an exploration found.

    Attributes:
        frontier: what it had not looked at.
    """

    frontier: Frontier


class _Explorer(Openings):
    """One search: when it is over, and the answer made of what was found."""

    kept = KEPT

    def run(
        self, enough: Callable[[float], bool], known: Sequence[Way], frontier: Frontier, processes: int = 1
    ) -> Explored:
        """The answer; an interruption gives the best so far.

        Raises:
            Infeasible: nothing fits.
        """
        ended, node = "", None
        try:
            self.workers = self._employed(processes)
            self._start(known, frontier)
            while self.heap and self.heap[0].bound_s < self.to_beat_s:
                self._look_ahead()
                node = heapq.heappop(self.heap)
                self.opening_s = node.bound_s
                self._open(node)
                self.opening_s, node = math.inf, None
                if self.found and enough(self.best_s / self._bound_s() - 1.0):
                    ended = PATIENCE if self.heap and self.heap[0].bound_s < self.to_beat_s else ""
                    break
            self._compare()
        except KeyboardInterrupt:
            if not self.found:
                raise
            ended = INTERRUPTION
            self.workers.close()
            if node is not None:
                heapq.heappush(self.heap, node)
        self.cut["bound"] += sum(left_of(node.what) for node in self.heap)
        if not self.found and math.isfinite(self.cap_s):
            raise NothingFaster(f"no plan takes less than {format_seconds(self.cap_s)} a step", self._least_s())
        if not self.found:
            raise nothing_fits(self.graph, self.space, self.fullest, self._remedy())
        return replace(self._answer(), ended_by=ended)

    def _remedy(self) -> str:
        """What of its activations and states the leanest way would have to keep in the host's memory to fit, if any."""
        if self.fullest is None or len(self.space.offloads) > 1 or "offload" in self.space.fixed:
            return ""
        inner, outer = self.fullest[1]
        for offload in OFFLOAD[1:]:
            share = self.prices.price(Way(inner._replace(offload=offload, layers=ALL), outer)).peak_share
            if share <= 1.0:
                return f"; it would with offload {offload}, which objective.allow=[offload] explores"
        return ""

    def _compare(self) -> None:
        """Prices what is near the best, so that there is something to set beside it."""
        best = min(self.found, key=lambda way: self.found[way].step_s, default=None)
        near = neighbours(best, self.space) if best else ()
        others = [way for way in near if way not in self.found and self._may_be(way.inner)]
        for index, way in enumerate(others):
            self.workers.expect(map(PriceOf, others[index:]))
            with suppress(BadInput):
                self._price(way)

    def _may_be(self, inner: Inner) -> bool:
        """Whether its tensor groups have whole sequences only where they must, or were asked to."""
        alone = inner.tensor > 1 and not inner.sequence
        return (
            not alone or not self.space.with_whole_sequences(inner._replace(sequence=True)) or inner[:3] in self.whole
        )

    def _frontier(self) -> Frontier:
        """What was not looked at and may be better than what was found."""
        if not self.listed:
            return NOTHING_LISTED
        left = sorted(node for node in self.heap if node.bound_s < self.to_beat_s)
        return Frontier(max(1, self.opened), tuple(waiting_of(node.bound_s, node.what) for node in left))

    def _answer(self) -> Explored:
        ranked = self._distinct()[: self.kept]
        made_from = MadeFrom(
            model=self.graph.name,
            model_hash=graph_hash(self.graph),
            cluster=self.cluster.name,
            cluster_hash=cluster_hash(self.cluster),
        )
        self.workers.expect(PredictionOf(way, *self._dealt(way)) for way in ranked)
        plans = [self._plan(way, made_from) for way in ranked]
        assert plans[0].prediction is not None
        bound_s = min(self._least_s(), plans[0].prediction.step_time_s)
        offered = sum(self.space.devices)
        second = runner_up(plans[0], plans[1]) if len(plans) > 1 else None
        return Explored(
            plan=replace(plans[0], because=reason(plans, offered), runner_up=second, bound_s=bound_s),
            candidates=tuple(plans),
            priced=len(self.found),
            cut={rule: number for rule, number in sorted(self.cut.items()) if number},
            seconds=self.clock() - self.began_s,
            bound_s=bound_s,
            notes=tuple(f"Left out by rule ({name}): {sentence}." for name, sentence in self._rules.items()),
            frontier=self._frontier(),
        )

    @property
    def _rules(self) -> dict[str, str]:
        return {**RULES, **{name: ALLOWED_RULES[name] for name in ALLOWED_RULES if name in self.space.allowed}}

    def _distinct(self) -> list[Way]:
        """The ways found, best first, each plan once: where as few layers as fit are all, that is another way to it."""
        ranked = sorted(self.found, key=lambda way: (self.found[way].step_s, way.ranks, way.inner.layers))
        plans: dict[tuple[object, ...], Way] = {}
        for way in ranked:
            priced, inner = self.found[way], way.inner
            again = priced.again or tuple(np.diff(priced.boundaries) * (inner.recompute != RECOMPUTE[0]))
            policy = inner.recompute if any(again) else RECOMPUTE[0]
            same = inner._replace(recompute=policy, layers=ALL)
            plans.setdefault((same, way.outer, priced.boundaries, tuple(map(int, again))), way)
        return list(plans.values())

    def _plan(self, way: Way, made_from: MadeFrom) -> Plan:
        boundaries, again = self._dealt(way)
        plan = self.answers.plan(way, boundaries, made_from, again)
        return replace(plan, prediction=self.workers.ask(PredictionOf(way, boundaries, again)))

    def _dealt(self, way: Way) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The boundaries of a way that was found, and which layers it computes again."""
        priced = self.found[way]
        return priced.boundaries, priced.again


def nothing_fits(
    graph: DistributedGraph, space: Space, fullest: tuple[float, Way] | None, remedy: str = ""
) -> Infeasible:
    """Why there is no answer.

    Args:
        graph: the model.
        space: of the ways.
        fullest: of the ways that do not fit the one that needs least, as a share of its limit.
        remedy: what would make that one fit.
    """
    devices, fraction = sum(space.devices), space.job.memory_fraction
    if fullest is None and not space.fixed:
        return Infeasible(
            f"{graph.name} does not fit on {devices} devices: what its states and activations "
            f"need on average is more than objective.limits.memory_fraction={fraction:g} allows"
        )
    if fullest is None:
        return Infeasible(
            f"no way to train {graph.name} on {devices} devices has the degrees that "
            f"objective.fixed asks for: {dict(space.fixed)}; relax one"
        )
    share, way = fullest
    return Infeasible(
        f"{graph.name} does not fit on {devices} devices: even the leanest way priced "
        f"({way.words}) needs {share:.0%} of what objective.limits.memory_fraction={fraction:g} allows{remedy}"
    )
