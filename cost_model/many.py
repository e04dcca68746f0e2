"""What thousands of candidates cost at once: the step time and the memory per stage that evaluate gives one by one.

A stage is a run of layers, and there are few runs: each is priced once for all candidates that run alike, so that a
candidate is a handful of look-ups and a closed form. Chain costs, placements and prices of runs are kept from one batch
to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.places import usable_devices
from nebula.cluster.values import Cluster
from nebula.cost_model.candidates import Candidates, Ints, Way
from nebula.cost_model.closed_form import step_seconds
from nebula.cost_model.evaluate import Pricing
from nebula.cost_model.groups import Groups
from nebula.cost_model.one_f_one_b import one_f_one_b_seconds
from nebula.cost_model.placed import Placed, place
from nebula.cost_model.spans import Floats, Spans, Sums
from nebula.errors import BadInput
from nebula.graph.values import DistributedGraph
from nebula.plan.schedule import in_flight
from nebula.plan.values import Job

TOGETHER = 1 << 15
"""Stages that are looked up together: few enough for a processor's cache."""

LENGTHS = 8
"""Runs are priced for whole multiples of so many lengths, so that the next batch is likely to find its own."""

KEPT_TABLES = 2048
"""Prices of all runs of layers that are kept from one batch to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """What candidates cost.

    Attributes:
        step_s: [candidates] seconds of a step.
        memory_bytes: [candidates, widest] peak of a rank of each stage; 0 behind the last.
        limit_bytes: what a device may hold.
    """

    step_s: Floats
    memory_bytes: Floats
    limit_bytes: float

    @property
    def fits(self) -> NDArray[np.bool_]:
        """[candidates] whether every stage is within the limit."""
        fits: NDArray[np.bool_] = (self.memory_bytes <= self.limit_bytes).all(axis=1)
        return fits


def evaluate_many(graph: DistributedGraph, cluster: Cluster, job: Job, candidates: Candidates) -> Priced:
    """Step time and memory of every candidate, as of evaluate to rounding.

    Raises:
        BadInput: a candidate does not fit the graph, the cluster or the job; the usable devices are of several types.
    """
    return Many(Pricing(graph, cluster, job)).price(candidates)


class Many:
    """Prices batches of candidates on equal devices.

    Args:
        pricing: of the graph, cluster and job.
        devices: global indices in the order of ranks; by default all that are not excluded.

    Raises:
        BadInput: the devices are of several types.
    """

    def __init__(self, pricing: Pricing, devices: Sequence[int] = ()) -> None:
        self.pricing = pricing
        self.devices = np.array(devices or usable_devices(pricing.cluster))
        types = pricing.fabric.device_types(self.devices)
        if len(types) != 1:
            names = " and ".join(each.name for each in types) or "no device"
            raise BadInput(f"candidates are priced on devices of one type, not on {names}; name the devices of one")
        self.device, self._layers = types[0], len(pricing.graph.layers)
        self.limit_bytes = self.device.memory_bytes * pricing.job.memory_fraction
        self._runs = _Runs(self._layers)
        self._placed: dict[tuple[int, int, int, int], _Places] = {}
        self._sums: dict[tuple[Spans, int], Sums] = {}
        self._tables: dict[tuple[object, ...], _Table] = {}
        self._borders: dict[tuple[object, ...], tuple[Floats, Floats]] = {}

    def price(self, candidates: Candidates) -> Priced:
        """Step time and memory of every candidate.

        Raises:
            BadInput: a candidate does not fit the graph, the cluster or the job.
        """
        candidates.check(self._layers, len(self.devices), self.pricing.job)
        step_s = np.empty(len(candidates))
        memory_bytes = np.zeros((len(candidates), candidates.boundaries.shape[1] - 1))
        for (pipeline, schedule), pieces in _batches(candidates):
            members = np.concatenate([piece for _, piece in pieces])
            bounds = candidates.boundaries[members, : pipeline + 1].T.copy()
            stages = self._stages(bounds, pieces)
            memory_bytes[members, :pipeline] = stages.memory_bytes.T
            step_s[members] = stages.step_s(schedule)
        return Priced(step_s=step_s, memory_bytes=memory_bytes, limit_bytes=self.limit_bytes)

    def _stages(self, bounds: Ints, pieces: Sequence[tuple[Way, Ints]]) -> _Stages:
        """The costs of every stage of candidates of equal length, way by way."""
        runs = self._runs.index(bounds[:-1], bounds[1:])
        columns = [np.empty(runs.shape) for _ in range(4)]
        micro_batches, begin = np.empty(runs.shape[1], dtype=np.int64), 0
        for way, members in pieces:
            own = slice(begin, begin + len(members))
            micro_batches[own] = m = self.pricing.job.global_batch // (way.data * way.rows)
            for column, found in zip(columns, self._way(way, m, runs[:, own], bounds[:, own]), strict=True):
                column[:, own] = found
            begin += len(members)
        return _Stages(*columns, micro_batches)

    def _way(self, way: Way, micro_batches: int, runs: Ints, bounds: Ints) -> tuple[Floats, Floats, Floats, Floats]:
        """Forward, backward, tail and memory of stages [stages, candidates] that run in one way."""
        places, count = self._places(way), self._runs.bucket(int(runs.max()))
        tables = [self._table(way, micro_batches, count, *kind) for kind in places.kinds]
        table = tables[0]
        if len(tables) > 1:
            runs = runs + (np.array(places.stages) * count)[:, None]
            table = _Table(*map(np.concatenate, zip(*tables, strict=True)))
        flying = _in_flight(way.schedule, way.pipeline, micro_batches)[:, None]
        forward_s, backward_s = table.forward_s.take(runs), table.backward_s.take(runs)
        if way.pipeline > 1:
            spans = self._spans(way, places.kinds[0][0])
            for side, ends in ((places.entry, bounds[:-1]), (places.exit, bounds[1:])):
                forth_s, back_s = map(
                    np.concatenate, zip(*(self._border(spans, *at) for at in side.kinds), strict=True)
                )
                index = ends + (np.array(side.stages) * (self._layers + 1))[:, None]
                forward_s += forth_s.take(index)
                backward_s += back_s.take(index)
        memory_bytes = table.held_bytes.take(runs) + flying * table.kept_bytes.take(runs)
        return forward_s, backward_s, table.tail_s.take(runs), memory_bytes

    def _border(self, spans: Spans, end: str, groups: Groups) -> tuple[Floats, Floats]:
        """What one end of a stage adds to a forward and to a backward, by the layer at which it is."""
        key = (spans, end, groups.tensor, groups.before if end == "entry" else groups.behind)
        if key not in self._borders:
            self._borders[key] = spans.entry(groups) if end == "entry" else spans.exit(groups)
        return self._borders[key]

    def _places(self, way: Way) -> _Places:
        key = (way.data, way.tensor, way.pipeline, way.sharding.degree)
        if key not in self._placed:
            data, tensor, pipeline, degree = key
            placed = place(
                self.devices,
                data=data,
                tensor=tensor,
                pipeline=pipeline,
                degree=degree,
                fabric=self.pricing.fabric,
            )
            self._placed[key] = _Places.of(placed)
        return self._placed[key]

    def _spans(self, way: Way, groups: Groups) -> Spans:
        return self.pricing.spans(
            rows=way.rows,
            tensor=way.tensor,
            levels=groups.tensor,
            sequence=False,
            device=self.device,
            policy=way.recompute,
        )

    def _table(self, way: Way, micro_batches: int, count: int, groups: Groups, slow: float) -> _Table:
        """The costs of the shortest runs of layers as a stage, borders apart."""
        spans, alone = self._spans(way, groups), way.pipeline == 1
        key = (spans, way.sharding, micro_batches, count, groups.shard, groups.outer, slow, alone)
        if key not in self._tables:
            if len(self._tables) >= KEPT_TABLES:
                self._tables.clear()
            if (spans, count) not in self._sums:
                self._sums[spans, count] = spans.of(self._runs.first[:count], self._runs.end[:count])
            sums = self._sums[spans, count]
            forward_s, backward_s = spans.passes(sums, micro_batches, way.sharding, groups, slow)
            tail_s = spans.tail(sums, way.sharding, groups, slow)
            held_bytes = spans.held_bytes(sums, way.sharding, groups)
            self._tables[key] = _Table(forward_s, backward_s, tail_s, held_bytes, sums.kept_bytes)
        return self._tables[key]


class _Runs:
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


class _Table(NamedTuple):
    """Every run of layers as a stage: seconds, bytes held whatever is in flight, bytes kept of a micro-batch."""

    forward_s: Floats
    backward_s: Floats
    tail_s: Floats
    held_bytes: Floats
    kept_bytes: Floats


class _Stages(NamedTuple):
    """Stages of candidates of equal length, [stages, candidates]; micro-batches are [candidates]."""

    forward_s: Floats
    backward_s: Floats
    tail_s: Floats
    memory_bytes: Floats
    micro_batches: Ints

    def step_s(self, schedule: str) -> Floats:
        """[candidates] seconds of a step; of other schedules than 1F1B all candidates have as many micro-batches."""
        if schedule == "1f1b":
            return one_f_one_b_seconds(self.forward_s, self.backward_s, self.tail_s, self.micro_batches)
        return step_seconds(self.forward_s.T, self.backward_s.T, self.tail_s.T, int(self.micro_batches[0]), schedule)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """The stages of a split by where they are: what is inside of a stage, and at its two ends.

    Attributes:
        kinds: groups and slowness of stages that differ in more than their borders.
        stages: for each stage the index of its kind.
        entry: what lies before each stage.
        exit: what lies behind it.
    """

    kinds: tuple[tuple[Groups, float], ...]
    stages: tuple[int, ...]
    entry: _Side
    exit: _Side

    @staticmethod
    def of(placed: Placed) -> _Places:
        """The same placement, borders apart."""
        each = [placed.kinds[kind] for kind in placed.stages]
        kinds, stages = _distinct([(g.tensor, g.shard, g.outer, slow) for g, slow in each])
        entries, entry = _distinct([(g.tensor, g.before) for g, _ in each])
        exits, leaving = _distinct([(g.tensor, g.behind) for g, _ in each])
        return _Places(
            kinds=tuple(each[i] for i in kinds),
            stages=stages,
            entry=_Side(tuple(("entry", each[i][0]) for i in entries), entry),
            exit=_Side(tuple(("exit", each[i][0]) for i in exits), leaving),
        )


class _Side(NamedTuple):
    """One end of the stages: the different kinds of borders there, and for each stage the index of its kind."""

    kinds: tuple[tuple[str, Groups], ...]
    stages: tuple[int, ...]


def _distinct(keys: Sequence[object]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where each different key occurs first, and for each key which of them it is."""
    index: dict[object, int] = {}
    which = tuple(index.setdefault(key, len(index)) for key in keys)
    return tuple(which.index(kind) for kind in range(len(index))), which


