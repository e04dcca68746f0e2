"""Lower bounds of ways before they are dealt, placed and priced: what no deal of layers to stages can beat.

A bound needs the inner half of a way and its degrees alone; it holds for every pool on which its stages may lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from nebula.cost_model.held import held
from nebula.cost_model.peak import CONTEXT_BYTES, FRAGMENTATION
from nebula.cost_model.step_parameters import DEFAULT
from nebula.plan.values import Sharding
from nebula.planner.explore.layers import Layers, LayerSeconds
from nebula.planner.explore.price import Floats, WayPrices
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


class Whole(NamedTuple):
    """All layers of a model on one stage.

    Attributes:
        tail_s: data communication and update.
        lasting: bytes of optimizer states, and of weights and gradients.
    """

    tail_s: float
    lasting: tuple[float, float]


def _work(seconds: LayerSeconds) -> Work:
    before_s = np.concatenate([[0.0], np.cumsum(seconds.total_s)])
    return Work(float(before_s[-1]), float(seconds.total_s.max()), before_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of the ways of a space.

    Attributes:
        space: what bounds the ways.
        prices: of the ways.
        kept: by inner half the bytes that all layers keep of one micro-batch, and those of the most common one.
        wholes: what was worked out of whole models.
    """

    space: Space
    prices: WayPrices
    kept: dict[Inner, tuple[float, float]] = field(default_factory=dict)
    wholes: dict[tuple[tuple[int, ...], int, Sharding, int], Whole] = field(default_factory=dict)

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
            found.append(_work(self.prices.packed(inner, pool)))
        return tuple(found)

    def least_seconds(self, inner: Inner, work: tuple[Work, ...]) -> float:
        """No way with this inner half is faster: all devices at work all the time."""
        rows_per_s = sum(
            inner.rows * (len(devices) / inner.width) / each.pass_s
            for devices, each in zip(self.prices.pools.devices, work, strict=True)
        )
        return (self.space.job.global_batch / rows_per_s if rows_per_s else np.inf) + DEFAULT.step_host_s

    def outers(self, inner: Inner, work: tuple[Work, ...], to_beat_s: float) -> Iterator[tuple[float, Outer]]:
        """Outer halves whose bound is below `to_beat_s` and that may fit, each with its bound."""
        for data, sharding in self.space.replicas(inner):
            wholes = [self._whole(inner, data, sharding, pool) for pool in range(len(work))]
            most = min(self.space.layers, sum(n // (inner.width * data) for n in self.space.devices))
            lasting = next(whole.lasting for whole in wholes if whole)
            if self._may_hold(inner, most, lasting):
                yield from self._staged(inner, data, sharding, work, wholes, to_beat_s)

    def _staged(
        self,
        inner: Inner,
        data: int,
        sharding: Sharding,
        work: tuple[Work, ...],
        wholes: Sequence[Whole | None],
        to_beat_s: float,
    ) -> Iterator[tuple[float, Outer]]:
        """The same of so many replicas that share their states so."""

        def bound_s(stages: tuple[int, ...]) -> float:
            tails = [w.tail_s for w, count in zip(wholes, stages, strict=True) if count and w]
            return self._busy_s(inner, work, data, stages) + min(tails, default=0.0) / sum(stages)

        least, m = next(w for w in wholes if w), self.space.job.global_batch // (data * inner.rows)
        sharded = sharding.stage < 3
        for stages in self.space.stage_counts(inner.width * data, lambda stages: bound_s(stages) < to_beat_s):
            if not sharded:
                # what gathering parameters costs is asked for late, since it is dear to know
                work, sharded = tuple(self._gathering(inner, data, sharding, i, w) for i, w in enumerate(work)), True
            least_s = bound_s(stages)
            if least_s >= to_beat_s or not self._may_hold(inner, sum(stages), least.lasting):
                continue
            for schedule, chunks in self.space.schedules(sum(stages), m):
                outer = Outer(data, stages, schedule, chunks, sharding)
                whole_s = max(least_s, self._waiting_s(work, outer, m) + least.tail_s / outer.pipeline)
                if whole_s < to_beat_s and self._may_fit(inner, outer, m, least.lasting):
                    yield whole_s, outer

    def _waiting_s(self, work: tuple[Work, ...], outer: Outer, micro_batches: int) -> float:
        """The bound with what devices wait for, where all stages lie on one pool; 0 else."""
        used = [pool for pool, count in enumerate(outer.stages) if count]
        if len(used) > 1:
            return 0.0
        return self._waited_s(work[used[0]], outer, micro_batches) + DEFAULT.step_host_s

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

    def _whole(self, inner: Inner, data: int, sharding: Sharding, pool: int) -> Whole | None:
        """All layers on one stage of a pool, groups packed as well as can be; None where it has too few devices."""
        if inner.width * data > len(self.prices.pools.devices[pool]):
            return None
        key = (inner[:3], data, sharding, pool)
        if key not in self.wholes:
            way = self._on_one_stage(inner, data, sharding, pool)
            (place,) = self.prices.places(way)
            sync_s, update_s = self.prices.tail_seconds(way, place._replace(slow=1.0), [(0, self.space.layers)])
            setting, blocks = self.prices.setting(way), self._layers.memory(inner)
            elements = sum(blocks[i].elements for i in self._layers.graph.layers)
            experts = sum(blocks[i].expert_elements for i in self._layers.graph.layers)
            both = held(elements, setting.execution, setting.sharding)
            both += held(experts, setting.execution, setting.expert_sharding)
            self.wholes[key] = Whole(sync_s + update_s, (both.states, both.weights + both.gradients))
        return self.wholes[key]

    def _on_one_stage(self, inner: Inner, data: int, sharding: Sharding, pool: int) -> Way:
        stages = tuple(int(i == pool) for i in range(len(self.prices.pools.types)))
        return Way(inner, Outer(data, stages, "1f1b", 1, sharding))

    def _gathering(self, inner: Inner, data: int, sharding: Sharding, pool: int, work: Work) -> Work:
        """The work with the traffic of sharded parameters in every micro-batch."""
        if inner.width * data > len(self.prices.pools.devices[pool]):
            return work
        way = self._on_one_stage(inner, data, sharding, pool)
        (place,) = self.prices.places(way)
        return _work(self.prices.seconds(way, place._replace(pool=pool, slow=1.0)))

    def _may_hold(self, inner: Inner, stages: int, lasting: tuple[float, float]) -> bool:
        """Whether the mean of what lasts, with one micro-batch in flight, is within the largest limit."""
        states_bytes, tensors_bytes = lasting
        kept, _ = self._kept(inner)
        held_bytes = (states_bytes + (1.0 + FRAGMENTATION) * (tensors_bytes + kept)) / stages + CONTEXT_BYTES
        return held_bytes <= self._limit_bytes

    @property
    def _limit_bytes(self) -> float:
        return max(t.memory_bytes for t in self.prices.pools.types) * self.space.job.memory_fraction

    def _may_fit(self, inner: Inner, outer: Outer, micro_batches: int, lasting: tuple[float, float]) -> bool:
        """Whether what a device holds on average, and the first one in flight, is within the largest limit."""
        states_bytes, tensors_bytes = lasting
        kept, common = self._kept(inner)
        p, m = outer.pipeline, micro_batches
        flights = min(FLIGHTS[outer.schedule](p, outer.chunks), m * outer.chunks)
        first = flights * common * max(0, self.space.layers // (p * outer.chunks) - 1)
        mean = kept * (min(p, m) + 1) / 2 / p if outer.schedule == "1f1b" else kept / p
        held_bytes = states_bytes / p + (1.0 + FRAGMENTATION) * (tensors_bytes / p + max(first, mean)) + CONTEXT_BYTES
        return held_bytes <= self._limit_bytes

    def _kept(self, inner: Inner) -> tuple[float, float]:
        """Bytes that all layers keep of one micro-batch, and those of the layer that there are most of."""
        if inner not in self.kept:
            blocks, layers = self._layers.memory(inner), self._layers.graph.layers
            most = max(set(layers), key=layers.count)
            self.kept[inner] = sum(blocks[i].activations.kept for i in layers), blocks[most].activations.kept
        return self.kept[inner]
