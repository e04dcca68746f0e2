"""Where the ranks of a way lie: tensor, context, data, pipeline from the inside out over the devices of its pools."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from nebula.cluster.topology import HostShare
from nebula.cost_model.communication import Fabric
from nebula.cost_model.execution import Execution
from nebula.cost_model.traffic import Axes, paired, stage_axes
from nebula.planner.explore.deal import Ints
from nebula.planner.explore.pools import Pools
from nebula.planner.explore.strides import Strides, strides_of
from nebula.planner.explore.ways import Inner, Way


class Place(NamedTuple):
    """Where one stage of a way lies.

    Attributes:
        pool: index of its pool.
        axes: whom its ranks meet, other stages apart.
        slow: by what factor its slowest node is slower.
        host: what each of its devices has of its host at least.
    """

    pool: int
    axes: Axes
    slow: float
    host: HostShare


class Places:
    """Lays ways on pools of devices."""

    def __init__(self, fabric: Fabric, pools: Pools, execution: Execution) -> None:
        self.fabric, self.pools, self.execution = fabric, pools, execution
        self.strides = Strides(fabric, pools)
        self._axes: dict[tuple[object, ...], tuple[Axes, float, HostShare]] = {}
        cluster = fabric.cluster
        sites = [next((i for i, s in enumerate(cluster.sites) if g.name in s.groups), 0) for g in cluster.groups]
        self._site_of = np.repeat(np.array(sites), [g.device_count for g in cluster.groups])

    def grids(self, way: Way) -> list[Ints]:
        """[data, context, tensor] devices of each stage."""
        inner, outer = way
        size = inner.width * outer.data
        found = []
        for pool, stages in zip(self.pools.devices, outer.stages, strict=True):
            for index in range(stages):
                found.append(pool[index * size : (index + 1) * size].reshape(outer.data, inner.context, inner.tensor))
        return found

    def crosses_wan(self, way: Way) -> bool:
        """Whether a group of a stage that must be near spans sites: tensor, context, expert and sharding groups."""
        if not self._site_of.any():
            return False
        inner, outer = way
        near = (inner.width, inner.expert, inner.width * outer.sharding.degree)
        return any(
            bool((sites != sites[:, :1]).any())
            for grid in self.grids(way)
            for size in near
            if size > 1
            for sites in (self._site_of[grid].reshape(-1, size),)
        )

    def same_tokens(self, inner: Inner) -> bool:
        """Whether ranks of a tensor group give all experts the same tokens."""
        return self.execution.same_tokens(tensor=inner.tensor, sequence=inner.cuts_sequence, expert=inner.expert)

    def places(self, way: Way) -> list[Place]:
        """Where each stage of a way lies."""
        pools = [pool for pool, stages in enumerate(way.outer.stages) for _ in range(stages)]
        return [Place(pool, *self.met(way, grid, pool)) for grid, pool in zip(self.grids(way), pools, strict=True)]

    def met(
        self, way: Way, grid: Ints, pool: int, behind: tuple[Ints, int] | None = None
    ) -> tuple[Axes, float, HostShare]:
        """Whom the ranks of a stage meet, the next virtual stage among them, its slowness, and its hosts."""
        inner, outer = way
        first, period = int(grid.flat[0]), self.pools.periods[pool]
        regular = period and (behind is None or behind[1] == pool)
        where = (first - int(self.pools.devices[pool][0])) % period if regular else first
        after = int(behind[0].flat[0]) - first if behind is not None else None
        degree = outer.sharding.degree
        lie = (inner.tensor, inner.context, inner.expert, self.same_tokens(inner), outer.data, degree)
        key = (*lie, bool(regular), pool, where, after)
        if key not in self._axes:
            axes = self._repeated(way, grid, pool, behind) if period else self._listed(way, grid, behind)
            every = grid.reshape(-1)
            self._axes[key] = axes, self.fabric.slowest(every), self.fabric.host(every)
        return self._axes[key]

    def _listed(self, way: Way, grid: Ints, behind: tuple[Ints, int] | None) -> Axes:
        return stage_axes(
            grid,
            shard=way.outer.sharding.degree,
            expert=way.inner.expert,
            expert_tensor=1,
            behind=behind[0] if behind is not None else None,
            fabric=self.fabric,
            same_tokens=self.same_tokens(way.inner),
        )

    def _repeated(self, way: Way, grid: Ints, pool: int, behind: tuple[Ints, int] | None) -> Axes:
        """The same on a pool that repeats."""
        inner, outer = way
        strides = strides_of(
            data=outer.data,
            context=inner.context,
            tensor=inner.tensor,
            shard=outer.sharding.degree,
            expert=inner.expert,
            same_tokens=self.same_tokens(inner),
        )
        first = int(grid.flat[0])
        own = Axes(**self.strides.axes(pool, first, grid.size, strides))
        if behind is None:
            return own
        next_grid, other = behind
        if not self.pools.periods[other]:
            return replace(own, pair=paired(grid, next_grid, self.fabric))
        after = int(next_grid.flat[0]) - first
        return replace(own, pair=self.strides.pair(pool, first, other, after, min(grid.size, next_grid.size)))