def _batches(candidates: Candidates) -> Iterator[tuple[tuple[int, str], list[tuple[Way, Ints]]]]:
    """Pipeline and schedule, and pieces of ways that have both: as many as are looked up together.

    Ways of other schedules than 1F1B stay alone, because their closed forms take one number of micro-batches.
    """
    pieces: list[tuple[Way, Ints]] = []
    kind, room = (0, ""), 0
    for way, members in candidates.by_way():
        most = max(1, TOGETHER // way.pipeline)
        for begin in range(0, len(members), most):
            piece = members[begin : begin + most]
            if pieces and (kind != (way.pipeline, way.schedule) or len(piece) > room or way.schedule != "1f1b"):
                yield kind, pieces
                pieces = []
            if not pieces:
                kind, room = (way.pipeline, way.schedule), most
            pieces.append((way, piece))
            room -= len(piece)
    if pieces:
        yield kind, pieces


@lru_cache(maxsize=4096)
def _in_flight(schedule: str, stages: int, micro_batches: int) -> NDArray[np.int64]:
    """[stages] micro-batches whose activations a stage holds together."""
    if schedule == "1f1b":
        # what nebula.plan.schedule counts along the order of 1F1B
        return np.minimum(np.arange(stages, 0, -1), micro_batches)
    return np.array([in_flight(schedule, stages, stage, micro_batches) for stage in range(stages)])
