"""What the parameters of a device cost and hold at least, per element, by how replicas share them."""

from __future__ import annotations

from typing import NamedTuple

from nebula.cost_model.held import held
from nebula.cost_model.peak import COMMUNICATOR_BYTES, CONTEXT_BYTES, FRAGMENTATION
from nebula.plan.values import Sharding
from nebula.planner.explore.price import Rates, WayPrices
from nebula.planner.explore.ways import Inner, Outer, Way

Pair = tuple[float, float]
"""A figure of parameters that all replicas hold, and one of those of experts."""


class Share(NamedTuple):
    """Figures per element.

    Attributes:
        work_s: in a step, beside what does not depend on replicas: adding gradients, and under stage 3 exchanging.
        sync_s: behind the passes.
        update_s: of the update.
        held: bytes, with what an allocator holds beside them.
    """

    work_s: Pair
    sync_s: Pair
    update_s: Pair
    held: Pair


class Shares:
    """The shares of ways on one pool, each worked out once."""

    def __init__(self, prices: WayPrices) -> None:
        self.prices = prices
        self._rates: dict[tuple[object, ...], Rates] = {}
        self._known: dict[tuple[object, ...], Share] = {}

    def share(self, inner: Inner, data: int, sharding: Sharding, pool: int) -> Share:
        """What an element costs at least, and holds."""
        key = (*inner, data, sharding.stage, sharding.degree, pool)
        if key not in self._known:
            way = self.one_stage(inner, data, sharding, pool)
            m, rates = way.micro_batches(self.prices.job), self._least(way, pool)
            setting = self.prices.setting(way)
            both = [held(1.0, setting.execution, s) for s in (setting.sharding, setting.expert_sharding)]
            bytes_of = [each.states + (1.0 + FRAGMENTATION) * (each.weights + each.gradients) for each in both]
            self._known[key] = Share(
                work_s=(_work_s(rates, m, 0), _work_s(rates, m, 1)),
                sync_s=rates.sync_s,
                update_s=rates.update_s,
                held=(bytes_of[0], bytes_of[1]),
            )
        return self._known[key]

    def fixed_bytes(self, inner: Inner, data: int, pipeline: int) -> float:
        """What a process holds on any device."""
        groups = (inner.tensor > 1, inner.context > 1, data * inner.context > 1, pipeline > 1, inner.expert > 1)
        return CONTEXT_BYTES + sum(groups) * COMMUNICATOR_BYTES

    def one_stage(self, inner: Inner, data: int, sharding: Sharding, pool: int) -> Way:
        """All layers on one stage of a pool."""
        stages = tuple(int(i == pool) for i in range(len(self.prices.pools.types)))
        return Way(inner, Outer(data, stages, "1f1b", 1, sharding))

    def _least(self, way: Way, pool: int) -> Rates:
        """The rates on the first devices of a pool that repeats; on another one replicas exchange for nothing."""
        inner, outer = way
        key = (inner.tensor, inner.context, inner.expert, outer.data, outer.sharding, pool)
        if key not in self._rates:
            (place,) = self.prices.places(way)
            found = self.prices.rates(inner, self.prices.pools.types[pool], place.axes, outer.sharding)
            if not self.prices.pools.periods[pool]:
                found = found._replace(sync_s=(0.0, 0.0), passing_s=(0.0, 0.0))
            self._rates[key] = found
        return self._rates[key]


def _work_s(rates: Rates, micro_batches: int, kind: int) -> float:
    return micro_batches * rates.passing_s[kind] + rates.adds_s[kind] * (micro_batches - 1)


NOTHING = Share((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
"""Of parameters that cost nothing."""
