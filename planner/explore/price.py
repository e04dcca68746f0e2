"""The exact step time and the peak of memory of one way, as the cost model gives them for its plan.

Layers are dealt to virtual stages so that the slowest is as fast as it can be; a test holds the prices equal to those
of nebula.cost_model.evaluate for the plan of the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import DeviceType
from nebula.cost_model.closed_form import last_backward_s
from nebula.cost_model.communication import ranks_of
from nebula.cost_model.peak import Chunk, Counted, Setting, rank_peak
from nebula.cost_model.step_parameters import DEFAULT
from nebula.cost_model.traffic import Axes, stage_axes, wire
from nebula.plan.schedule import alive, device_of
from nebula.plan.values import Sharding
from nebula.planner.explore.layers import Layers, LayerSeconds
from nebula.planner.explore.ways import Inner, Way

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """Pools of equal devices in the order in which stages are laid on them.

    Attributes:
        devices: global indices of each pool, nodes together.
        types: the device type of each pool.
    """

    devices: tuple[Ints, ...]
    types: tuple[DeviceType, ...]


class Place(NamedTuple):
    """Where one stage of a way lies.

    Attributes:
        pool: index of its pool.
        axes: whom its ranks meet, other stages apart.
        slow: by what factor its slowest node is slower.
    """

    pool: int
    axes: Axes
    slow: float


class Priced(NamedTuple):
    """What a way costs.

    Attributes:
        step_s: infinite where it does not fit into memory.
        boundaries: first layer of each virtual stage, and the number of layers.
        peak_share: of the limit of its device, on the fullest.
    """

    step_s: float
    boundaries: tuple[int, ...]
    peak_share: float


class Deal(NamedTuple):
    """Which virtual stage holds which layers, and how long at least a micro-batch keeps each device busy.

    Attributes:
        boundaries: first layer of each virtual stage, and the number of layers.
        busy_s: [devices] both passes of all that a device holds.
        forward_s: [devices] of the first chunks of the devices before, until the first input is there.
        backward_s: [devices] of the same chunks, after the last gradient has left.
    """

    boundaries: tuple[int, ...]
    busy_s: Floats
    forward_s: Floats
    backward_s: Floats

    def least_seconds(self, micro_batches: int, schedule: str) -> float:
        """No step is faster: a device works, and waits at the start, and at the end where W cannot fill the wait."""
        waits_s = self.forward_s + (self.backward_s if schedule in WAITING else 0.0)
        return float((micro_batches * self.busy_s + waits_s).max()) + DEFAULT.step_host_s


WAITING = frozenset(("1f1b", "fthenb", "interleaved"))
"""Schedules in which a device waits while the last gradients pass those before it."""


class WayPrices:
    """Prices ways on pools of devices."""

    def __init__(self, layers: Layers, pools: Pools) -> None:
        self.layers, self.pools = layers, pools
        self.job = layers.job
        self._axes: dict[tuple[object, ...], tuple[Axes, float]] = {}
        self._seconds: dict[tuple[object, ...], LayerSeconds] = {}
        self._deals: dict[tuple[object, ...], Deal] = {}
        self._packed: dict[tuple[Inner, int], LayerSeconds] = {}
        groups = layers.fabric.cluster.groups
        widths = [tier.nodes for tier in layers.fabric.cluster.tiers if tier.nodes]
        self._period = groups[0].devices_per_node * math.lcm(*widths) if widths else groups[0].devices_per_node
        self._regular = len(groups) == 1 and not groups[0].slow and not groups[0].excluded

    def price(self, way: Way, to_beat_s: float = math.inf) -> Priced:
        """The exact price of a way, or infinity where it plainly takes longer than `to_beat_s` or does not fit.

        Raises:
            BadInput: a degree does not divide what it has to cut.
        """
        deal = self.deal(way)
        boundaries = deal.boundaries
        if deal.least_seconds(way.micro_batches(self.job), way.outer.schedule) >= to_beat_s:
            return Priced(math.inf, boundaries, 0.0)
        places = self.places(way)
        share = self._fullest(way, boundaries, places)
        if share > 1.0:
            return Priced(math.inf, boundaries, share)
        return Priced(self._step_s(way, boundaries, places), boundaries, share)

    def grids(self, way: Way) -> list[Ints]:
        """[data, context, tensor] devices of each stage."""
        inner, outer = way
        size = inner.width * outer.data
        found = []
        for pool, stages in zip(self.pools.devices, outer.stages, strict=True):
            for index in range(stages):
                found.append(pool[index * size : (index + 1) * size].reshape(outer.data, inner.context, inner.tensor))
        return found

    def places(self, way: Way) -> list[Place]:
        """Where each stage of a way lies."""
        pools = [pool for pool, stages in enumerate(way.outer.stages) for _ in range(stages)]
        return [Place(pool, *self._met(way, grid)) for grid, pool in zip(self.grids(way), pools, strict=True)]

    def _met(self, way: Way, grid: Ints, behind: Ints | None = None) -> tuple[Axes, float]:
        """Whom the ranks of a stage meet, the next virtual stage among them, and its slowness."""
        inner, outer = way
        first = int(grid.flat[0])
        where = first % self._period if self._regular else first
        after = int(behind.flat[0]) - first if behind is not None else None
        degree = outer.sharding.degree
        key = (inner.tensor, inner.context, inner.expert, outer.data, degree, where, after)
        if key not in self._axes:
            axes = stage_axes(
                grid, shard=degree, expert=inner.expert, expert_tensor=1, behind=behind, fabric=self.layers.fabric
            )
            self._axes[key] = axes, self.layers.fabric.slowest(grid.reshape(-1))
        return self._axes[key]

    def seconds(self, way: Way, place: Place) -> LayerSeconds:
        """Seconds of every layer on a stage there."""
        m, sharding = way.micro_batches(self.job), way.outer.sharding
        busy = sharding if sharding.stage == 3 else Sharding()
        inner_axes = (place.axes.tensor, place.axes.context, place.axes.expert)
        more = (place.axes.shard, place.axes.outer, place.axes.expert_shard) if sharding.stage == 3 else ()
        key = (way.inner, place.pool, place.slow, m > 1, m, busy, inner_axes, more)
        if key not in self._seconds:
            device = self.pools.types[place.pool]
            self._seconds[key] = self.layers.seconds(way.inner, device, place.axes, busy, m, place.slow)
        return self._seconds[key]

    def deal(self, way: Way) -> Deal:
        """The deal of layers to virtual stages whose slowest is as fast as it can be, each for its device."""
        outer = way.outer
        key = (way.inner, outer.stages, outer.chunks > 1 and outer.schedule != "interleaved", outer.chunks)
        if key not in self._deals:
            pools = [pool for pool, stages in enumerate(outer.stages) for _ in range(stages)]
            homes = self._homes(way)
            own = [self.packed(way.inner, pools[home]) for home in homes]
            boundaries = balanced([seconds.run_s for seconds in own])
            spans = list(pairwise(boundaries))
            busy_s = np.zeros(outer.pipeline)
            np.add.at(busy_s, homes, [seconds.run_s[span] for seconds, span in zip(own, spans, strict=True)])
            first = list(zip(own[: outer.pipeline], spans, strict=False))
            before = [
                np.cumsum([0.0, *(getattr(seconds, name)[a:b].sum() for seconds, (a, b) in first)])[:-1]
                for name in ("forward_s", "backward_s")
            ]
            self._deals[key] = Deal(boundaries, busy_s, *before)
        return self._deals[key]

    def packed(self, inner: Inner, pool: int) -> LayerSeconds:
        """Seconds of every layer on a pool where groups are packed as well as can be; nothing of data communication."""
        if (inner, pool) not in self._packed:
            devices, levels = self.pools.devices[pool], self.layers.fabric.levels
            axes = Axes(
                tensor=levels(devices[: inner.tensor].tolist()),
                context=levels(devices[: inner.width : inner.tensor].tolist()),
                expert=levels(devices[: min(inner.expert, len(devices))].tolist()),
            )
            self._packed[inner, pool] = self.layers.seconds(inner, self.pools.types[pool], axes, Sharding(), 1)
        return self._packed[inner, pool]

    def _homes(self, way: Way) -> list[int]:
        p, chunks = way.outer.pipeline, way.outer.chunks
        return [device_of(way.outer.schedule, stage, p, chunks) for stage in range(p * chunks)]

    def _step_s(self, way: Way, boundaries: tuple[int, ...], places: Sequence[Place]) -> float:
        homes, outer = self._homes(way), way.outer
        m, p = way.micro_batches(self.job), outer.pipeline
        spans = list(pairwise(boundaries))
        own = [self.seconds(way, places[home]) for home in homes]
        forward, backward, weight = (
            np.array([getattr(s, name)[a:b].sum() for s, (a, b) in zip(own, spans, strict=True)])
            for name in ("forward_s", "backward_s", "weight_s")
        )
        send = np.array(
            [*self._sends_s(way, homes, [s.border_bytes[b - 1] for s, (_, b) in zip(own, spans, strict=True)])]
        )
        back = np.roll(send, 1)
        back[0] = 0.0
        ends = last_backward_s(forward + send, backward + back, m, outer.schedule, outer.chunks, weight)
        tails, updates = np.zeros(p), np.zeros(p)
        for home in range(p):
            held = [span for span, at in zip(spans, homes, strict=True) if at == home]
            tails[home], updates[home] = self.tail_seconds(way, places[home], held)
        nodes = len(np.unique(self.layers.fabric.node_of(np.concatenate([g.reshape(-1) for g in self.grids(way)]))))
        waiting = 1.0 + DEFAULT.jitter * math.log2(max(1, nodes))
        return waiting * float((ends + tails).max()) + float(updates.max()) + DEFAULT.step_host_s

    def _sends_s(self, way: Way, homes: Sequence[int], border_bytes: Sequence[float]) -> Iterator[float]:
        """What each virtual stage takes to send to the next; nothing for the last."""
        grids = self.grids(way)
        for (home, target), size_bytes in zip(pairwise(homes), border_bytes, strict=False):
            axes, _ = self._met(way, grids[home], grids[target])
            yield self._send_s(way, axes, float(size_bytes))
        yield 0.0

    def _send_s(self, way: Way, axes: Axes, size_bytes: float) -> float:
        if not axes.pair:
            return 0.0
        parts = 1 if way.inner.tensor > 1 else ranks_of(axes.tensor)
        send_s = wire("send", axes.pair, DEFAULT).seconds(size_bytes / parts)
        return send_s + (wire("all_gather", axes.tensor, DEFAULT).seconds(size_bytes) if parts > 1 else 0.0)

    def tail_seconds(self, way: Way, place: Place, held: Sequence[tuple[int, int]]) -> tuple[float, float]:
        """Data communication behind the passes of a device, and its update."""
        inner, device = way.inner, self.pools.types[place.pool]
        replicas = self.layers.replicas(inner, device, place.axes, way.outer.sharding, way.micro_batches(self.job))
        loads = self.layers.loads(inner, device)
        each = [self.layers.counted(loads, first, end) for first, end in held]
        # each virtual stage is reduced and gathered by itself
        sync_s = sum(sum(replicas.sync_seconds(counted)) for counted in each)
        return sync_s, place.slow * sum(replicas.update_seconds(counted) for counted in each)

    def _fullest(self, way: Way, boundaries: tuple[int, ...], places: Sequence[Place]) -> float:
        """The peak of the fullest rank as a share of what its device may hold; of the first that holds too much."""
        homes, outer = self._homes(way), way.outer
        loads, blocks = self.layers.memory(way.inner), self.layers.graph.layers
        m, p, setting = way.micro_batches(self.job), outer.pipeline, self.setting(way)
        spans = list(pairwise(boundaries))
        worst, known = 0.0, {}
        # both ends first: the one holds most in flight, the other the loss
        for home in dict.fromkeys((0, p - 1, *range(p))):
            own = [i for i, at in enumerate(homes) if at == home]
            flights = alive(outer.schedule, p, home, m, outer.chunks)
            limit = self.pools.types[places[home].pool].memory_bytes * self.job.memory_fraction
            chunks = [
                (blocks[slice(*spans[i])], flight, i + 1 < len(homes)) for i, flight in zip(own, flights, strict=True)
            ]
            key = tuple((len(b), b[0], b[-1], flight, sends) for b, flight, sends in chunks)
            if key not in known:
                each = [Chunk(layers=tuple(loads[i] for i in b), flight=f, sends=s) for b, f, s in chunks]
                known[key] = rank_peak(each, setting).memory.total_bytes
            worst = max(worst, known[key] / limit)
            if worst > 1.0:
                break
        return worst

    def setting(self, way: Way) -> Setting:
        """What holds for all ranks of a way."""
        inner, outer = way
        level, replicas = outer.sharding.stage, outer.data * inner.context
        same = max(1, replicas * inner.tensor // inner.expert)
        groups = (inner.tensor > 1, inner.context > 1, replicas > 1, outer.pipeline > 1, inner.expert > 1)
        return Setting(
            execution=self.layers.pricings[inner.recompute].execution,
            sharding=Sharding(stage=level, degree=outer.sharding.degree * inner.context if level else 1),
            expert_sharding=Sharding(stage=level, degree=same if level else 1),
            replicas=replicas,
            micro_batches=way.micro_batches(self.job),
            communicators=sum(groups),
            counted=Counted.PROCESS,
        )


def balanced(runs: Sequence[Floats]) -> tuple[int, ...]:
    """First layers of stages, and the number of layers: the deal whose slowest stage takes least.

    Args:
        runs: for each stage the seconds of every run of layers there, [first, end], infinite where it holds none.

    Example:
        >>> balanced([np.array([[np.inf, 1.0, 2.0], [np.inf, np.inf, 1.0], [np.inf] * 3])] * 2)
        (0, 1, 2)
    """
    layers = len(runs[0]) - 1
    best, choices = np.full(layers + 1, np.inf), []
    best[0] = 0.0
    for index, run_s in enumerate(runs):
        worst = np.maximum(best[:, None], run_s)
        choices.append(worst.argmin(axis=0))
        best = worst.min(axis=0)
        best[: index + 1] = np.inf
    bounds = [layers]
    for choice in reversed(choices):
        bounds.append(int(choice[bounds[-1]]))
    return tuple(reversed(bounds))
