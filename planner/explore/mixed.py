"""The bounds of ways whose stages lie on several pools, each stage on devices of one type.

As sheet.py bounds ways on one pool, with the deal of each pipeline worked out for its own devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from nebula.cost_model.peak import FRAGMENTATION
from nebula.cost_model.step_parameters import DEFAULT
from nebula.plan.values import Sharding
from nebula.planner.explore.deal import Chain, Floats, Ints
from nebula.planner.explore.options import flights, least_flights
from nebula.planner.explore.price import WAITING, WayPrices, prefix_sums, sums_at, waiting_factor
from nebula.planner.explore.shares import NOTHING, Share, Shares
from nebula.planner.explore.ways import Inner, Outer, Space, Way


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


class Mixed:
    """Bounds of the ways on all pools with one inner half and so many replicas."""

    def __init__(self, space: Space, prices: WayPrices, shares: Shares, inner: Inner, data: int) -> None:
        self.space, self.prices, self.shares, self.inner, self.data = space, prices, shares, inner, data
        self.stages = space.most_stages(inner.width * data)
        self.micro_batches = space.job.global_batch // (data * inner.rows)
        self.pools = np.repeat(np.arange(len(self.stages)), self.stages)
        together = space.mixes(self.stages)
        self._schedules = list(space.schedules(len(self.pools), self.micro_batches)) if together else []

    def least_seconds(self) -> float:
        """No way is faster: all devices at work all the time, with whole layers; infinite where there is none."""
        if not self._schedules:
            return np.inf
        return self._of_slowest_s(max(self._least_busy_s, self._single_layers_s(1)))

    def _undealt_seconds(self, schedule: str, chunks: int) -> float:
        """No deal under that schedule is faster; infinite where none fits."""
        busy_s = max(self._least_busy_s, self._single_layers_s(chunks))
        if chunks == 1:
            busy_s = max(busy_s, self._waited_s(schedule) / self.micro_batches)
        return self._of_slowest_s(max(busy_s, self._whole_layers_s(self._room(schedule, chunks))))

    def _of_slowest_s(self, busy_s: float) -> float:
        return self._waiting * self.micro_batches * busy_s + DEFAULT.step_host_s

    @cached_property
    def _used(self) -> list[tuple[int, Chain]]:
        """Stages on each pool that has some, and the layers as they run there."""
        return [(count, self.prices.chain(self.inner, pool)) for pool, count in enumerate(self.stages) if count]

    @cached_property
    def _least_busy_s(self) -> float:
        """What a micro-batch takes on the slowest device at least."""
        rate = sum(count / chain.pass_s for count, chain in self._used)
        return max(1.0 / rate, self._whole_layers_s(np.full(len(self.pools), np.inf)))

    def _single_layers_s(self, chunks: int) -> float:
        """The same where each virtual stage of a device holds a layer of its own and no more."""
        return max(float(chain.sorted_s[: count * chunks].sum()) / count for count, chain in self._used)

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

    def _whole_layers_s(self, most: Floats) -> float:
        """What the slowest device takes at least if the layers of the most common kind are dealt to devices alone.

        Args:
            most: [devices] how many of them each has room for.

        Returns:
            Seconds of a micro-batch; infinite where there is no room.
        """
        layers = self.prices.common_layers
        if float(most.sum()) < layers:
            return np.inf
        times = self._times
        low, high = 0, len(times) - 1
        while low < high:
            middle = (low + high) // 2
            held = np.minimum(np.floor(times[middle] / self._common_s * (1.0 + 1e-12)), most)
            low, high = (low, middle) if float(held.sum()) >= layers else (middle + 1, high)
        return float(times[low])

    @cached_property
    def _times(self) -> Floats:
        """What one, two, ... layers of the most common kind take on each pool, ascending."""
        layers = np.arange(1, self.prices.common_layers + 1)
        found: Floats = np.sort(np.array([chain.common_s for _, chain in self._used])[:, None] * layers, axis=None)
        return found

    @cached_property
    def _common_s(self) -> Floats:
        """[devices]: both passes of a layer of the most common kind."""
        return np.array([chain.common_s for count, chain in self._used for _ in range(count)])

    def _room(self, schedule: str, chunks: int) -> Floats:
        """[devices]: for how many layers of the most common kind there is room under the leanest sharding."""
        p, at = len(self.pools), self.prices.common
        least = least_flights(schedule, p, chunks, self.micro_batches)
        kept = (1.0 + FRAGMENTATION) * float(self.prices.kept(self.inner)[at])
        each = least * kept + self._leanest_bytes
        return np.floor(self._room_bytes / each * (1.0 + 1e-12)) if (each > 0).all() else np.full(p, np.inf)

    @cached_property
    def _leanest_bytes(self) -> float:
        """What the parameters of a layer of the most common kind hold at least."""
        dense, experts = (float(each[self.prices.common]) for each in self.prices.elements(self.inner))
        pool = next(pool for pool, count in enumerate(self.stages) if count)
        held = [self.shares.own(self.inner, self.data, s, pool).held for s in self.space.shardings(self.data)]
        return min((pair[0] * dense + pair[1] * experts for pair in held), default=0.0)

    @cached_property
    def _waiting(self) -> float:
        nodes = sum(
            -(-count * self.inner.width * self.data // per_node)
            for count, per_node in zip(self.stages, self.prices.pools.per_node, strict=True)
        )
        return float(waiting_factor(np.array(nodes)))

    def ways(self, to_beat_s: float = np.inf) -> Iterator[Bounded]:
        """Those that may be faster than `to_beat_s` and may fit, by what is told of them before they are dealt."""
        shardings = self.space.shardings(self.data)
        if not shardings:
            return
        own = _Stacked(self, shardings, self.shares.own)
        for schedule, chunks in self._schedules:
            if self._undealt_seconds(schedule, chunks) >= to_beat_s:
                continue
            dealt = self._dealt(schedule, chunks)
            bounds_s, held = self._bounds(dealt, own)
            # what replicas exchange is dear to know
            near = [s for s, b, share in zip(shardings, bounds_s, held, strict=True) if b < to_beat_s and share <= 1.0]
            full = [(s, b, share) for s, b, share in zip(shardings, bounds_s, held, strict=True) if share > 1.0]
            if near:
                bounds_s, held = self._bounds(dealt, _Stacked(self, near, self.shares.share))
            for sharding, bound_s, share in (*full, *(zip(near, bounds_s, held, strict=True) if near else ())):
                yield Bounded(Outer(self.data, self.stages, schedule, chunks, sharding), float(bound_s), float(share))

    def _dealt(self, schedule: str, chunks: int) -> _Dealt:
        p = len(self.pools)
        bounds = np.array(self.prices.deal(self._way(schedule, chunks)))
        homes = self._homes(schedule, chunks)
        forward_s, backward_s = self._passes(bounds, homes)
        ends_s = self.micro_batches * sums_at(homes, forward_s + backward_s, p)
        ends_s[1:] += forward_s[: p - 1].cumsum()
        back_s = prefix_sums(backward_s[: p - 1]) if schedule in WAITING else np.zeros(p)
        kept = np.diff(self.prices.kept_before(self.inner)[bounds])
        return _Dealt(
            ends_s=ends_s,
            back_s=back_s,
            elements=np.array(
                [sums_at(homes, np.diff(each[bounds]), p) for each in self.prices.elements_before(self.inner)]
            ),
            kept=sums_at(homes, kept * flights(schedule, p, chunks, self.micro_batches), p),
        )

    def _passes(self, bounds: Ints, homes: Ints) -> tuple[Floats, Floats]:
        """[virtual stages] forward and backward, messages within a pool included."""
        chains = [self.prices.chain(self.inner, pool) for pool in range(len(self.stages))]
        pools = self.pools[homes]
        sums = np.array([chain.before_s for chain in chains])
        forward, backward = (sums[pools, way, bounds[1:]] - sums[pools, way, bounds[:-1]] for way in (0, 1))
        fixed_s, byte_s = self._send_s
        within = (homes[:-1] != homes[1:]) & (pools[:-1] == pools[1:])
        sent_bytes = chains[0].border_bytes[bounds[1:-1] - 1]
        sent_s = np.where(within, fixed_s[pools[:-1]] + byte_s[pools[:-1]] * sent_bytes, 0.0)
        forward[:-1] += sent_s
        backward[1:] += sent_s
        return forward, backward

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
        held = (shares.of("held", dealt) + (1.0 + FRAGMENTATION) * dealt.kept + fixed) / self._limits
        ends_s, sync_s = dealt.ends_s + shares.of("work_s", dealt), shares.of("sync_s", dealt)
        ends_s[:, 0] = (ends_s + dealt.back_s).max(axis=1)
        bounds_s = (
            self._waiting * (ends_s + sync_s).max(axis=1)
            + shares.of("update_s", dealt).max(axis=1)
            + DEFAULT.step_host_s
        )
        return bounds_s, held.max(axis=1) / self.space.job.memory_fraction


class _Stacked:
    """What parameters cost and hold under each of some shardings, on the pool of each device."""

    def __init__(
        self, mixed: Mixed, shardings: Sequence[Sharding], share: Callable[[Inner, int, Sharding, int], Share]
    ) -> None:
        every = [
            [
                share(mixed.inner, mixed.data, sharding, pool) if count else NOTHING
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
