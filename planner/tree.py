"""The space as a tree of ever smaller sets of splits, each with a lower bound of what its plans come to.

Sets fix, in this order: tensor degree, replicas and rows; recompute policy; stages; sharding; places; boundaries. A set
is opened when the search asks for it; what a rule leaves out on the way is counted. What plans come to is the question
of scale.py; bounds of step times and of the time that devices compute bound it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from nebula.errors import BadInput
from nebula.plan.job import RECOMPUTE
from nebula.plan.values import Job, Sharding
from nebula.planner.cuts import Cut
from nebula.planner.deals import Deals, carried, moved
from nebula.planner.engines import runs
from nebula.planner.price import Prices
from nebula.planner.scale import ROUNDING, Scale
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
        score: by which plans are compared.
        bound: no boundaries of the split come to less.
    """

    split: Split
    boundaries: tuple[int, ...]
    step_s: float
    score: float
    bound: float

    @property
    def rank(self) -> tuple[object, ...]:
        """Order of candidates: by score; among equals fewer ranks, less sharding, less recomputation."""
        split = self.split
        policy = RECOMPUTE.index(split.recompute)
        score = float(f"{self.score:.12g}")
        return (score, split.ranks, split.sharding.stage, policy, split.pipeline, split.tensor, split.rows)


class Dealt(NamedTuple):
    """A deal of layers of some split, with its exact step time and score."""

    step_s: float
    boundaries: tuple[int, ...]
    score: float


class Node(NamedTuple):
    """A set of splits that is not opened yet: none of it comes to less than `bound`; open() gives smaller sets.

    Opening the first ones asks for a cut of the graph.
    """

    bound: float
    splits: int
    open: Callable[[], Iterator[Node | Candidate]]
    cut: Cut | None = None


