"""The bounds of ways whose stages lie on several pools, each stage on devices of one type.

As sheet.py bounds ways on one pool, with the deal of each pipeline worked out for its own devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from nebula.cost_model.peak import FRAGMENTATION
from nebula.cost_model.step_parameters import DEFAULT
from nebula.plan.values import Sharding
from nebula.planner.explore.deal import Floats, Ints
from nebula.planner.explore.options import flights
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
        used = [(count, self.prices.chain(self.inner, pool)) for pool, count in enumerate(self.stages) if count]
        rate = sum(count / chain.pass_s for count, chain in used)
        # each stage of a pool holds a layer of its own
        single_s = max(float(chain.sorted_s[count - 1]) for count, chain in used)
        slowest_s = max(1.0 / rate, single_s, self._whole_layers_s([chain.common_s for _, chain in used]))
        return self._waiting * self.micro_batches * slowest_s + DEFAULT.step_host_s

    def _whole_layers_s(self, each_s: Sequence[float]) -> float:
        """What the slowest stage takes at least if the layers of the most common kind are dealt to stages alone.

        Args:
            each_s: seconds of such a layer on each pool that has stages.
        """
        layers = self.prices.common_layers
        counts, times = np.array([count for count in self.stages if count]), np.array(each_s)
        least_s = layers / float((counts / times).sum())
        # one more whole layer on some pool suffices
        found = np.sort((np.floor(least_s / times)[:, None] + np.arange(len(times) + 2)) * times[:, None], axis=None)
        holds = (counts * np.floor(found[:, None] / times * (1.0 + 1e-12))).sum(axis=1)
        enough = found[(holds >= layers) & (found >= least_s * (1.0 - 1e-12))]
        return float(enough[0]) if len(enough) else least_s

    @cached_property
    def _waiting(self) -> float:
        nodes = sum(
            -(-count * self.inner.width * self.data // per_node)
            for count, per_node in zip(self.stages, self.prices.pools.per_node, strict=True)
        )
        return float(waiting_factor(np.array(nodes)))

    def ways(self) -> Iterator[Bounded]:
        """All of them."""
        shardings = self.space.shardings(self.data)
        if not shardings:
            return
        shares = _Stacked(self, shardings)
        for schedule, chunks in self._schedules:
            bounds_s, held = self._bounds(self._dealt(schedule, chunks), shares)
            for sharding, bound_s, share in zip(shardings, bounds_s.tolist(), held.tolist(), strict=True):
                yield Bounded(Outer(self.data, self.stages, schedule, chunks, sharding), bound_s, share)

    def _dealt(self, schedule: str, chunks: int) -> _Dealt:
        p = len(self.pools)
        way = Way(self.inner, Outer(self.data, self.stages, schedule, chunks, Sharding()))
        bounds, homes = np.array(self.prices.deal(way)), np.array(self.prices.homes(way))
        forward_s, backward_s = self._passes(bounds, homes)
        ends_s = self.micro_batches * sums_at(homes, forward_s + backward_s, p)
        ends_s[1:] += forward_s[: p - 1].cumsum()
        back_s = prefix_sums(backward_s[: p - 1]) if schedule in WAITING else np.zeros(p)
        kept = np.diff(prefix_sums(self.prices.kept(self.inner))[bounds])
        return _Dealt(
            ends_s=ends_s,
            back_s=back_s,
            elements=np.array(
                [sums_at(homes, np.diff(prefix_sums(each)[bounds]), p) for each in self.prices.elements(self.inner)]
            ),
            kept=sums_at(homes, kept * flights(schedule, p, chunks, self.micro_batches), p),
        )

    def _passes(self, bounds: Ints, homes: Ints) -> tuple[Floats, Floats]:
        """[virtual stages] forward and backward, messages within a pool included."""
        chains = [self.prices.chain(self.inner, pool) for pool in range(len(self.stages))]
        pools = self.pools[homes]
        forward_s, backward_s = (
            np.array([prefix_sums(getattr(chain, name)) for chain in chains]) for name in ("forward_s", "backward_s")
        )
        spans = bounds[:-1], bounds[1:]
        forward, backward = (each[pools, spans[1]] - each[pools, spans[0]] for each in (forward_s, backward_s))
        fixed_s, byte_s = np.array([self._send(pool) for pool in range(len(self.stages))]).T
        within = (homes[:-1] != homes[1:]) & (pools[:-1] == pools[1:])
        sent_bytes = chains[0].border_bytes[bounds[1:-1] - 1]
        sent_s = np.where(within, fixed_s[pools[:-1]] + byte_s[pools[:-1]] * sent_bytes, 0.0)
        forward[:-1] += sent_s
        backward[1:] += sent_s
        return forward, backward

    def _send(self, pool: int) -> tuple[float, float]:
        if self.stages[pool] < 2 or not self.prices.pools.periods[pool]:
            return 0.0, 0.0
        return self.prices.first_send(self.inner, self.data, pool)

    def _bounds(self, dealt: _Dealt, shares: _Stacked) -> tuple[Floats, Floats]:
        """[shardings] bounds, and what the fullest device holds at least of its limit."""
        limits = np.array([t.memory_bytes for t in self.prices.pools.types])[self.pools]
        fixed = self.shares.fixed_bytes(self.inner, self.data, len(self.pools))
        held = (shares.of("held", dealt) + (1.0 + FRAGMENTATION) * dealt.kept + fixed) / limits
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
