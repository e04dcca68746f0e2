"""What every run of layers costs as a stage in one way of running it, kept from one batch of candidates to the next.

Inside of a stage and at its two ends are tables of their own: there are few of either, and thousands of pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nebula.cluster.values import DeviceType
from nebula.cost_model.candidates import Way
from nebula.cost_model.fleet import Pricing
from nebula.cost_model.groups import Groups
from nebula.cost_model.placed import Ends, Places
from nebula.cost_model.spans import Floats, Ints, Spans, Sums

LENGTHS = 8
"""Runs are priced for whole multiples of so many lengths, so that the next batch is likely to find its own."""

KEPT_TABLES = 2048
"""Prices of all runs of layers that are kept from one batch to the next."""


class Table(NamedTuple):
    """Runs of layers as a stage, borders apart.

    Attributes:
        forward_s: seconds of a forward; likewise of a backward and of the tail.
        held_bytes: [lines, runs] held whatever is in flight; the greatest line is the peak.
        kept_bytes: [lines, runs] of each micro-batch in flight.
        most: [lines, 1] micro-batches in flight that count at most.
    """

    forward_s: Floats
    backward_s: Floats
    tail_s: Floats
    held_bytes: Floats
    kept_bytes: Floats
    most: Floats


class Runs:
    """All runs of layers, the shortest first, so that those of a few lengths are a few entries.

    Attributes:
        first: first layer of each run.
        end: the layer behind its last.
    """

    def __init__(self, layers: int) -> None:
        length = np.repeat(np.arange(1, layers + 1), np.arange(layers, 0, -1))
        # runs of one length begin at 0, 1, ...
        self._starts = np.concatenate([[0], np.cumsum(np.arange(layers, 0, -1))])
        self.first = np.arange(len(length)) - self._starts[length - 1]
        self.end = self.first + length

    def index(self, first: Ints, end: Ints) -> Ints:
        """Which runs these are."""
        which: Ints = self._starts.take(end - first - 1) + first
        return which

    def bucket(self, longest: int) -> int:
        """How many runs to price where `longest` is the last that is needed: whole lengths, a multiple of some."""
        length = int(np.searchsorted(self._starts, longest, side="right"))
        return int(self._starts[min(-(-length // LENGTHS) * LENGTHS, len(self._starts) - 1)])


class Tables:
    """Tables of one graph on one device type, each made once.

    Args:
        pricing: of the graph, cluster and job.
        device: what runs all stages.
    """

    def __init__(self, pricing: Pricing, device: DeviceType) -> None:
        self.pricing, self.device = pricing, device
        self.runs = Runs(len(pricing.graph.layers))
        self._sums: dict[tuple[Spans, int], Sums] = {}
        self._tables: dict[tuple[object, ...], Table] = {}
        self._borders: dict[tuple[object, ...], tuple[Floats, Floats]] = {}

    def table(self, way: Way, places: Places, micro_batches: int, runs: Ints) -> tuple[Table, Ints]:
        """What runs cost, and where in it those of [stages, candidates] stand, which may be of several kinds."""
        count = self.runs.bucket(int(runs.max()))
        tables = [self._table(way, micro_batches, count, *kind) for kind in places.kinds]
        if len(tables) == 1:
            return tables[0], runs
        joined = Table(*(np.concatenate(column, axis=-1) for column in zip(*tables, strict=True)))
        joined = joined._replace(most=tables[0].most)
        return joined, runs + (np.array(places.stages) * count)[:, None]

    def borders(self, way: Way, ends: Ends) -> tuple[Floats, Floats]:
        """What the borders there add to a forward and to a backward: [kinds * (layers + 1)], by the layer behind."""
        each = [self._border(self._spans(way, groups), groups, ends.entering) for groups in ends.kinds]
        forward_s, backward_s = map(np.concatenate, zip(*each, strict=True))
        return forward_s, backward_s

    def _border(self, spans: Spans, groups: Groups, entering: bool) -> tuple[Floats, Floats]:
        key = (spans, entering, groups.tensor, groups.before if entering else groups.behind)
        if key not in self._borders:
            self._borders[key] = spans.entry(groups) if entering else spans.exit(groups)
        return self._borders[key]

    def _spans(self, way: Way, groups: Groups) -> Spans:
        return self.pricing.spans(
            rows=way.rows,
            tensor=way.tensor,
            levels=groups.tensor,
            sequence=False,
            device=self.device,
            policy=way.recompute,
        )

    def _table(self, way: Way, micro_batches: int, count: int, groups: Groups, slow: float) -> Table:
        """The costs of the shortest runs of layers as a stage, borders apart."""
        spans, alone = self._spans(way, groups), way.pipeline == 1
        key = (spans, way.sharding, micro_batches, count, groups.shard, groups.outer, slow, alone)
        if key not in self._tables:
            if len(self._tables) >= KEPT_TABLES:
                self._tables.clear()
            if (spans, count) not in self._sums:
                self._sums[spans, count] = spans.of(self.runs.first[:count], self.runs.end[:count])
            sums = self._sums[spans, count]
            forward_s, backward_s = spans.passes(sums, micro_batches, way.sharding, groups, slow)
            tail_s = spans.tail(sums, way.sharding, groups, slow)
            held, kept, most = zip(*spans.lines(sums, way.sharding, groups, micro_batches), strict=True)
            lines = np.array(held), np.array(kept), np.array(most)[:, None]
            self._tables[key] = Table(forward_s, backward_s, tail_s, *lines)
        return self._tables[key]
