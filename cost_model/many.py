"""What thousands of candidates cost at once: the step time and the memory per stage that evaluate gives one by one.

A stage is a run of layers, and there are few runs: each is priced once for all candidates that run alike, so that a
candidate is a handful of look-ups and a closed form. Chain costs, placements and prices of runs are kept from one batch
to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.places import usable_devices
from nebula.cluster.values import Cluster
from nebula.cost_model.border import meets
from nebula.cost_model.candidates import Candidates, Ints, Way
from nebula.cost_model.closed_form import step_seconds
from nebula.cost_model.fleet import Pricing
from nebula.cost_model.memory import in_flights
from nebula.cost_model.one_f_one_b import one_f_one_b_seconds
from nebula.cost_model.placed import Places, place
from nebula.cost_model.spans import Floats
from nebula.cost_model.tables import Tables
from nebula.errors import BadInput
from nebula.graph.values import DistributedGraph
from nebula.plan.values import Job

TOGETHER = 1 << 15
"""Stages that are looked up together: few enough for a processor's cache."""


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
        fits: NDArray[np.bool_] = self.memory_bytes.max(axis=1) <= self.limit_bytes
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
        self._tables = Tables(pricing, self.device)
        self._placed: dict[tuple[int, int, int, int], Places] = {}

    def on(self, devices: Sequence[int]) -> Many:
        """The same on other devices; prices that do not depend on places are shared where the type is the same."""
        other = Many(self.pricing, devices)
        if other.device == self.device:
            other._tables = self._tables
        return other

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
            step_s[members] = stages.step_s(schedule, meet=meets(self.device))
        return Priced(step_s=step_s, memory_bytes=memory_bytes, limit_bytes=self.limit_bytes)

    def _stages(self, bounds: Ints, pieces: Sequence[tuple[Way, Ints]]) -> _Stages:
        """The costs of every stage of candidates of equal length, way by way."""
        runs = self._tables.runs.index(bounds[:-1], bounds[1:])
        forward_s, backward_s, met_s, tail_s, memory_bytes = np.empty((5, *runs.shape))
        micro_batches = np.empty(runs.shape[1], dtype=np.int64)
        found = _Stages(forward_s, backward_s, met_s, tail_s, memory_bytes, micro_batches)
        begin = 0
        for way, members in pieces:
            own = slice(begin, begin + len(members))
            found.micro_batches[own] = m = self.pricing.job.global_batch // (way.data * way.rows)
            for column, values in zip(found[:5], self._way(way, m, runs[:, own], bounds[:, own]), strict=True):
                column[:, own] = values
            begin += len(members)
        return found

    def _way(self, way: Way, micro_batches: int, runs: Ints, bounds: Ints) -> tuple[Floats, ...]:
        """Forward, backward, what sending back is of it, tail and memory of stages [stages, candidates] of one way."""
        places, known = self._places(way), self._tables
        table, runs = known.table(way, places, micro_batches, runs)
        flying = in_flights(way.schedule, way.pipeline, micro_batches)[:, None]
        forward_s, backward_s, met_s = table.forward_s.take(runs), table.backward_s.take(runs), np.zeros(runs.shape)
        if way.pipeline > 1:
            for end, ends in ((places.entry, bounds[:-1]), (places.exit, bounds[1:])):
                forth_s, back_s = known.borders(way, end)
                index = ends + (np.array(end.stages) * (self._layers + 1))[:, None]
                forward_s += forth_s.take(index)
                backward_s += back_s.take(index)
                met_s += back_s.take(index) if end.entering else 0.0
        lines = zip(table.held_bytes, table.kept_bytes, np.minimum(flying, table.most[:, None]), strict=True)
        memory_bytes = np.maximum.reduce([held.take(runs) + count * kept.take(runs) for held, kept, count in lines])
        return forward_s, backward_s, met_s, table.tail_s.take(runs), memory_bytes

    def _places(self, way: Way) -> Places:
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
            self._placed[key] = Places.of(placed)
        return self._placed[key]


class _Stages(NamedTuple):
    """Stages of candidates of equal length, [stages, candidates]; micro-batches are [candidates]."""

    forward_s: Floats
    backward_s: Floats
    met_s: Floats
    tail_s: Floats
    memory_bytes: Floats
    micro_batches: Ints

    def step_s(self, schedule: str, *, meet: bool) -> Floats:
        """[candidates] seconds of a step; of other schedules than 1F1B all candidates have as many micro-batches.

        `meet` as of border.meets.
        """
        if schedule == "1f1b":
            met_s = self.met_s if meet else None
            return one_f_one_b_seconds(self.forward_s, self.backward_s, self.tail_s, self.micro_batches, met_s)
        return step_seconds(self.forward_s.T, self.backward_s.T, self.tail_s.T, int(self.micro_batches[0]), schedule)


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