class Tree:
    """The space of one search.

    Args:
        prices: of the graph on the devices.
        limits: of the space.
        device_kind: as in the legality table.
        scale: by what plans are compared.
        to_beat: what a split must come below to be of use; may fall while the search goes on.

    Attributes:
        cut: by rule how many splits were left out.
    """

    def __init__(
        self, prices: Prices, limits: Limits, device_kind: str, scale: Scale, to_beat: Callable[[], float]
    ) -> None:
        self.prices, self.limits, self.device_kind, self.scale, self.to_beat = (
            prices,
            limits,
            device_kind,
            scale,
            to_beat,
        )
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
                    step_s = partial(geometric_bound, rows * row_s / tensor, m)
                    bound = self._least_of(data * tensor, range(1, stages + 1), step_s, m * rows * row_s / tensor)
                    opens = partial(self._by_policy, tensor, data, rows, stages)
                    yield Node(bound, splits * stages, opens, Cut(tensor, rows))

    def samples(self) -> Iterator[Candidate]:
        """One good split for each tensor degree and number of replicas: it soon is known what there is to beat.

        With the smallest micro-batch, as many stages as there are devices for, or as few as may hold the model where
        fewer devices come to less, optimizer states (or nothing) cut over all replicas, and the first recompute policy
        that fits.
        """
        for split in self._samples():
            if self.limits.allows("pipeline", split.pipeline):
                yield from self._first_that_fits(split)
            if self.scale.by_devices:
                yield from self._on_fewest_stages(split)

    def _samples(self) -> list[Split]:
        """The splits that are tried first, the most promising before others."""
        smallest: dict[int, int] = {}
        for data, rows in data_and_rows(self.job, self.limits, Counter()):
            smallest[data] = min(rows, smallest.get(data, rows))
        row_s, found = self.prices.product_seconds_per_row(), []
        for tensor in tensor_degrees(self.limits, Counter()):
            for data, rows in smallest.items():
                sharding = Sharding(stage=1, degree=data) if data > 1 else Sharding()
                stages = self.most_stages(tensor, data)
                if stages and self._allowed(sharding):
                    split = Split(
                        data=data, tensor=tensor, pipeline=stages, rows=rows, sharding=sharding, recompute="none"
                    )
                    least_s = geometric_bound(rows * row_s / tensor, split.micro_batches(self.job), stages)
                    found.append((least_s, split))
        return [split for _, split in sorted(found, key=lambda each: each[0])]

    def sampled(self) -> Iterator[Cut]:
        """The cuts that samples ask for, in that order."""
        pairs = list(data_and_rows(self.job, self.limits, Counter()))
        for tensor in tensor_degrees(self.limits, Counter()):
            yield from (Cut(tensor, rows) for rows in sorted({rows for _, rows in pairs})[:1])

    def most_stages(self, tensor: int, data: int) -> int:
        """Stages that there are layers and devices for."""
        return min(self.limits.layers, self.limits.devices // (tensor * data))

    def _on_fewest_stages(self, split: Split) -> Iterator[Candidate]:
        """For each recompute policy one with the fewest stages that may hold the model."""
        for recompute in policies(self.limits):
            one = replace(split, recompute=recompute)
            if not self._cuts(one):
                return
            fewest = self.prices.fewest_stages(one, NEVER)
            for stages in range(fewest, min(fewest + 2, split.pipeline + 1)):
                if self.limits.allows("pipeline", stages):
                    yield from self._sample(replace(one, pipeline=stages))

    def _sample(self, one: Split) -> Iterator[Candidate]:
        """A good deal of a split, if one comes below what there is to beat."""
        if not runs(one, self.job, self.device_kind) or not self.prices.placeable(one):
            return
        if self.prices.fewest_that_hold(one) > one.pipeline:
            return
        useful_s = self._useful_s(one)
        if self.prices.least_seconds(one) >= useful_s or not self.prices.may_be_dealt(one, useful_s):
            return
        price = self.prices.split(one)
        table = self.prices.deals(one, price, useful_s, one.pipeline)
        if table.value(one.pipeline) < useful_s:
            step_s, boundaries, score = self._best_of(one, price, [table.boundaries(one.pipeline, SLACKS[0])])
            yield Candidate(one, boundaries, step_s, score, self._least(one, table.value(one.pipeline)))

    def _first_that_fits(self, split: Split) -> Iterator[Candidate]:
        for recompute in policies(self.limits):
            one = replace(split, recompute=recompute)
            if not runs(one, self.job, self.device_kind) or not self._cuts(one):
                return
            if self.prices.fewest_that_hold(one) > one.pipeline:
                continue
            if self.prices.least_seconds(one) >= self._useful_s(one) or not self.prices.placeable(one):
                return
            if found := next(self._sample(one), None):
                yield found
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
        splits, least = stages * len(allowed), 0.0
        for recompute in policies(self.limits):
            split = Split(data=data, tensor=tensor, pipeline=stages, rows=rows, sharding=leanest, recompute=recompute)
            if least >= self.to_beat():
                yield Node(least, splits, partial(self._by_stages, split, allowed))
                continue
            if not self._cuts(split):
                self.cut["shape"] += splits
                continue
            fewest = self.prices.fewest_stages(split, NEVER) if self.scale.by_devices else 1
            step_s = partial(self._least_on_stages, split)
            numbers, busy_s = range(fewest, stages + 1), self.prices.computing_seconds(split)
            bound = self._least_of(data * tensor, numbers, step_s, busy_s)
            if recompute == RECOMPUTE[0] and not self.scale.by_devices:
                # what is computed again makes no step shorter
                least = bound
            by_stages = self._by_number if self.scale.by_devices else self._by_stages
            yield Node(bound, splits, partial(by_stages, split, allowed))

    def _least_on_stages(self, split: Split, stages: int) -> float:
        """A step time that the split beats on no such number of stages, without any communication of data."""
        m, busiest_s = split.micro_batches(self.job), self.prices.busiest_seconds(split)[stages - 1]
        return max(m * float(busiest_s), geometric_bound(self.prices.work_seconds(split), m, stages))

    def _least_of(self, ranks: int, stages: range, step_s: Callable[[int], float], busy_s: float) -> float:
        """What plans of any of those numbers of stages come to at least.

        Args:
            ranks: of each stage.
            stages: from the fewest to the most; more never take longer.
            step_s: the least step time on so many stages.
            busy_s: seconds of a step in which the devices of all stages compute, one of each.
        """
        if not self.scale.by_devices:
            return self.scale.rates(ranks * stages[-1]).least(step_s(stages[-1]), 0.0)
        allowed = [number for number in stages if self.limits.allows("pipeline", number)]
        each = (self.scale.rates(ranks * number).least(step_s(number), busy_s / number) for number in allowed)
        return min(each, default=NEVER)

    def _least(self, split: Split, step_s: float) -> float:
        """What a split with a step of so long, or longer, comes to at least."""
        return self.scale.rates(split.ranks).least(step_s, self._busy_s(split))

    def _useful_s(self, split: Split) -> float:
        """A step that takes so long, or longer, is of no use."""
        return self.scale.rates(split.ranks).most_s(self.to_beat(), self._busy_s(split))

    def _busy_s(self, split: Split) -> float:
        """Seconds of a step in which the devices of a split compute at least, on average, where that matters."""
        busy = self.scale.rates(split.ranks).busy
        return self.prices.computing_seconds(split) / split.pipeline if busy else 0.0

    def _by_number(self, split: Split, allowed: list[Sharding]) -> Iterator[Node]:
        """One set for each number of stages, where each has a step time of its own that is of use."""
        limit_bytes = self.prices.limit_bytes
        leanest = self.prices.leanest_deals(split, limit_bytes * (1.0 + ROUNDING))
        for pipeline in range(1, split.pipeline + 1):
            one = replace(split, pipeline=pipeline)
            if not self.limits.allows("pipeline", pipeline):
                self.cut["fixed"] += len(allowed)
            elif leanest.value(pipeline) > limit_bytes * (1.0 + ROUNDING):
                self.cut["memory"] += len(allowed)
            else:
                bound = self._least(one, self._least_on_stages(one, pipeline))
                yield Node(bound, len(allowed), partial(self._on_stages, one, allowed))

    def _on_stages(self, split: Split, allowed: list[Sharding]) -> Iterator[Node]:
        """The same set, bounded by the best deal of layers without any communication of data."""
        price = self.prices.without_communication(split)
        table = self.prices.deals(split, price, self._useful_s(split), split.pipeline)
        if table.value(split.pipeline) == NEVER:
            self.cut[self._lost] += len(allowed)
        else:
            bound = self._least(split, table.value(split.pipeline))
            yield Node(bound, len(allowed), partial(self._by_sharding, split, allowed))

    def _by_stages(self, split: Split, allowed: list[Sharding]) -> Iterator[Node]:
        """One set for each number of stages, bounded by the best deal of layers without any communication of data."""
        useful_s = self._useful_s(split)
        fewest = self.prices.fewest_stages(split, useful_s)
        holding = self.prices.fewest_that_hold(split)
        price = self.prices.without_communication(split)
        table = self.prices.deals(split, price, useful_s, fewest)
        for pipeline in range(1, split.pipeline + 1):
            if not self.limits.allows("pipeline", pipeline):
                self.cut["fixed"] += len(allowed)
            elif pipeline < fewest or table.value(pipeline) == NEVER:
                self.cut["memory" if pipeline < holding else self._lost] += len(allowed)
            else:
                one = replace(split, pipeline=pipeline)
                bound = self._least(one, table.value(pipeline))
                yield Node(bound, len(allowed), partial(self._by_sharding, one, allowed))

    def _by_sharding(self, split: Split, allowed: list[Sharding]) -> Iterator[Node]:
        """One set for each sharding that an engine runs, bounded by all work and tails together."""
        every = [split.sharded(sharding) for sharding in allowed]
        run = [one for one in every if runs(one, self.job, self.device_kind)]
        self.cut["engine"] += len(every) - len(run)
        for one in run:
            yield Node(self._least(one, self.prices.least_seconds(one)), 1, partial(self._placed, one))

    def _placed(self, split: Split) -> Iterator[Node]:
        """The split with its ranks placed, bounded by the best deal of layers."""
        if self.prices.fewest_that_hold(split) > split.pipeline:
            self.cut["memory"] += 1
            return
        if not self.prices.placeable(split):
            self.cut["wan"] += 1
            return
        useful_s = self._useful_s(split)
        if not self.prices.may_be_dealt(split, useful_s):
            self.cut[self._lost] += 1
            return
        price = self.prices.split(split)
        table = self.prices.deals(split, price, useful_s, split.pipeline)
        if table.value(split.pipeline) == NEVER:
            self.cut[self._lost] += 1
            return
        bound = self._least(split, table.value(split.pipeline))
        yield Node(bound, 1, partial(self._dealt, split, price, table))

    def _dealt(self, split: Split, price: SplitPrice, table: Deals) -> Iterator[Candidate]:
        """The split with its best boundaries and its exact time; the best found, where too many come near."""
        starts = list({table.boundaries(split.pipeline, slack) for slack in SLACKS})
        found = self._best_of(split, price, starts)
        exact = self._best_below(split, price, table, found)
        if exact is None:
            ends = [climb(price, start, table.value(split.pipeline))[0] for start in starts]
            found = self._best_of(split, price, ends)
            exact = self._best_below(split, price, table, found)
        if exact is not None:
            yield exact
        else:
            yield Candidate(
                split, found.boundaries, found.step_s, found.score, self._least(split, table.value(split.pipeline))
            )

    def _best_below(self, split: Split, price: SplitPrice, table: Deals, found: Dealt) -> Candidate | None:
        """The best of a deal and of all that its score and what there is to beat do not rule out; None: too many."""
        limit = min(found.score, self.to_beat())
        limit_s = min(self._useful_s(split), self.scale.rates(split.ranks).most_s(limit, self._busy_s(split)))
        near = table.below(split.pipeline, limit_s, LISTED)
        if near is None:
            return None
        best = self._best_of(split, price, [found.boundaries, *near])
        return Candidate(split, best.boundaries, best.step_s, best.score, min(best.score, limit))

    def _best_of(self, split: Split, price: SplitPrice, deals: Sequence[tuple[int, ...]]) -> Dealt:
        """The best of several deals; of those that come to the same the first in order."""
        rates, devices = self.scale.rates(split.ranks), self.prices.arranged(split)[0].devices
        steps_s = price.step_seconds(deals)
        busy_s = price.computing_seconds(deals) if rates.busy else np.zeros(len(deals))
        least = np.where(steps_s > rates.limit_s * (1.0 + ROUNDING), NEVER, rates.step * steps_s + rates.busy * busy_s)
        every = sorted(zip(least.tolist(), deals, steps_s.tolist(), busy_s.tolist(), strict=True))
        best = Dealt(every[0][2], every[0][1], NEVER)
        for bound, boundaries, step_s, each_busy_s in every:
            if bound >= best.score:
                break
            score = self.scale.exact(devices, step_s, each_busy_s)
            if score < best.score:
                best = Dealt(step_s, boundaries, score)
        return best

    @property
    def _lost(self) -> str:
        """Why a split that its bytes alone do not rule out has no deal: memory, where nothing is known to beat."""
        return "memory" if self.to_beat() == NEVER else "bound"


def climb(price: SplitPrice, boundaries: tuple[int, ...], bound_s: float) -> tuple[tuple[int, ...], float]:
    """Moves single layers as long as the step gets shorter and is not proven the shortest.

    Across one border first; where that does not help, from any stage to any other.
    """
    step_s = float(price.step_seconds([boundaries])[0])
    ways = iter((moved, carried))
    way = next(ways)
    while step_s > bound_s * (1.0 + 1e-9):
        near = way(boundaries)
        times = price.fitting_seconds(near) if len(near) else np.array([np.inf])
        best = int(times.argmin())
        if times[best] < step_s * (1.0 - 1e-12):
            boundaries, step_s = tuple(near[best].tolist()), float(times[best])
        elif (after := next(ways, None)) is None:
            break
        else:
            way = after
    return boundaries, step_s
