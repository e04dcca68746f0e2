"""What the parameters of a device cost and hold at least, per element, by how replicas share them."""

from __future__ import annotations

from typing import NamedTuple

from nebula.cost_model.execution import Execution
from nebula.cost_model.held import held, held_beside_host
from nebula.cost_model.offload import holds_states
from nebula.cost_model.traffic import Axes
from nebula.plan.job import RECOMPUTE
from nebula.plan.values import Sharding
from nebula.planner.explore.price import WayPrices
from nebula.planner.explore.rates import Rates
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
        self._bytes: dict[tuple[int, int, str], float] = {}
        self._lone: dict[tuple[int, str], Rates] = {}
        self._known: dict[tuple[object, ...], Share] = {}

    def own(self, inner: Inner, data: int, sharding: Sharding, pool: int) -> Share:
        """What an element costs at least, and holds, where replicas exchange for nothing."""
        rates, level = self._alone(pool, inner.offload), sharding.stage
        replicas = data * inner.context
        # those of experts are cut among the ranks that add their gradients
        alike = self.prices.at.same_tokens(inner)
        same = replicas if alike else max(1, replicas * inner.tensor // inner.expert)
        parts = (sharding.degree * inner.context, same) if level else (1, 1)
        more = self.prices.job.global_batch // (data * inner.rows) - 1
        added = parts if level == 3 else (1, 1)
        return Share(
            work_s=(more * rates.adds_s[0] / added[0], more * rates.adds_s[1] / added[1]),
            sync_s=(0.0, 0.0),
            update_s=(rates.update_s[0] / parts[0], rates.update_s[1] / parts[1]),
            held=(self._held(level, parts[0], inner.offload), self._held(level, parts[1], inner.offload)),
        )

    def _held(self, level: int, degree: int, offload: str) -> float:
        """Bytes of an element cut among so many ranks, with what lies beside it."""
        key = (level, degree, offload)
        if key not in self._bytes:
            of = held_beside_host if holds_states(offload) else held
            each = of(1.0, self._execution, Sharding(stage=level, degree=degree))
            self._bytes[key] = each.states + self.prices.pools.held_share * (each.weights + each.gradients)
        return self._bytes[key]

    def share(self, inner: Inner, data: int, sharding: Sharding, pool: int) -> Share:
        """What an element costs at least, and holds."""
        key = (*inner, data, sharding.stage, sharding.degree, pool)
        if key not in self._known:
            own, m = self.own(inner, data, sharding, pool), self.prices.job.global_batch // (data * inner.rows)
            rates = self._least(self.one_stage(inner, data, sharding, pool), pool)
            passing = rates.passing_s
            self._known[key] = own._replace(
                work_s=(own.work_s[0] + m * passing[0], own.work_s[1] + m * passing[1]), sync_s=rates.sync_s
            )
        return self._known[key]

    def fixed_bytes(self, inner: Inner, data: int, pipeline: int) -> float:
        """What a process holds on any device."""
        groups = (inner.tensor > 1, inner.context > 1, data * inner.context > 1, pipeline > 1, inner.expert > 1)
        return self.prices.pools.process_bytes(sum(groups))

    def one_stage(self, inner: Inner, data: int, sharding: Sharding, pool: int) -> Way:
        """All layers on one stage of a pool."""
        stages = tuple(int(i == pool) for i in range(len(self.prices.pools.types)))
        return Way(inner, Outer(data, stages, "1f1b", 1, sharding))

    def _alone(self, pool: int, offload: str) -> Rates:
        """What parameters cost on a pool that no two ranks share."""
        if (pool, offload) not in self._lone:
            device, host = self.prices.pools.types[pool], self.prices.best_host(pool)
            one = Inner(1, 1, 1, 1, RECOMPUTE[0], offload)
            self._lone[pool, offload] = self.prices.rates(one, device, Axes(), Sharding(), host)
        return self._lone[pool, offload]

    @property
    def _execution(self) -> Execution:
        return self.prices.layers.pricings[RECOMPUTE[0]].execution

    def _least(self, way: Way, pool: int) -> Rates:
        """The rates on the first devices of a pool that repeats; on another one replicas exchange for nothing."""
        inner, outer = way
        key = (*inner.degrees[1:5], outer.data, outer.sharding, pool)
        if key not in self._rates:
            (place,) = self.prices.at.places(way)
            found = self.prices.rates(inner, self.prices.pools.types[pool], place.axes, outer.sharding, place.host)
            if not self.prices.pools.periods[pool]:
                found = found._replace(sync_s=(0.0, 0.0), passing_s=(0.0, 0.0))
            self._rates[key] = found
        return self._rates[key]


NOTHING = Share((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
"""Of parameters that cost nothing."""
