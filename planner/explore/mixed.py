"""The bounds of ways whose stages lie on several pools, each stage on devices of one type.

As sheet.py bounds ways on one pool, with the deal of each pipeline worked out for its own devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from nebula.plan.values import Sharding
from nebula.planner.explore.deal import Chain, Floats, Ints
from nebula.planner.explore.durations import WAITING, passing_back, sums_at
from nebula.planner.explore.options import flights, least_flights
from nebula.planner.explore.price import WayPrices
from nebula.planner.explore.shares import NOTHING, Share, Shares
from nebula.planner.explore.space import Space
from nebula.planner.explore.ways import Inner, Outer, Way

HALVINGS = 8
"""Of the range in which a bound lies."""


class Bounded(NamedTuple):
    """An outer half: what it takes at least, and what its fullest device holds at least of its limit."""

    outer: Outer
    bound_s: float
    share: float


class _Dealt(NamedTuple):
    """The devices of one pipeline.

    Attributes:
        ends_s: [devices] when each has done its last backward, at the soonest.
        back_s: [devices] until the last gradient from there has come to the first device.
        elements: [2, devices] parameters that all replicas hold, and those of experts.
        kept: [devices] bytes of the activations in flight.
    """

    ends_s: Floats
    back_s: Floats
    elements: Floats
    kept: Floats


def roomy_layers_s(layers: int, alike: Sequence[tuple[int, float]]) -> float:
    """What the slowest device takes at least of so many equal layers, each with room for any number of them.

    Args:
        layers: that are dealt to devices, whole.
        alike: how many devices take so long for one of them.

    Returns:
        Seconds, never above the least and near it.
    """
    low = layers / sum(count / each_s for count, each_s in alike)
    high = low + max(each_s for _, each_s in alike)
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        if sum(count * math.floor(middle / each_s * (1.0 + 1e-12)) for count, each_s in alike) < layers:
            low = middle
        else:
            high = middle
    return low


class Mixed:
    """Bounds of the ways on all pools with one inner half and so many replicas."""

    def __init__(self, space: Space, prices: WayPrices, shares: Shares, inner: Inner, data: int) -> None:
        self.space, self.prices, self.shares, self.inner, self.data = space, prices, shares, inner, data
        self.micro_batches = space.job.global_batch // (data * inner.rows)
        self._pipeline = space.on_all(inner.width * data)
        self.stages = self._pipeline.stages
        self._shardings = space.shardings(data)
        self._known_s: dict[int, Floats] = {}

    @property
    def pools(self) -> Ints:
        """[devices] the pool of each."""
        return self._pipeline.pools

    @cached_property
    def _schedules(self) -> list[tuple[str, int]]:
        """Those with micro-batches enough, each with the virtual stages on a device."""
        every = self._pipeline.schedules
        return [(schedule, chunks) for schedule, chunks, least in every if self.micro_batches >= least]

    def least_seconds(self) -> float:
        """No way is faster: all devices at work all the time, with whole layers; infinite where there is none."""
        return self.least_of_fewer_rows() if self._schedules else np.inf

    def least_of_fewer_rows(self) -> float:
        """The same of as many rows or a divisor of them, whether or not these rows leave enough micro-batches."""
        if not self._pipeline.allowed:
            return np.inf
        turns = self.space.job.global_batch / (self.data * self.inner.rows)
        alike = [(count, turns * chain.common_s) for count, chain in self._used]
        whole_s = roomy_layers_s(self.prices.common_layers, alike)
        rate = sum(count / chain.pass_s for count, chain in self._used)
        return self._step_s(max(whole_s, turns / rate, turns * self._single_layers_s(1)))

    def _step_s(self, ends_s: float) -> float:
        return self._waiting * ends_s + self.prices.parameters.step_host_s

    @cached_property
    def _used(self) -> list[tuple[int, Chain]]:
        """Stages on each pool that has some, and the layers as they run there."""
        return [(count, self.prices.chain(self.inner, pool)) for pool, count in enumerate(self.stages) if count]

    def _undealt(self, to_beat_s: float) -> dict[tuple[str, int], list[Sharding]]:
        """The shardings under which each schedule may be faster than `to_beat_s` and may fit, however it is dealt."""
        near = [each for each in self._schedules if self._step_s(self._least_ends_s(*each)) < to_beat_s]
        if not near:
            return {}
        room, count = self._room(near).reshape(-1, len(self.pools)), len(self._shardings)
        left = np.flatnonzero(room.sum(axis=1) >= self.prices.common_layers)
        for extra_s in (self._own_s, self._shared_s):
            each_s = {i: self.micro_batches * self._common_s + extra_s(i) for i in set((left % count).tolist())}
            if len(left):
                whole_s = self._whole_layers_s(np.array([each_s[i] for i in (left % count).tolist()]), room[left])
                left = left[self._waiting * whole_s + self.prices.parameters.step_host_s < to_beat_s]
        found: dict[tuple[str, int], list[Sharding]] = {}
        for index in left.tolist():
            found.setdefault(near[index // count], []).append(self._shardings[index % count])
        return found

    def _least_ends_s(self, schedule: str, chunks: int) -> float:
        """When a device has done its last backward at the soonest, whatever the shardings."""
        ends_s = self.micro_batches * self._single_layers_s(chunks)
        return max(ends_s, self._waited_s(schedule)) if chunks == 1 else ends_s

    def _own_s(self, index: int) -> Floats:
        """[devices]: what the parameters of a common layer cost in a step where replicas exchange for nothing."""
        return self._parameters_s(self.shares.own, index)

    def _shared_s(self, index: int) -> Floats:
        """[devices]: what they cost at least."""
        if index not in self._known_s:
            self._known_s[index] = self._parameters_s(self.shares.share, index)
        return self._known_s[index]

    def _parameters_s(self, share: Callable[[Inner, int, Sharding, int], Share], index: int) -> Floats:
        dense, experts = self._common_elements
        by_pool = np.zeros(len(self.stages))
        for pool, count in enumerate(self.stages):
            if count:
                own = share(self.inner, self.data, self._shardings[index], pool)
                by_pool[pool] = (own.work_s[0] + own.sync_s[0]) * dense + (own.work_s[1] + own.sync_s[1]) * experts
        found: Floats = by_pool[self.pools]
        return found

    @cached_property
    def _common_elements(self) -> tuple[float, float]:
        """Parameters of a layer of the most common kind."""
        dense, experts = self.prices.elements(self.inner)
        return float(dense[self.prices.common]), float(experts[self.prices.common])

    def _single_layers_s(self, chunks: int) -> float:
        """The same where each virtual stage of a device holds a layer of its own and no more."""
        return max(float(chain.least_s[: count * chunks][-1]) / count for count, chain in self._used)

    def _waited_s(self, schedule: str) -> float:
        """When the last of the devices that each hold one run of layers has done its work, at the soonest.

        A device that has a share w of the layers is at work for m t w and waits for the share a of what the devices
        before it do for one micro-batch. All end together if each has 1 - a/m of the work of the one before.
        """
        waited = 1.0 if schedule in WAITING else min(chain.forward_share for _, chain in self._used)
        pass_s = np.array([chain.pass_s for count, chain in self._used for _ in range(count)])
        parts = (1.0 - waited / self.micro_batches) ** np.arange(len(pass_s))
        return self.micro_batches / float((parts / pass_s).sum())

    @cached_property
    def _room_bytes(self) -> Floats:
        """[devices] that activations may fill."""
        fixed = self.shares.fixed_bytes(self.inner, self.data, len(self.pools))
        return np.maximum(0.0, self._limits * self.space.job.memory_fraction - fixed)

    @cached_property
    def _limits(self) -> Floats:
        """[devices] bytes of memory."""
        return np.array([t.memory_bytes for t in self.prices.pools.types])[self.pools]

    def _homes(self, schedule: str, chunks: int) -> Ints:
        """[virtual stages] the device of each."""
        return np.array(self.prices.homes(self._way(schedule, chunks)))

    def _way(self, schedule: str, chunks: int) -> Way:
        return Way(self.inner, Outer(self.data, self.stages, schedule, chunks, Sharding()))

    def _whole_layers_s(self, each_s: Floats, most: Floats) -> Floats:
        """[cases]: what the slowest device takes at least if the most common layers are dealt to devices alone.

        Args:
            each_s: [cases, devices] what one of them takes.
            most: [cases, devices] how many of them each has room for.

        Returns:
            Seconds, never above the least and near it; infinite where there is no room.
        """
        layers = self.prices.common_layers
        low = layers / (1.0 / each_s).sum(axis=1)
        high = low + each_s.max(axis=1)
        room = most.sum(axis=1) >= layers
        # where some have no room others take more
        high = np.maximum(high, layers * each_s.max(axis=1))
        for _ in range(HALVINGS):
            middle = np.sqrt(low * high)
            held = np.minimum(np.floor(middle[:, None] / each_s * (1.0 + 1e-12)), most).sum(axis=1)
            low, high = np.where(held < layers, middle, low), np.where(held < layers, high, middle)
        return np.where(room, low, np.inf)

    @cached_property
    def _common_s(self) -> Floats:
        """[devices]: both passes of a layer of the most common kind."""
        return np.array([chain.common_s for count, chain in self._used for _ in range(count)])

    def _room(self, schedules: Sequence[tuple[str, int]]) -> Floats:
        """[schedules, shardings, devices]: for how many layers of the most common kind there is room."""
        whole = self.prices.pools.keeps_whole
        least = np.array(
            [least_flights(each, len(self.pools), n, self.micro_batches, whole=whole) for each, n in schedules]
        )
        kept: Floats = np.asarray(least * self._kept_bytes, dtype=np.float64)
        each = self.prices.pools.least_bytes(self._held_bytes[None, :, None], kept[:, None, :])
        found: Floats = np.floor(self._room_bytes / np.maximum(each, 1.0) * (1.0 + 1e-12))
        return found

    @cached_property
    def _kept_bytes(self) -> float:
        """What a layer of the most common kind keeps of a micro-batch."""
        return float(self.prices.kept(self.inner)[self.prices.common])

    @cached_property
    def _held_bytes(self) -> Floats:
        """[shardings]: what the parameters of a layer of the most common kind hold."""
        dense, experts = self._common_elements
        pool = next(pool for pool, count in enumerate(self.stages) if count)
        held = [self.shares.own(self.inner, self.data, s, pool).held for s in self._shardings]
        return np.array([pair[0] * dense + pair[1] * experts for pair in held])

    @cached_property
    def _waiting(self) -> float:
        nodes = sum(
            -(-count * self.inner.width * self.data // per_node)
            for count, per_node in zip(self.stages, self.prices.pools.per_node, strict=True)
        )
        return self.prices.waiting(nodes)

    def ways(self, to_beat_s: float = np.inf) -> Iterator[Bounded]:
        """Those that may be faster than `to_beat_s` and may fit, by what is told of them before they are dealt."""
        for (schedule, chunks), shardings in self._undealt(to_beat_s).items():
            bounds_s, held = self._bounds(self._dealt(schedule, chunks), _Stacked(self, shardings))
            for sharding, bound_s, share in zip(shardings, bounds_s.tolist(), held.tolist(), strict=True):
                yield Bounded(Outer(self.data, self.stages, schedule, chunks, sharding), bound_s, share)

    def _dealt(self, schedule: str, chunks: int) -> _Dealt:
        p = len(self.pools)
        bounds = np.array(self.prices.deal(self._way(schedule, chunks)))
        homes = self._homes(schedule, chunks)
        (forward_s, send_s), (backward_s, returned_s) = self._passes(bounds, homes)
        ends_s = self.micro_batches * sums_at(homes, forward_s + backward_s, p)
        ends_s[1:] += (forward_s + send_s)[: p - 1].cumsum()
        kept = np.diff(self.prices.kept_before(self.inner)[bounds])
        return _Dealt(
            ends_s=ends_s,
            back_s=passing_back(backward_s[: p - 1] + returned_s[1:p], schedule),
            elements=np.array(
                [sums_at(homes, np.diff(each[bounds]), p) for each in self.prices.elements_before(self.inner)]
            ),
            kept=sums_at(
                homes, kept * flights(schedule, p, chunks, self.micro_batches, whole=self.prices.pools.keeps_whole), p
            ),
        )

    def _passes(self, bounds: Ints, homes: Ints) -> list[tuple[Floats, Floats]]:
        """[virtual stages] forward and backward, each with its messages within a pool: those beside it apart."""
        chains = [self.prices.chain(self.inner, pool) for pool in range(len(self.stages))]
        pools = self.pools[homes]
        sums = np.array([chain.before_s for chain in chains])
        forward, backward = (sums[pools, way, bounds[1:]] - sums[pools, way, bounds[:-1]] for way in (0, 1))
        fixed_s, byte_s = self._send_s
        within = (homes[:-1] != homes[1:]) & (pools[:-1] == pools[1:])
        sent_bytes = chains[0].border_bytes[bounds[1:-1] - 1]
        sent_s = np.where(within, fixed_s[pools[:-1]] + byte_s[pools[:-1]] * sent_bytes, 0.0)
        found = []
        for pass_s, wire_s in ((forward, np.append(sent_s, 0.0)), (backward, np.append(0.0, sent_s))):
            busy_s, beside_s = self.prices.hiding.around(pass_s, wire_s)
            found.append((pass_s + busy_s, beside_s))
        return found

    @cached_property
    def _send_s(self) -> Floats:
        """[2, pools]: what a message within a pool costs at least, fixed and per byte."""
        found: Floats = np.array([self._send(pool) for pool in range(len(self.stages))]).T
        return found

    def _send(self, pool: int) -> tuple[float, float]:
        if self.stages[pool] < 2 or not self.prices.pools.periods[pool]:
            return 0.0, 0.0
        return self.prices.first_send(self.inner, self.data, pool)

    def _bounds(self, dealt: _Dealt, shares: _Stacked) -> tuple[Floats, Floats]:
        """[shardings] bounds, and what the fullest device holds at least of its limit."""
        fixed = self.shares.fixed_bytes(self.inner, self.data, len(self.pools))
        held = (self.prices.pools.least_bytes(shares.of("held", dealt), dealt.kept) + fixed) / self._limits
        ends_s, sync_s = dealt.ends_s + shares.of("work_s", dealt), shares.of("sync_s", dealt)
        ends_s[:, 0] = (ends_s + dealt.back_s).max(axis=1)
        bounds_s = (
            self._waiting * (ends_s + sync_s).max(axis=1)
            + shares.of("update_s", dealt).max(axis=1)
            + self.prices.parameters.step_host_s
        )
        return bounds_s, held.max(axis=1) / self.space.job.memory_fraction


class _Stacked:
    """What parameters cost and hold under each of some shardings, on the pool of each device."""

    def __init__(self, mixed: Mixed, shardings: Sequence[Sharding]) -> None:
        every = [
            [
                mixed.shares.share(mixed.inner, mixed.data, sharding, pool) if count else NOTHING
                for pool, count in enumerate(mixed.stages)
            ]
            for sharding in shardings
        ]
        # [shardings, pools, figures, kinds of parameters]
        self._figures = np.array(every)[:, mixed.pools]

    def of(self, name: str, dealt: _Dealt) -> Floats:
        """[shardings, devices]: what the parameters of each device come to."""
        figures = self._figures[:, :, Share._fields.index(name)]
        found: Floats = (figures * dealt.elements.T).sum(axis=2)
        return found
