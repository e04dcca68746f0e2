"""Which way is best: best-first over inner halves, then whole ways, by lower bounds; with its proof, at any time.

The whole space holds what no engine can run yet; answers of that are marked, and are never the default. How far a
search goes says its extent.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from nebula.cluster.identity import cluster_hash
from nebula.cluster.values import Cluster
from nebula.errors import BadInput, Infeasible
from nebula.graph.identity import graph_hash
from nebula.graph.values import DistributedGraph
from nebula.plan.job import OFFLOAD, RECOMPUTE, Objective
from nebula.plan.values import Job, MadeFrom, Plan
from nebula.planner.aims import wants_more
from nebula.planner.collection import seldom_collected
from nebula.planner.explain import reason, runner_up
from nebula.planner.explore.asked import check_asked
from nebula.planner.explore.extent import EVERYTHING, Extent
from nebula.planner.explore.layers import Layers
from nebula.planner.explore.mixed import Bounded
from nebula.planner.explore.near import neighbours
from nebula.planner.explore.pools import pools_of
from nebula.planner.explore.price import Priced, WayPrices
from nebula.planner.explore.questions import (
    Answers,
    Found,
    Least,
    LeastOf,
    OfRows,
    OnAll,
    OnAllBest,
    OnPool,
    Policies,
    PredictionOf,
    PriceOf,
    Question,
    Rows,
    Sets,
    near,
)
from nebula.planner.explore.sets import (
    Again,
    Base,
    Node,
    PlacedWay,
    Policy,
    Rest,
    Several,
    What,
    left_of,
    restored,
    waiting_of,
)
from nebula.planner.explore.sheet import Ranked
from nebula.planner.explore.space import Space, experts_of
from nebula.planner.explore.waiting import Frontier
from nebula.planner.explore.ways import ALL, ALLOWED_RULES, RULES, Inner, Way
from nebula.planner.search import INTERRUPTION, PATIENCE, Answer, Progress
from nebula.planner.workers import Alone, Workers, workers
from nebula.units import format_seconds

NOTHING_LISTED = Frontier()

AHEAD = 24
"""So many sets that are about to be opened are worked out ahead, where somebody else does."""

MANY = 48
"""Degrees of one rank of which there is much to do."""

PROMISING = 4
"""Inner halves of which good ways are priced before the search."""

TRIES = 1
"""How many of each."""

KEPT = 6
"""Ways that an answer holds with their full prediction: the best and its five nearest."""

EXACT = 400
"""Sets and ways that are looked at before an answer that is nearly the best will do."""

TOLERANCE = 0.03
"""Then ways whose bound is nearer to the best than this share are not looked at: so far an answer may lie above it."""


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

    Raises:
        BadInput: the cluster offers no device, or fixed degrees contradict the model.
        NothingFaster: no way is faster than `to_beat_s`, and none that is not was come across.
        Infeasible: no way fits into memory.
    """
    one = _Explorer(graph, cluster, job, objective or Objective(), on_progress or (lambda _: None), clock, extent)
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
        extent: Extent = EVERYTHING,
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
            per_node=pools.smallest,
            layers=len(graph.layers),
            experts=experts_of(graph),
            tokens=max(1, int(graph.tokens_per_row)),
            fixed=objective.fixed,
            allowed=objective.allow,
            extent=extent,
        )
        check_asked(self.space, graph)
        self.answers = Answers(self.space, self.prices)
        self.workers: Workers = Alone(self.answers)
        self.found: dict[Way, Priced] = {}
        self.seen: set[Inner] = set()
        self.fullest: tuple[float, Way] | None = None
        self.heap: list[Node] = []
        self.cut: Counter[str] = Counter()
        self.best_s, self.opened, self.opening_s, self.listed = math.inf, 0, math.inf, False
        self.cap_s, self.kept = math.inf, KEPT
        self.whole: set[tuple[int, int, int]] = set()
        self._order = count()

    @property
    def to_beat_s(self) -> float:
        """Ways that are bounded from below by this need not be looked at."""
        return self.ahead_s / (1.0 + TOLERANCE) if self.opened >= EXACT else self.ahead_s

    @property
    def ahead_s(self) -> float:
        """The best step time found, or what there is to beat."""
        return min(self.best_s, self.cap_s)

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

    def _employed(self, processes: int) -> Workers:
        """Who works out answers: others where there is much to do, or where so many are asked for."""
        few = not processes and sum(1 for _ in self.space.inners()) < MANY
        return Alone(self.answers) if few else workers(self.answers, near, processes)

    def _look_ahead(self) -> None:
        """Tells the workers what will be asked next."""
        self.workers.expect(question for node in self.heap[:AHEAD] for question in self._questions(node.what))

    def _questions(self, what: What) -> Iterator[Question]:
        """What will be asked when a set is opened, if there is no more to beat by then."""
        if isinstance(what, Base):
            yield Policies(what.inner)
            yield from map(Rows, self.space.under_policies(what.inner))
        elif isinstance(what, Policy):
            yield Rows(what.inner)
        elif isinstance(what, Inner):
            yield Sets(what, self.to_beat_s)
        elif isinstance(what, Several):
            yield OnAll(what.inner, what.data, self.to_beat_s)
        elif isinstance(what, Rest):
            yield LeastOf(Way(what.inner, what.ranked.outer(what.first)))
        elif isinstance(what, Way):
            yield LeastOf(what)
        elif isinstance(what, PlacedWay):
            yield PriceOf(what.way)

    def _bound_s(self) -> float:
        """No way of the space is faster."""
        waiting_s = self.heap[0].bound_s if self.heap else math.inf
        return min(self.ahead_s, waiting_s, self.opening_s)

    def _least_s(self) -> float:
        """The same when the search is over."""
        return min(self._bound_s(), self.to_beat_s)

    def _start(self, known: Sequence[Way], frontier: Frontier) -> None:
        # nothing is bounded before all are listed
        self.opening_s = 0.0
        for way in known:
            self._price(way)
        if frontier.opened:
            self.opened = frontier.opened
            for waiting in frontier.sets:
                self._push(waiting.bound_s, restored(waiting))
            self.opening_s, self.listed = math.inf, True
            return
        every = list(self.space.inners())
        for index, inner in enumerate(every):
            self.workers.expect(map(Least, every[index:]))
            self._list(inner)
        self.opening_s, self.listed = math.inf, True
        for inner in self._promising()[:PROMISING]:
            with suppress(BadInput):
                self._sample(inner)

    def _list(self, inner: Inner) -> None:
        """Bounds all ways with these degrees, with whole sequences where tensor groups cannot cut them."""
        if self._listed(inner):
            return
        other = self.space.with_whole_sequences(inner)
        if other is None or not self._listed(other):
            self.cut["shape"] += 1
        elif other is not None:
            self.whole.add(inner[:3])

    def _listed(self, inner: Inner) -> bool:
        """Bounds all ways with these degrees by the most rows that they cut, each by a multiple of its own rows."""
        listed: list[int] = []
        for rows in reversed(self.space.rows):
            if any(more % rows == 0 for more in listed):
                continue
            with suppress(BadInput):
                most = inner._replace(rows=rows)
                self._push(self.workers.ask(Least(most)), Base(most))
                listed.append(rows)
        return bool(listed)

    def _promising(self) -> list[Inner]:
        """For each number of ranks that share the experts the degrees of least bound."""
        first: dict[int, Inner] = {}
        for node in sorted(self.heap, key=lambda node: node.bound_s):
            if isinstance(node.what, Base):
                first.setdefault(node.what.inner.expert, node.what.inner)
        return list(first.values())

    def _sample(self, inner: Inner) -> None:
        """Prices a few good ways of an inner half, so that it is soon known what there is to beat."""
        policies, offloads, variants = self.space.policies, self.space.offloads, self.space.variants
        lean, plain = (policies[-1], offloads[0], ALL), (policies[0], offloads[0], ALL)
        for policy, offload, layers in dict.fromkeys((lean, plain, (policies[-1], offloads[-1], ALL), variants[-1])):
            one = inner._replace(rows=self.space.rows[0], recompute=policy, offload=offload, layers=layers)
            for pool, devices in enumerate(self.space.devices):
                if one.width <= devices:
                    self._look_ahead()
                    ranked: Ranked = self.workers.ask(OnPool(one, pool, self.ahead_s))
                    for index in range(min(TRIES, len(ranked))):
                        self._price(Way(one, ranked.outer(index)))
            for outer in self.workers.ask(OnAllBest(one, self.ahead_s))[:TRIES]:
                self._price(Way(one, outer))

    def _push(self, bound_s: float, what: What) -> None:
        if bound_s < self.to_beat_s:
            heapq.heappush(self.heap, Node(bound_s, next(self._order), what))
        else:
            self.cut["bound"] += left_of(what)

    def _open(self, node: Node) -> None:
        self.opened += 1
        what = node.what
        if isinstance(what, Base):
            for inner, least_s in self.workers.ask(Policies(what.inner)):
                self._push(least_s, Policy(inner))
        elif isinstance(what, Policy):
            self._open_policy(node.bound_s, what.inner)
        elif isinstance(what, Inner):
            self._open_inner(node.bound_s, what)
        elif isinstance(what, Several):
            self._open_several(node.bound_s, what)
        elif isinstance(what, Rest):
            following = what.first + 1
            if following < len(what.ranked):
                bound_s = max(node.bound_s, float(what.ranked.bounds_s[following]))
                self._push(bound_s, what._replace(first=following))
            self._place(node.bound_s, Way(what.inner, what.ranked.outer(what.first)))
        elif isinstance(what, Again):
            ranked: Ranked = self.workers.ask(OnPool(what.inner, what.pool, self.to_beat_s))
            first = int(np.searchsorted(ranked.bounds_s, what.from_s))
            if first < len(ranked):
                self._push(max(node.bound_s, float(ranked.bounds_s[first])), Rest(what.inner, ranked, first))
        elif isinstance(what, Way):
            self._place(node.bound_s, what)
        else:
            self._price(what.way)

    def _open_policy(self, bound_s: float, most: Inner) -> None:
        rows: OfRows
        for rows in self.workers.ask(Rows(most)):
            if rows.inner in self.seen:
                continue
            self.seen.add(rows.inner)
            if rows.rule:
                self.cut[rows.rule] += 1
            else:
                self._push(max(bound_s, rows.least_s), rows.inner)

    def _open_inner(self, bound_s: float, inner: Inner) -> None:
        found: Found = self.workers.ask(Sets(inner, self.to_beat_s))
        for data, least_s in found.several:
            self._push(max(bound_s, least_s), Several(inner, data))
        for ranked in found.alone:
            self.cut.update(ranked.cut)
            if ranked.leanest:
                self._note_full(ranked.leanest[0], Way(inner, ranked.leanest[1]))
            if len(ranked):
                self._look(float(ranked.bounds_s[0]), Way(inner, ranked.outer(0)))
                self._push(max(bound_s, float(ranked.bounds_s[0])), Rest(inner, ranked, 0))

    def _open_several(self, least_s: float, what: Several) -> None:
        near: list[Bounded] = []
        for each in self.workers.ask(OnAll(what.inner, what.data, self.to_beat_s)):
            if each.share > 1.0:
                self.cut["memory"] += 1
                self._note_full(each.share, Way(what.inner, each.outer))
            else:
                near.append(each)
        if near:
            first = min(near, key=lambda each: each.bound_s)
            self._look(first.bound_s, Way(what.inner, first.outer))
        for each in near:
            self._push(max(least_s, each.bound_s), Way(what.inner, each.outer))

    def _look(self, bound_s: float, way: Way) -> None:
        """Prices a way at once if it may be the best so far, so that others have more to beat."""
        if bound_s < self.ahead_s and way not in self.found:
            self._try(way)

    def _place(self, bound_s: float, way: Way) -> None:
        """Bounds a way by what its own deal takes on its own places."""
        if way in self.found or self._left_out(way):
            return
        self._push(max(bound_s, self.workers.ask(LeastOf(way))), PlacedWay(way))

    def _try(self, way: Way) -> None:
        """Prices a way unless it plainly is no better."""
        if self.workers.ask(LeastOf(way)) < self.ahead_s:
            self._price(way)

    def _price(self, way: Way) -> None:
        if way in self.found or self._left_out(way):
            return
        self._look_ahead()
        priced: Priced = self.workers.ask(PriceOf(way))
        if priced.peak_share > 1.0:
            self.cut["memory"] += 1
            self._note_full(priced.peak_share, way)
            return
        self.found[way] = priced
        self.best_s = min(self.best_s, priced.step_s)
        self.on_progress(Progress(priced=len(self.found), best_s=self.best_s, bound_s=self._bound_s()))

    def _left_out(self, way: Way) -> bool:
        """Whether a way crosses a WAN where it must not."""
        if not self.prices.at.crosses_wan(way):
            return False
        self.cut["wan"] += 1
        return True

    def _note_full(self, share: float, way: Way) -> None:
        if self.fullest is None or share < self.fullest[0]:
            self.fullest = share, way

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
