"""Sets of ways opened one after the other by their lower bounds: what is listed, what waits, and what was found.

Which of these is the answer, and when a search is over, is search.py's question.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count

import numpy as np

from nebula.cluster.values import Cluster
from nebula.cost_model.chain import Chains
from nebula.errors import BadInput
from nebula.graph.values import DistributedGraph
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.aims import wants_more
from nebula.planner.explore.asked import check_asked
from nebula.planner.explore.extent import EVERYTHING, Extent
from nebula.planner.explore.layers import Layers
from nebula.planner.explore.mixed import Bounded
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
)
from nebula.planner.explore.sheet import Ranked
from nebula.planner.explore.space import Space, experts_of
from nebula.planner.explore.waiting import Frontier
from nebula.planner.explore.ways import ALL, Inner, Way
from nebula.planner.search import Progress
from nebula.planner.workers import Alone, Workers, workers

AHEAD = 24
"""So many sets that are about to be opened are worked out ahead, where somebody else does."""

MANY = 48
"""Degrees of one rank of which there is much to do."""

PROMISING = 4
"""Inner halves of which good ways are priced before the search."""

TRIES = 1
"""How many of each."""

EXACT = 400
"""Sets and ways that are looked at before an answer that is nearly the best will do."""

TOLERANCE = 0.03
"""Then ways whose bound is nearer to the best than this share are not looked at: so far an answer may lie above it."""


class Openings:
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
        chains: Chains | None = None,
    ) -> None:
        if wants_more(objective):
            raise BadInput("the explored space is searched for the shortest step: leave out minimise and limits")
        self.graph, self.cluster, self.job = graph, cluster, job
        self.on_progress, self.clock, self.began_s = on_progress, clock, clock()
        pools = pools_of(cluster, objective.exclude)
        self.prices = WayPrices(Layers(graph, cluster, job, chains=chains), pools)
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
        self.cap_s = math.inf
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
