"""What a search asks of bounds and prices, as plain values, and who answers.

Each answer follows from its question alone, so that it may be worked out ahead or by another process (workers.py).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nebula.cost_model.executed import predict_priced
from nebula.errors import BadInput
from nebula.plan.values import MadeFrom, Plan, Prediction, RankPlace
from nebula.planner.explore.bounds import Bounds
from nebula.planner.explore.durations import Placed
from nebula.planner.explore.mixed import Bounded
from nebula.planner.explore.plans import plan_of
from nebula.planner.explore.price import Priced, WayPrices
from nebula.planner.explore.sheet import Ranked
from nebula.planner.explore.space import Space
from nebula.planner.explore.ways import Inner, Outer, Way
from nebula.planner.pool import places

NAMELESS = MadeFrom(model="", model_hash="", cluster="", cluster_hash="")


@dataclass(frozen=True, slots=True)
class Least:
    """No way with these degrees, this policy and as many rows, or a divisor of them, is faster than what seconds?"""

    inner: Inner


@dataclass(frozen=True, slots=True)
class Policies:
    """The same under each policy of recomputing and of offloading."""

    inner: Inner


@dataclass(frozen=True, slots=True)
class Rows:
    """What is known of as many rows, and of each divisor of them?"""

    inner: Inner


class OfRows(NamedTuple):
    """The answer for one number of rows.

    Attributes:
        rule: by which all ways are left out; empty: they are not.
        least_s: none of them is faster.
    """

    inner: Inner
    rule: str = ""
    least_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sets:
    """Which sets of ways has an inner half that may be faster?"""

    inner: Inner
    to_beat_s: float


class Found(NamedTuple):
    """The answer.

    Attributes:
        several: replicas of ways on all pools, and how fast they are at most.
        alone: the ways on each pool alone that has room for a stage.
    """

    several: tuple[tuple[int, float], ...]
    alone: tuple[Ranked, ...]


@dataclass(frozen=True, slots=True)
class OnPool:
    """Which ways on one pool may be faster, and may fit?"""

    inner: Inner
    pool: int
    to_beat_s: float


@dataclass(frozen=True, slots=True)
class OnAll:
    """Which ways on all pools with so many replicas may be faster, with what their fullest device holds?"""

    inner: Inner
    data: int
    to_beat_s: float


@dataclass(frozen=True, slots=True)
class OnAllBest:
    """Which ways on all pools, whatever their replicas, may be faster and may fit? Best first."""

    inner: Inner
    to_beat_s: float


@dataclass(frozen=True, slots=True)
class LeastOf:
    """How fast is a way at most, by what its own deal takes on its own places?"""

    way: Way


@dataclass(frozen=True, slots=True)
class PriceOf:
    """What does a way cost?"""

    way: Way


@dataclass(frozen=True, slots=True)
class PredictionOf:
    """What is predicted of the plan of a way with those boundaries, and those layers computed again?"""

    way: Way
    boundaries: tuple[int, ...]
    again: tuple[int, ...] = ()


Question = Least | Policies | Rows | Sets | OnPool | OnAll | OnAllBest | LeastOf | PriceOf | PredictionOf


def near(question: Question) -> Hashable:
    """Questions with equal values of it share cuts of the graph; predictions are few, and go to whoever is free."""
    if isinstance(question, PredictionOf):
        return question
    inner = question.way.inner if isinstance(question, LeastOf | PriceOf) else question.inner
    return inner.tensor, inner.context


class Answers:
    """Answers questions of one search."""

    def __init__(self, space: Space, prices: WayPrices) -> None:
        self.space, self.prices = space, prices
        self.bounds = Bounds(space=space, prices=prices)
        self._placed: tuple[Way, Placed] | None = None
        self._place_of: dict[int, RankPlace] = {}

    def __call__(self, question: Question) -> Any:
        """The answer.

        Raises:
            BadInput: a degree does not divide what it has to cut.
        """
        by_kind = {
            Least: self._least,
            Policies: self._policies,
            Rows: self._rows,
            Sets: self._sets,
            OnPool: self._on_pool,
            OnAll: self._on_all,
            OnAllBest: self._on_all_best,
            LeastOf: self._least_of,
            PriceOf: self._price_of,
            PredictionOf: self._prediction_of,
        }
        return by_kind[type(question)](question)  # type: ignore[operator]

    def _least(self, asked: Least) -> float:
        return self.bounds.least_of_fewer_rows(asked.inner)

    def _policies(self, asked: Policies) -> tuple[tuple[Inner, float], ...]:
        every = self.space.under_policies(asked.inner)
        return tuple((inner, self.bounds.least_of_fewer_rows(inner)) for inner in every)

    def _rows(self, asked: Rows) -> tuple[OfRows, ...]:
        most = asked.inner
        return tuple(self._of_rows(most, rows) for rows in self.space.rows if most.rows % rows == 0)

    def _of_rows(self, most: Inner, rows: int) -> OfRows:
        inner = most._replace(rows=rows)
        # fewer rows are not cut where a share of what the most keep is too much
        if rows < most.rows and not self.bounds.may_fit(most, rows):
            return OfRows(inner, rule="memory")
        try:
            if not self.bounds.may_fit(inner):
                return OfRows(inner, rule="memory")
        except BadInput:
            return OfRows(inner, rule="shape")
        return OfRows(inner, least_s=self.bounds.least_seconds(inner))

    def _sets(self, asked: Sets) -> Found:
        inner = asked.inner
        several = [(data, self.bounds.mixed(inner, data).least_seconds()) for data in self.space.data_degrees(inner)]
        pools = [pool for pool, devices in enumerate(self.space.devices) if inner.width <= devices]
        return Found(
            several=tuple((data, least_s) for data, least_s in several if least_s < np.inf),
            alone=tuple(self.bounds.ranked(inner, pool, asked.to_beat_s) for pool in pools),
        )

    def _on_pool(self, asked: OnPool) -> Ranked:
        return self.bounds.ranked(asked.inner, asked.pool, asked.to_beat_s)

    def _on_all(self, asked: OnAll) -> tuple[Bounded, ...]:
        return tuple(self.bounds.mixed(asked.inner, asked.data).ways(asked.to_beat_s))

    def _on_all_best(self, asked: OnAllBest) -> tuple[Outer, ...]:
        every = [self.bounds.mixed(asked.inner, data) for data in self.space.data_degrees(asked.inner)]
        near = [
            way for mixed in every if mixed.least_seconds() < asked.to_beat_s for way in mixed.ways(asked.to_beat_s)
        ]
        ways = [way for way in near if way.share <= 1.0 and way.bound_s < asked.to_beat_s]
        return tuple(way.outer for way in sorted(ways, key=lambda way: way.bound_s))

    def _placed_as(self, way: Way) -> Placed:
        """The durations of a way; those of the last one are kept for its price."""
        if self._placed is None or self._placed[0] != way:
            self._placed = way, self.prices.placed(way, self.prices.deal(way), self.prices.at.places(way))
        return self._placed[1]

    def _least_of(self, asked: LeastOf) -> float:
        way = asked.way
        return self._placed_as(way).least_seconds(way.micro_batches(self.space.job), way.outer.schedule)

    def _price_of(self, asked: PriceOf) -> Priced:
        known = self._placed[1] if self._placed is not None and self._placed[0] == asked.way else None
        return self.prices.price(asked.way, known)

    def _prediction_of(self, asked: PredictionOf) -> Prediction:
        plan = self.plan(asked.way, asked.boundaries, NAMELESS, asked.again)
        return predict_priced(self.prices.layers.pricing(asked.way.inner), plan)

    def plan(self, way: Way, boundaries: tuple[int, ...], made_from: MadeFrom, again: tuple[int, ...] = ()) -> Plan:
        """The plan of a way, without prediction and words."""
        if not self._place_of:
            devices = np.concatenate(self.prices.pools.devices).tolist()
            self._place_of.update(zip(devices, places(self.prices.layers.fabric.cluster, devices), strict=True))
        used = np.concatenate([grid.reshape(-1) for grid in self.prices.at.grids(way)])
        ranks = tuple(map(self._place_of.__getitem__, used.tolist()))
        # a ring is priced where attention is one kernel, and a gather where its scores are written out
        kinds = {operator.kind for block in self.prices.layers.graph.blocks for operator in block.operators}
        auto = "ring" if "attention" in kinds else "gather"
        exchange = way.inner.exchange if "exchange" in self.space.fixed else auto
        return plan_of(way, boundaries, ranks, self.space.job, made_from, again, exchange)
