"""Lower bounds of many ways at once: what no placement of their stages can beat.

A bound of an inner half needs its degrees alone. A bound of an outer half on all pools needs to know how many stages
lie on each; those of ways on one pool are worked out together (sheet.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nebula.planner.explore.mixed import Mixed
from nebula.planner.explore.options import Options, options_of
from nebula.planner.explore.price import WayPrices
from nebula.planner.explore.shares import Shares
from nebula.planner.explore.sheet import Ranked, Sheet
from nebula.planner.explore.space import Space
from nebula.planner.explore.ways import Inner

ROUNDING = 1e-9
"""A set is left unopened where its bound exceeds what there is to beat by this share, and not by rounding alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of the ways of a space.

    Attributes:
        space: what bounds the ways.
        prices: of the ways.
        options: of each pool.
        shares: what parameters cost at least.
    """

    space: Space
    prices: WayPrices
    options: Sequence[Options] = field(init=False)
    shares: Shares = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "options",
            [options_of(self.space, n, whole=self.prices.pools.keeps_whole) for n in self.space.devices],
        )
        object.__setattr__(self, "shares", Shares(self.prices))

    def least_seconds(self, inner: Inner) -> float:
        """No way with this inner half is faster: all devices at work all the time.

        Raises:
            BadInput: a degree does not divide what it has to cut.
        """
        return min((*self._alone_s(inner), *(mixed.least_seconds() for mixed in self._mixed(inner, inner.rows))))

    def least_of_fewer_rows(self, inner: Inner) -> float:
        """No way with these degrees, this policy and as many rows, or a divisor of them, is faster.

        A kernel over several times the rows takes no longer than as many kernels: tiles, waves and launches are fewer.

        Raises:
            BadInput: a degree does not divide what it has to cut.
        """
        mixed = self._mixed(inner, self.space.rows[0])
        return min((*self._alone_s(inner), *(each.least_of_fewer_rows() for each in mixed)))

    def _alone_s(self, inner: Inner) -> list[float]:
        pools = enumerate(self.space.devices)
        return [np.inf, *(self._alone_seconds(inner, pool) for pool, count in pools if inner.width <= count)]

    def _mixed(self, inner: Inner, rows: int) -> list[Mixed]:
        """The ways on all pools, with the numbers of replicas that so many rows leave."""
        several = sum(inner.width <= count for count in self.space.devices) > 1
        degrees = self.space.data_degrees(inner._replace(rows=rows)) if several else ()
        return [self.mixed(inner, data) for data in degrees]

    def may_fit(self, inner: Inner, rows: int = 0) -> bool:
        """Whether some deal of layers may leave room for what is kept of the micro-batches in flight.

        Args:
            inner: degrees, rows and policy.
            rows: fewer than those, of which at least as large a share is kept; 0: as many.

        Under every schedule a device d of p holds at least 1, 2, ... p micro-batches of some part of what it keeps, in
        some order of the devices, so that all of them together have room for 1 + 1/2 + ... + 1/p times what one has.

        Raises:
            BadInput: a degree does not divide what it has to cut.
        """
        types = self.prices.pools.types
        room = max(t.memory_bytes for t in types) * self.space.job.memory_fraction - self.prices.pools.process_bytes(0)
        most = min(self.space.layers, sum(count // inner.width for count in self.space.devices))
        several = sum(1.0 / n for n in range(1, most + 1))
        kept = float(self.prices.kept(inner).sum()) * (rows or inner.rows) / inner.rows
        return kept * self.prices.pools.held_share <= several * room

    def _alone_seconds(self, inner: Inner, pool: int) -> float:
        """The same of the ways on one pool; fewer devices wait less, but not by as much as they are fewer."""
        devices = self.space.devices[pool]
        waiting = self.prices.waiting(devices / self.prices.pools.per_node[pool])
        pass_s = self.prices.chain(inner, pool).pass_s * inner.width / (inner.rows * devices)
        return waiting * self.space.job.global_batch * pass_s + self.prices.parameters.step_host_s

    def ranked(self, inner: Inner, pool: int, to_beat_s: float) -> Ranked:
        """The outer halves on one pool whose bound is below `to_beat_s` and that may fit, least bound first."""
        sheet = Sheet(self.space, self.prices, self.shares, self.options[pool], inner, pool)
        if self._alone_seconds(inner, pool) >= to_beat_s * (1.0 + ROUNDING):
            return sheet.none()
        return sheet.ranked(to_beat_s)

    def mixed(self, inner: Inner, data: int) -> Mixed:
        """The ways on all pools with so many replicas."""
        return Mixed(self.space, self.prices, self.shares, inner, data)
