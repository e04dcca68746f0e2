"""Lower bounds of ways before they are dealt, placed and priced: what no deal of layers to stages can beat.

A bound needs the inner half of a way and its degrees alone; it holds for every pool on which its stages may lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from nebula.cost_model.held import held
from nebula.cost_model.peak import CONTEXT_BYTES, FRAGMENTATION
from nebula.cost_model.step_parameters import DEFAULT
from nebula.cost_model.traffic import Axes
from nebula.plan.values import Sharding
from nebula.planner.explore.layers import Layers
from nebula.planner.explore.price import Floats, Ints, Place, WayPrices
from nebula.planner.explore.ways import Inner, Outer, Space, Way
from nebula.planner.stages import geometric_bound

FLIGHTS: dict[str, Callable[[int, int], int]] = {
    "1f1b": lambda p, _: p,
    "zb-h1": lambda p, _: p,
    "interleaved": lambda p, v: 2 * (p - 1) + (v - 1) * p + 1,
    "zb-v": lambda p, _: 2 * p,
    "dualpipe-v": lambda p, _: 2 * p + 1,
}
"""Chunks in flight on the first device of a pipeline, by devices and chunks, where there are enough micro-batches."""


class Work(NamedTuple):
    """What an inner half costs on one pool.

    Attributes:
        pass_s: one forward and one backward of all layers of one replica, as one rank sees them.
        widest_s: of the slowest layer.
        before_s: [layers + 1], of the layers before each.
    """

    pass_s: float
    widest_s: float
    before_s: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of the ways of a space.

    Attributes:
        space: what bounds the ways.
        prices: of the ways.
        kept: by inner half the bytes that all layers keep of one micro-batch, and those of the most common one.
    """

    space: Space
    prices: WayPrices
    kept: dict[Inner, tuple[float, float]] = field(default_factory=dict)

    @property
    def _layers(self) -> Layers:
        return self.prices.layers

    def work(self, inner: Inner) -> tuple[Work, ...]:
        """The work of an inner half on each pool, groups packed as well as can be; nothing of data communication.

        Raises:
            BadInput: a degree does not divide what it has to cut.
        """
        found = []
        for pool, devices in enumerate(self.prices.pools.devices):
            if inner.width > len(devices):
                found.append(Work(np.inf, np.inf, np.zeros(1)))
                continue
            axes = self._packed(inner, devices)
            seconds = self._layers.seconds(inner, self.prices.pools.types[pool], axes, Sharding(), 1)
            before_s = np.concatenate([[0.0], np.cumsum(seconds.total_s)])
            found.append(Work(float(before_s[-1]), float(seconds.total_s.max()), before_s))
        return tuple(found)

    def _packed(self, inner: Inner, devices: Ints) -> Axes:
        fabric = self._layers.fabric
        width, expert = inner.width, min(inner.expert, len(devices))
        return Axes(
            tensor=fabric.levels(devices[: inner.tensor].tolist()),
            context=fabric.levels(devices[: width : inner.tensor].tolist()),
            expert=fabric.levels(devices[:expert].tolist()),
        )

    def least_seconds(self, inner: Inner, work: tuple[Work, ...]) -> float:
        """No way with this inner half is faster: all devices at work all the time."""
        rows_per_s = sum(
            inner.rows * (len(devices) / inner.width) / each.pass_s
            for devices, each in zip(self.prices.pools.devices, work, strict=True)
        )
        return (self.space.job.global_batch / rows_per_s if rows_per_s else np.inf) + DEFAULT.step_host_s

    def outers(self, inner: Inner, work: tuple[Work, ...], to_beat_s: float) -> Iterator[tuple[float, Outer]]:
        """Outer halves whose bound is below `to_beat_s` and that may fit, each with its bound."""
        known: dict[tuple[int, Sharding], tuple[float, tuple[float, float]]] = {}
        for outer in self.space.outers(inner, lambda data, stages: self._busy_s(inner, work, data, stages) < to_beat_s):
            m = self.space.job.global_batch // (outer.data * inner.rows)
            bound_s = self._busy_s(inner, work, outer.data, outer.stages)
            if sum(count > 0 for count in outer.stages) == 1:
                pool = next(i for i, count in enumerate(outer.stages) if count)
                bound_s = max(bound_s, self._waited_s(work[pool], outer, m) + DEFAULT.step_host_s)
            key = (outer.data, outer.sharding)
            if key not in known:
                known[key] = self._whole(Way(inner, outer))
            tail_s, lasting = known[key]
            bound_s += tail_s / outer.pipeline
            if bound_s < to_beat_s and self._may_fit(inner, outer, m, lasting):
                yield bound_s, outer

    def _busy_s(self, inner: Inner, work: tuple[Work, ...], data: int, stages: tuple[int, ...]) -> float:
        """All devices of the stages at work all the time; or one, with the slowest layer alone."""
        m = self.space.job.global_batch // (data * inner.rows)
        rate = sum(count / each.pass_s for count, each in zip(stages, work, strict=True) if count)
        widest_s = min(each.widest_s for count, each in zip(stages, work, strict=True) if count)
        return m * max(1.0 / rate, widest_s) + DEFAULT.step_host_s

    def _waited_s(self, work: Work, outer: Outer, micro_batches: int) -> float:
        """The mean over the devices of what they do and what they wait for at both ends of a step.

        A device waits for the first chunks of those before it, forth and back: at least a layer each, and under the
        rule of the deal the mean of a chunk less one layer. Zero-bubble schedules put work into these waits.
        """
        p, m = outer.pipeline, micro_batches
        if outer.schedule == "1f1b":
            return geometric_bound(work.pass_s, m, p)
        if outer.schedule != "interleaved":
            return m * work.pass_s / p
        chunk_s = max(0.0, work.pass_s / (p * outer.chunks) - work.widest_s)
        waits_s = np.maximum(work.before_s[:p], chunk_s * np.arange(p))
        return m * work.pass_s / p + float(waits_s.mean())

    def _whole(self, way: Way) -> tuple[float, tuple[float, float]]:
        """Data communication and update of all layers together where groups meet best, and the bytes of all states and
        of all weights and gradients."""
        inner, outer = way
        pool = next(i for i, count in enumerate(outer.stages) if count)
        one = Way(inner, outer._replace(stages=tuple(int(i == pool) for i in range(len(outer.stages))), chunks=1))
        (place,) = self.prices.places(one._replace(outer=one.outer._replace(schedule="1f1b")))
        sync_s, update_s = self.prices._tail_s(way, Place(pool, place.axes, 1.0), [(0, self.space.layers)])
        blocks, setting = self._layers.memory(inner), self.prices._setting(way)
        elements = sum(blocks[i].elements for i in self._layers.graph.layers)
        experts = sum(blocks[i].expert_elements for i in self._layers.graph.layers)
        both = held(elements, setting.execution, setting.sharding) + held(
            experts, setting.execution, setting.expert_sharding
        )
        return sync_s + update_s, (both.states, both.weights + both.gradients)

    def _may_fit(self, inner: Inner, outer: Outer, micro_batches: int, lasting: tuple[float, float]) -> bool:
        """Whether what a device holds on average, and the first one in flight, is within the largest limit."""
        states_bytes, tensors_bytes = lasting
        if inner not in self.kept:
            self.kept[inner] = self._kept(inner)
        kept, common = self.kept[inner]
        p, m = outer.pipeline, micro_batches
        flights = min(FLIGHTS[outer.schedule](p, outer.chunks), m * outer.chunks)
        first = flights * common * max(0, self.space.layers // (p * outer.chunks) - 1)
        mean = kept * (min(p, m) + 1) / 2 / p if outer.schedule == "1f1b" else kept / p
        held_bytes = states_bytes / p + (1.0 + FRAGMENTATION) * (tensors_bytes / p + max(first, mean)) + CONTEXT_BYTES
        limit = max(t.memory_bytes for t in self.prices.pools.types) * self.space.job.memory_fraction
        return held_bytes <= limit

    def _kept(self, inner: Inner) -> tuple[float, float]:
        """Bytes that all layers keep of one micro-batch, and those of the layer that there are most of."""
        blocks, layers = self._layers.memory(inner), self._layers.graph.layers
        most = max(set(layers), key=layers.count)
        return sum(blocks[i].activations.kept for i in layers), blocks[most].activations.kept
