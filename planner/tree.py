"""The space as a tree of ever smaller sets of splits, each with a lower bound of the step time.

Sets fix, in this order: tensor degree, replicas and rows; recompute policy; stages; sharding; places; boundaries. A set
is opened when the search asks for it; what a rule leaves out on the way is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from nebula.errors import BadInput
from nebula.plan.job import RECOMPUTE
from nebula.plan.values import Job, Sharding
from nebula.planner.deals import Deals, carried, moved
from nebula.planner.engines import runs
from nebula.planner.price import Prices
from nebula.planner.space import Limits, Split, data_and_rows, policies, shardings, tensor_degrees
from nebula.planner.split_price import SplitPrice
from nebula.planner.stages import geometric_bound

LISTED = 1000
"""Up to so many ways to deal the layers whose bound lies below the best found, all are tried."""

SLACKS = (1e-9, 3e-3)
"""How far above the least bound the deals may lie from which better ones are looked for."""

NEVER = float("inf")


class Candidate(NamedTuple):
    """A split with boundaries and its exact step time.

    Attributes:
        bound_s: no boundaries of the split give a shorter step.
    """

    split: Split
    boundaries: tuple[int, ...]
    step_s: float
    bound_s: float

    @property
    def rank(self) -> tuple[object, ...]:
        """Order of candidates: by time; among equals fewer ranks, less sharding, less recomputation."""
        split = self.split
        policy = RECOMPUTE.index(split.recompute)
        time_s = float(f"{self.step_s:.12g}")
        return (time_s, split.ranks, split.sharding.stage, policy, split.pipeline, split.tensor, split.rows)


class Node(NamedTuple):
    """A set of splits that is not opened yet: no split of it is faster than bound_s; open() gives smaller sets."""

    bound_s: float
    splits: int
    open: Callable[[], Iterator[Node | Candidate]]


class Tree:
    """The space of one search.

    Args:
        prices: of the graph on the devices.
        limits: of the space.
        device_kind: as in the legality table.
        to_beat_s: what a split must beat to be of use; may fall while the search goes on.

    Attributes:
        cut: by rule how many splits were left out.
    """

    def __init__(self, prices: Prices, limits: Limits, device_kind: str, to_beat_s: Callable[[], float]) -> None:
        self.prices, self.limits, self.device_kind, self.to_beat_s = prices, limits, device_kind, to_beat_s
        self.job: Job = prices.job
        self.cut: Counter[str] = Counter()
        self._uncut: set[int] = set()
        self._allowed_shardings: dict[int, tuple[list[Sharding], int]] = {}

    def roots(self) -> Iterator[Node]:
        """One set for each tensor degree, number of replicas and micro-batch; bounded by the model's products."""
        row_s = self.prices.product_seconds_per_row()
        pairs = list(data_and_rows(self.job, self.limits, self.cut))
        for tensor in tensor_degrees(self.limits, self.cut):
            for data, rows in pairs:
                stages = self.most_stages(tensor, data)
                splits = len(policies(self.limits)) * len(self._shardings(data)[0])
                self.cut["devices"] += splits * (self.limits.layers - stages)
                if stages:
                    m = self.job.global_batch // (data * rows)
                    bound_s = geometric_bound(rows * row_s / tensor, m, stages)
                    yield Node(bound_s, splits * stages, partial(self._by_policy, tensor, data, rows, stages))

    def samples(self) -> Iterator[Candidate]:
        """One good split for each tensor degree and number of replicas: it soon is known what there is to beat.

        With the smallest micro-batch, as many stages as there are devices for, optimizer states (or nothing) cut over
        all replicas, and the first recompute policy that fits.
        """
        smallest: dict[int, int] = {}
        for data, rows in data_and_rows(self.job, self.limits, Counter()):
            smallest[data] = min(rows, smallest.get(data, rows))
        for tensor in tensor_degrees(self.limits, Counter()):
            for data, rows in smallest.items():
                sharding = Sharding(stage=1, degree=data) if data > 1 else Sharding()
                stages = self.most_stages(tensor, data)
                if stages and self.limits.allows("pipeline", stages) and self._allowed(sharding):
                    split = Split(
                        data=data, tensor=tensor, pipeline=stages, rows=rows, sharding=sharding, recompute="none"
                    )
                    yield from self._first_that_fits(split)

    def most_stages(self, tensor: int, data: int) -> int:
        """Stages that there are layers and devices for."""
        return min(self.limits.layers, self.limits.devices // (tensor * data))

    def _first_that_fits(self, split: Split) -> Iterator[Candidate]:
        for recompute in policies(self.limits):
            one = replace(split, recompute=recompute)
            if not runs(one, self.job, self.device_kind) or not self._cuts(one):
                return
            if self.prices.least_bytes(one) > self.prices.limit_bytes:
                continue
            if self.prices.least_seconds(one) >= self.to_beat_s():
                return
            if not self.prices.placeable(one):
                return
            price = self.prices.split(one)
            table = self.prices.deals(one, price, self.to_beat_s(), one.pipeline)
            if table.value(one.pipeline) < self.to_beat_s():
                boundaries = table.boundaries(one.pipeline, SLACKS[0])
                step_s = float(price.step_seconds([boundaries])[0])
                yield Candidate(one, boundaries, step_s, table.value(one.pipeline))
                return

    def _allowed(self, sharding: Sharding) -> bool:
        fixed = self.limits
        return fixed.allows("sharding", sharding.stage) and fixed.allows("sharding_degree", sharding.degree)

    def _shardings(self, data: int) -> tuple[list[Sharding], int]:
        """The shardings that are allowed, and how many the user left out."""
        if data not in self._allowed_shardings:
            cut: Counter[str] = Counter()
            self._allowed_shardings[data] = list(shardings(data, self.limits, cut)), cut["fixed"]
        return self._allowed_shardings[data]

    def _cuts(self, split: Split) -> bool:
        """Whether the tensor degree divides what it has to cut."""
        if split.tensor in self._uncut:
            return False
        try:
            self.prices.spans(split.tensor, split.rows, split.recompute)
        except BadInput:
            self._uncut.add(split.tensor)
            return False
        return True

    def _by_policy(self, tensor: int, data: int, rows: int, stages: int) -> Iterator[Node]:
        """One set for each recompute policy."""
        allowed, left_out = self._shardings(data)
        self.cut["fixed"] += left_out
        if not allowed:
            return
        leanest = max(allowed, key=lambda s: (s.stage, s.degree))
        for recompute in policies(self.limits):
            split = Split(data=data, tensor=tensor, pipeline=stages, rows=rows, sharding=leanest, recompute=recompute)
            splits = stages * len(allowed)
            if not self._cuts(split):
                self.cut["shape"] += splits
                continue
            spans, m = self.prices.spans(tensor, rows, recompute), split.micro_batches(self.job)
            bound_s = max(m * spans.widest_s, geometric_bound(self.prices.work_seconds(split), m, stages))
            yield Node(bound_s, splits, partial(self._by_stages, split, allowed))

    def _by_stages(self, split: Split, allowed: list[Sharding]) -> Iterator[Node]:
        """One set for each number of stages, bounded by the best deal of layers without any communication of data."""
        fewest = self.prices.fewest_stages(split, self.to_beat_s())
        price = self.prices.without_communication(split)
        table = self.prices.deals(split, price, self.to_beat_s(), fewest)
        for pipeline in range(1, split.pipeline + 1):
            one = replace(split, pipeline=pipeline)
            if not self.limits.allows("pipeline", pipeline):
                self.cut["fixed"] += len(allowed)
            elif pipeline < fewest or table.value(pipeline) == NEVER:
                self.cut[self._lost(one)] += len(allowed)
            else:
                yield Node(table.value(pipeline), len(allowed), partial(self._by_sharding, one, allowed))

    def _by_sharding(self, split: Split, allowed: list[Sharding]) -> Iterator[Node]:
        """One set for each sharding that an engine runs, bounded by all work and tails together."""
        every = [replace(split, sharding=sharding) for sharding in allowed]
        run = [one for one in every if runs(one, self.job, self.device_kind)]
        fit = [one for one in run if self.prices.least_bytes(one) <= self.prices.limit_bytes]
        self.cut["engine"] += len(every) - len(run)
        self.cut["memory"] += len(run) - len(fit)
        for one in fit:
            yield Node(self.prices.least_seconds(one), 1, partial(self._placed, one))

    def _placed(self, split: Split) -> Iterator[Node]:
        """The split with its ranks placed, bounded by the best deal of layers."""
        if not self.prices.placeable(split):
            self.cut["wan"] += 1
            return
        price = self.prices.split(split)
        table = self.prices.deals(split, price, self.to_beat_s(), split.pipeline)
        if table.value(split.pipeline) == NEVER:
            self.cut[self._lost(split)] += 1
            return
        yield Node(table.value(split.pipeline), 1, partial(self._dealt, split, price, table))

    def _dealt(self, split: Split, price: SplitPrice, table: Deals) -> Iterator[Candidate]:
        """The split with its best boundaries and its exact time; the best found, where too many come near."""
        starts = list({table.boundaries(split.pipeline, slack) for slack in SLACKS})
        found = min(zip(price.step_seconds(starts).tolist(), starts, strict=True))
        exact = self._best_below(split, price, table, found)
        if exact is None:
            ends = [climb(price, start, table.value(split.pipeline)) for start in starts]
            found = min((step_s, boundaries) for boundaries, step_s in ends)
            exact = self._best_below(split, price, table, found)
        if exact is not None:
            yield exact
        else:
            yield Candidate(split, found[1], found[0], table.value(split.pipeline))

    def _best_below(
        self, split: Split, price: SplitPrice, table: Deals, found: tuple[float, tuple[int, ...]]
    ) -> Candidate | None:
        """The best of a deal and of all that its time and what there is to beat do not rule out; None: too many."""
        limit_s = min(found[0], self.to_beat_s())
        near = table.below(split.pipeline, limit_s, LISTED)
        if near is None:
            return None
        step_s, boundaries = min(
            [found, *zip(price.step_seconds(near).tolist(), near, strict=True)] if near else [found]
        )
        return Candidate(split, boundaries, step_s, min(step_s, limit_s))

    def _lost(self, split: Split) -> str:
        """Why a split has no deal: memory, where that is plain without looking at times, or else the bound."""
        short = self.to_beat_s() == NEVER or self.prices.least_bytes(split) > self.prices.limit_bytes
        return "memory" if short else "bound"


def climb(price: SplitPrice, boundaries: tuple[int, ...], bound_s: float) -> tuple[tuple[int, ...], float]:
    """Moves single layers as long as the step gets shorter and is not proven the shortest.

    Across one border first; where that does not help, from any stage to any other.
    """
    step_s = float(price.step_seconds([boundaries])[0])
    ways = iter((moved, carried))
    way = next(ways)
    while step_s > bound_s * (1.0 + 1e-9):
        near = list(way(boundaries))
        times = np.where(price.fits(near), price.step_seconds(near), np.inf) if near else np.array([np.inf])
        best = int(times.argmin())
        if times[best] < step_s * (1.0 - 1e-12):
            boundaries, step_s = near[best], float(times[best])
        elif (after := next(ways, None)) is None:
            break
        else:
            way = after
    return boundaries, step_s
