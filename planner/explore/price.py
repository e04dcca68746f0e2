"""The exact step time and the peak of memory of one way, as the cost model gives them for its plan.

A test holds the prices equal to those of nebula.cost_model.evaluate for the plan of the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.topology import HostShare
from nebula.cluster.values import DeviceType
from nebula.cost_model.communication import Levels, ranks_of
from nebula.cost_model.hiding import Hiding
from nebula.cost_model.offload import holds_activations
from nebula.cost_model.peak import Chunk, LayerLoad, Setting, rank_peak
from nebula.cost_model.traffic import Axes, across, wire
from nebula.graph.values import DTYPE_BYTES
from nebula.plan.job import RECOMPUTE
from nebula.plan.schedule import alive, begun, splits_backward, waiting
from nebula.plan.values import Sharding, StageMemory
from nebula.planner.explore.deal import Chain, Floats, balanced
from nebula.planner.explore.durations import Placed, homes_of, prefix_sums, waiting_factor
from nebula.planner.explore.layers import Layers, LayerSeconds
from nebula.planner.explore.places import Place, Places
from nebula.planner.explore.pools import Pools
from nebula.planner.explore.rates import Rates, rates_of
from nebula.planner.explore.ways import ALL, FEWEST, Inner, Outer, Way

Packing = tuple[list[Levels], list[Levels], list[Levels]]
"""How tensor, context and expert groups may lie."""

PROBE_BYTES = 1e9
"""Of a message, at which and at none its cost is told."""


class Priced(NamedTuple):
    """What a way costs.

    Attributes:
        step_s: infinite where it does not fit into memory.
        boundaries: first layer of each virtual stage, and the number of layers.
        peak_share: of the limit of its device, on the fullest.
        again: how many layers of each virtual stage are computed again, the first ones; empty: all.
    """

    step_s: float
    boundaries: tuple[int, ...]
    peak_share: float
    again: tuple[int, ...] = ()


class WayPrices:
    """Prices ways on pools of devices."""

    def __init__(self, layers: Layers, pools: Pools) -> None:
        self.layers, self.pools = layers, pools
        self.job, self.parameters = layers.job, layers.parameters
        blocks = layers.graph.layers
        most = max(dict.fromkeys(blocks), key=blocks.count)
        self._common = blocks.index(most), blocks.count(most)
        self.at = Places(layers.fabric, pools, layers.pricings[RECOMPUTE[0]].execution)
        self._seconds: dict[tuple[object, ...], LayerSeconds] = {}
        self._deals: dict[tuple[object, ...], tuple[int, ...]] = {}
        self._chains: dict[tuple[Inner, int], Chain] = {}
        self._packings: dict[tuple[int, ...], Packing] = {}
        self._rates: dict[tuple[object, ...], Rates] = {}
        self._hosts: dict[int, HostShare] = {}
        self._waits: dict[float, float] = {}
        self._told: dict[tuple[object, ...], tuple[float, float]] = {}
        self._kept: dict[Inner, Floats] = {}
        self._kept_before: dict[Inner, Floats] = {}
        self._elements_before: dict[tuple[int, int, int], tuple[Floats, ...]] = {}
        self._elements: dict[tuple[int, int, int], tuple[Floats, Floats]] = {}
        self._fitting: dict[Way, tuple[float, tuple[int, ...]]] = {}
        self._first_sends: dict[tuple[int, ...], tuple[float, float]] = {}

    @property
    def hiding(self) -> Hiding:
        """What messages cost beside kernels."""
        return self.layers.pricings[RECOMPUTE[0]].hiding

    @property
    def common(self) -> int:
        """A layer of the most common kind."""
        return self._common[0]

    @property
    def common_layers(self) -> int:
        """Layers of the most common kind."""
        return self._common[1]

    def price(self, way: Way, placed: Placed | None = None) -> Priced:
        """The exact price of a way; an infinite one where it does not fit.

        Args:
            way: to be priced.
            placed: its durations, where they are known.

        Raises:
            BadInput: a degree does not divide what it has to cut.
        """
        boundaries, places = self.deal(way), self.at.places(way)
        share, again = self.fitting(way, boundaries, places)
        if share > 1.0:
            return Priced(math.inf, boundaries, share, again)
        placed = placed or self.placed(way, boundaries, places)
        step_s = placed.step_seconds(way.micro_batches(self.job), way.outer.schedule)
        return Priced(step_s, boundaries, share, again)

    def seconds(self, way: Way, place: Place) -> LayerSeconds:
        """Seconds of every layer on a stage there."""
        m, sharding = way.micro_batches(self.job), way.outer.sharding
        busy = sharding if sharding.stage == 3 else Sharding()
        inner_axes = (place.axes.tensor, place.axes.context, place.axes.expert)
        more = (place.axes.shard, place.axes.outer, place.axes.expert_shard) if sharding.stage == 3 else ()
        inner = way.inner.passes
        key = (inner, place.pool, place.slow, place.host, m > 1, m, busy, inner_axes, more)
        if key not in self._seconds:
            device = self.pools.types[place.pool]
            self._seconds[key] = self.layers.seconds(
                inner, device, place.axes, busy, m, host=place.host, slow=place.slow
            )
        return self._seconds[key]

    def deal(self, way: Way) -> tuple[int, ...]:
        """First layer of each virtual stage, and the number of layers; of the deal that deal.py tells.

        Stages are weighed where groups are packed as well as can be, without data communication.
        """
        outer = way.outer
        used = [pool for pool, stages in enumerate(outer.stages) if stages]
        if len(used) == 1:
            virtual = outer.pipeline * outer.chunks
            return tuple(self.chain(way.inner, used[0]).deals[virtual, : virtual + 1].tolist())
        key = (way.inner, outer.stages, outer.chunks > 1 and outer.schedule != "interleaved", outer.chunks)
        if key not in self._deals:
            pools = [pool for pool, stages in enumerate(outer.stages) for _ in range(stages)]
            self._deals[key] = balanced([self.chain(way.inner, pools[home]).run_s for home in self.homes(way)])
        return self._deals[key]

    def chain(self, inner: Inner, pool: int) -> Chain:
        """Seconds of every layer on a pool where groups are packed as well as can be."""
        inner = inner.passes
        if (inner, pool) not in self._chains and inner.layers == FEWEST:
            whole, none = self._under(inner)
            # no layer takes less than where nothing is computed again
            self._chains[inner, pool] = replace(self.chain(none, pool), weighed=self.chain(whole, pool))
        if (inner, pool) not in self._chains:
            device, host = self.pools.types[pool], self.best_host(pool)
            every = [
                self.layers.seconds(
                    inner, device, Axes(tensor=tensor, context=context, expert=expert), Sharding(), 1, host=host
                )
                for tensor, context, expert in product(*self._packed(inner, pool))
            ]
            self._chains[inner, pool] = Chain(
                forward_s=np.minimum.reduce([s.forward_s for s in every]),
                backward_s=np.minimum.reduce([s.backward_s for s in every]),
                border_bytes=every[0].border_bytes,
                common=self._common[0],
            )
        return self._chains[inner, pool]

    def best_host(self, pool: int) -> HostShare:
        """What a device of a pool has of its host at most."""
        if pool not in self._hosts:
            hosts = self.layers.fabric.hosts(self.pools.devices[pool])
            self._hosts[pool] = HostShare(*map(max, zip(*hosts, strict=True)))
        return self._hosts[pool]

    def _packed(self, inner: Inner, pool: int) -> Packing:
        """How tensor, context and expert groups may lie: the first of a pool that repeats, else any."""
        key = (inner.tensor, inner.context, inner.expert, pool)
        if key not in self._packings:
            self._packings[key] = self._lie(inner, pool)
        return self._packings[key]

    def _lie(self, inner: Inner, pool: int) -> Packing:
        every, levels = self.pools.devices[pool], self.layers.fabric.distinct
        if self.pools.periods[pool]:
            every = every[: max(inner.width, inner.expert)]
        whole = every[: len(every) // inner.width * inner.width].reshape(-1, inner.context, inner.tensor)
        dealt = every[: len(every) // inner.expert * inner.expert].reshape(-1, inner.expert)
        return (
            levels(whole.reshape(-1, inner.tensor))[0],
            levels(whole.transpose(0, 2, 1).reshape(-1, inner.context))[0],
            levels(dealt)[0] if len(dealt) else [Levels()],
        )

    def rates(self, inner: Inner, device: DeviceType, axes: Axes, sharding: Sharding, host: HostShare) -> Rates:
        """What parameters cost where replicas lie so."""
        key = (inner.tensor, inner.context, inner.recompute, inner.offload, device.name, axes, sharding, host)
        if key not in self._rates:
            self._rates[key] = rates_of(self.layers, inner, device, axes, sharding, host)
        return self._rates[key]

    def homes(self, way: Way) -> tuple[int, ...]:
        """The device of each virtual stage."""
        return homes_of(way.outer.schedule, way.outer.pipeline, way.outer.chunks)

    def placed(self, way: Way, boundaries: tuple[int, ...], places: Sequence[Place]) -> Placed:
        """The durations of a way there."""
        homes, grids = self.homes(way), self.at.grids(way)
        if way.inner.layers == FEWEST:
            _, counts = self.fitting(way, boundaries, places)
            every, none = (way._replace(inner=inner) for inner in self._under(way.inner))
            firsts = [(a, a + count) for a, count in zip(boundaries, counts, strict=False)]
            rests = [(end, b) for (_, end), b in zip(firsts, boundaries[1:], strict=True)]
            forward, backward, weight = np.add(
                self._passes_s(every, firsts, places), self._passes_s(none, rests, places)
            )
        else:
            forward, backward, weight = self._passes_s(way, list(pairwise(boundaries)), places)
        backward = backward + self._takes_s(way, homes, boundaries, places)
        send = self._sends_s(way, homes, boundaries, places)
        back = np.roll(send, 1)
        back[0] = 0.0
        (busy, send), (busy_back, back) = self.hiding.around(forward, send), self.hiding.around(backward, back)
        tail_s, update_s = self._tails(way, homes, boundaries, places)
        waiting, told_s = self._together(way, grids)
        return Placed(
            forward_s=forward + busy,
            backward_s=backward + busy_back,
            weight_s=weight,
            send_s=send,
            back_s=back,
            homes=np.array(homes),
            tail_s=tail_s,
            update_s=update_s,
            tied=self._tied(way, homes),
            waiting=waiting,
            host_s=told_s + self.parameters.step_host_s,
        )

    def _together(self, way: Way, grids: Sequence[NDArray[np.int64]]) -> tuple[float, float]:
        """By how much devices wait for each other, and seconds of what all of them tell each other once a step."""
        key = (way.inner.recompute, way.inner.width * way.outer.data, way.outer.stages)
        if key not in self._told:
            devices = np.concatenate([g.reshape(-1) for g in grids])
            nodes = len(np.unique(self.layers.fabric.node_of(devices)))
            told_s = self.layers.pricings[way.inner.recompute].meeting_seconds(devices)
            self._told[key] = self.waiting(nodes), told_s
        return self._told[key]

    def waiting(self, nodes: float) -> float:
        """By what factor a step over so many nodes is longer since they wait for one another."""
        if nodes not in self._waits:
            self._waits[nodes] = float(waiting_factor(np.array(nodes), self.parameters))
        return self._waits[nodes]

    def _takes_s(self, way: Way, homes: Sequence[int], boundaries: Sequence[int], places: Sequence[Place]) -> Floats:
        """[virtual stages] what taking the gradient of its output costs each; nothing for the last."""
        pricing, takes_s = self.layers.pricings[way.inner.recompute], np.zeros(len(homes))
        border_bytes = self.chain(way.inner, places[0].pool).border_bytes[np.array(boundaries[1:-1], dtype=int) - 1]
        for stage, size_bytes in enumerate(border_bytes.tolist()):
            place = places[homes[stage]]
            takes_s[stage] = place.slow * pricing.taking_seconds(size_bytes, self.pools.types[place.pool])
        return takes_s

    def _passes_s(self, way: Way, spans: Sequence[tuple[int, int]], places: Sequence[Place]) -> Floats:
        """[forward, backward and the part of it for weights, virtual stages] of those layers of each."""
        homes, sums = self.homes(way), {}
        splits = splits_backward(way.outer.schedule)
        for place in {id(p.axes): p for p in places}.values():
            own = self.seconds(way, place)
            more_s = own.sets_s if splits else 0.0
            passes = own.forward_s, own.backward_s + more_s, own.weight_s + more_s
            sums[id(place.axes)] = [prefix_sums(each) for each in passes]
        held = [sums[id(places[home].axes)] for home in homes]
        return np.array([[own[i][b] - own[i][a] for own, (a, b) in zip(held, spans, strict=True)] for i in range(3)])

    def _tied(self, way: Way, homes: Sequence[int]) -> tuple[int, float]:
        """As of Placed.tied: the two ends of a pipeline sum them before replicas reduce theirs."""
        elements, first, last = self.layers.graph.tied_elements, homes[0], homes[-1]
        if not elements or first == last:
            return first, 0.0
        grids, execution = self.at.grids(way), self.layers.pricings[way.inner.recompute].execution
        size_bytes = elements / way.inner.tensor * DTYPE_BYTES[execution.accumulation_dtype]
        levels = across(grids[first], grids[last], self.layers.fabric)
        return last, wire("all_reduce", levels, self.parameters).seconds(size_bytes)

    def _sends_s(self, way: Way, homes: Sequence[int], boundaries: Sequence[int], places: Sequence[Place]) -> Floats:
        """What each virtual stage takes to send to the next; nothing for the last."""
        grids, known = self.at.grids(way), {}
        border_bytes = self.chain(way.inner, places[0].pool).border_bytes
        send_s = np.zeros(len(homes))
        for stage, (home, target) in enumerate(pairwise(homes)):
            behind = grids[target], places[target].pool
            axes, *_ = self.at.met(way, grids[home], places[home].pool, behind)
            size_bytes = float(border_bytes[boundaries[stage + 1] - 1])
            if (id(axes), size_bytes) not in known:
                known[id(axes), size_bytes] = self.send_s(way.inner, axes, size_bytes)
            send_s[stage] = known[id(axes), size_bytes]
        return send_s

    def send_s(self, inner: Inner, axes: Axes, size_bytes: float) -> float:
        """What it takes to send that to the next stage."""
        if not axes.pair:
            return 0.0
        # with sequence parallelism each rank has its own part
        execution = self.layers.pricings[RECOMPUTE[0]].execution
        parts = 1 if inner.cuts_sequence or not execution.border_parts else ranks_of(axes.tensor)
        send_s = wire("send", axes.pair, self.parameters).seconds(size_bytes / parts)
        return send_s + (wire("all_gather", axes.tensor, self.parameters).seconds(size_bytes) if parts > 1 else 0.0)

    def first_send(self, inner: Inner, data: int, pool: int) -> tuple[float, float]:
        """What a message from the first to the second stage of a pool costs: fixed, and per byte."""
        key = (inner.tensor, inner.cuts_sequence, inner.context, data, pool)
        if key not in self._first_sends:
            stages = tuple(2 * (i == pool) for i in range(len(self.pools.types)))
            way = Way(inner._replace(expert=1), Outer(data, stages, "1f1b", 1, Sharding()))
            first, second = self.at.grids(way)
            axes, *_ = self.at.met(way, first, pool, (second, pool))
            fixed_s = self.send_s(inner, axes, 0.0)
            self._first_sends[key] = fixed_s, (self.send_s(inner, axes, PROBE_BYTES) - fixed_s) / PROBE_BYTES
        return self._first_sends[key]

    def kept(self, inner: Inner) -> Floats:
        """[layers] bytes of activations that lie on the device from the forward of a micro-batch to its backward."""
        if inner not in self._kept:
            if inner.layers == FEWEST:
                self._kept[inner] = np.minimum.reduce([self.kept(under) for under in self._under(inner)])
                return self._kept[inner]
            copied = holds_activations(inner.offload)
            kept = [0.0 if copied else b.activations.kept for b in self.layers.memory(inner)]
            self._kept[inner] = self.layers.spread(kept)
        return self._kept[inner]

    def _under(self, inner: Inner) -> tuple[Inner, Inner]:
        """An inner half with all layers of a stage under its policy, and with none."""
        every = inner._replace(layers=ALL)
        return every, every._replace(recompute=RECOMPUTE[0])

    def kept_before(self, inner: Inner) -> Floats:
        """[layers + 1]: the same of the layers before each."""
        if inner not in self._kept_before:
            self._kept_before[inner] = prefix_sums(self.kept(inner))
        return self._kept_before[inner]

    def elements_before(self, inner: Inner) -> tuple[Floats, ...]:
        """[layers + 1] each: what `elements` gives, of the layers before each."""
        key = inner[:3]
        if key not in self._elements_before:
            self._elements_before[key] = tuple(prefix_sums(each) for each in self.elements(inner))
        return self._elements_before[key]

    def elements(self, inner: Inner) -> tuple[Floats, Floats]:
        """[layers] parameters on one rank that all replicas hold, and those of experts."""
        key = inner[:3]
        if key not in self._elements:
            blocks = self.layers.memory(inner)
            dense, experts = [b.elements for b in blocks], [b.expert_elements for b in blocks]
            self._elements[key] = self.layers.spread(dense), self.layers.spread(experts)
        return self._elements[key]

    def _tails(
        self, way: Way, homes: Sequence[int], boundaries: Sequence[int], places: Sequence[Place]
    ) -> tuple[Floats, Floats]:
        """Data communication behind the passes of each device, and its update."""
        sums = [prefix_sums(each) for each in (*self.elements(way.inner), *self._tensors(way.inner))]
        held = [np.diff(each[list(boundaries)]) for each in sums]
        tail_s, update_s = np.zeros(len(places)), np.zeros(len(places))
        known = {
            id(place.axes): self.rates(
                way.inner, self.pools.types[place.pool], place.axes, way.outer.sharding, place.host
            )
            for place in places
        }
        for stage, home in enumerate(homes):
            place = places[home]
            rates = known[id(place.axes)]
            for kind in range(2):
                elements, tensors = held[kind][stage], held[2 + kind][stage]
                # each virtual stage is reduced and gathered by itself
                tail_s[home] += (elements > 0) * rates.sync_fixed_s[kind] + elements * rates.sync_s[kind]
                tail_s[home] += tensors * rates.sync_tensor_s[kind]
                update_s[home] += place.slow * (elements * rates.update_s[kind] + tensors * rates.update_tensor_s[kind])
        return tail_s, update_s

    def _tensors(self, inner: Inner) -> tuple[Floats, Floats]:
        """[layers] weights on one rank that all replicas hold, and those of experts, by their number."""
        loads = self.layers.loads(inner, self.pools.types[0])
        return (
            self.layers.spread([load.weights.tensors for load in loads]),
            self.layers.spread([load.weights.expert_tensors for load in loads]),
        )

    def fitting(self, way: Way, boundaries: tuple[int, ...], places: Sequence[Place]) -> tuple[float, tuple[int, ...]]:
        """The peak of the fullest rank as a share of what it may hold, its host's memory included.

        Of the first rank that holds too much. Then, where as few layers as fit are computed again, how many those are
        on each virtual stage: the same number of the first ones of all virtual stages of a device.
        """
        if way.inner.layers == ALL:
            return self._fullest(way, boundaries, places), ()
        if way not in self._fitting:
            self._fitting[way] = self._fewest(way, boundaries, places)
        return self._fitting[way]

    def _fullest(self, way: Way, boundaries: tuple[int, ...], places: Sequence[Place]) -> float:
        loads, p = self.layers.memory(way.inner), way.outer.pipeline
        worst, peaks = 0.0, _Peaks(self.setting(way))
        # both ends first: the one holds most in flight, the other the loss
        for home in dict.fromkeys((0, p - 1, *range(p))):
            held = peaks.of(self._chunks(way, boundaries, home), loads)
            worst = max(worst, self._share(held, places[home]))
            if worst > 1.0:
                break
        return worst

    def _fewest(self, way: Way, boundaries: tuple[int, ...], places: Sequence[Place]) -> tuple[float, tuple[int, ...]]:
        """As of fitting; where a device holds too much however many are computed again, all of them are."""
        loads, plain = (self.layers.memory(inner) for inner in self._under(way.inner))
        sizes = np.diff(boundaries).tolist()
        worst, again, peaks = 0.0, list(sizes), _Peaks(self.setting(way))
        homes = np.array(self.homes(way))
        for home in range(way.outer.pipeline):
            own, chunks = np.flatnonzero(homes == home).tolist(), self._chunks(way, boundaries, home)
            shares: list[float] = []
            for count in range(max(sizes[i] for i in own) + 1):
                shares.append(self._share(peaks.of(chunks, loads, plain, count), places[home]))
                if shares[-1] <= 1.0:
                    again = [min(count, size) if i in own else again[i] for i, size in enumerate(sizes)]
                    break
            worst = max(worst, shares[-1] if shares[-1] <= 1.0 else min(shares))
        return worst, tuple(again)

    def _share(self, held: StageMemory, place: Place) -> float:
        """Of what a rank there may hold, on the device or in its host's memory, whichever is fuller."""
        limit = self.pools.types[place.pool].memory_bytes * self.job.memory_fraction
        host = place.host.memory_bytes * self.job.memory_fraction
        return max(held.total_bytes / limit, held.host_bytes / host)

    def _chunks(self, way: Way, boundaries: tuple[int, ...], home: int) -> list[_Held]:
        """The virtual stages of a device."""
        homes, outer, blocks = self.homes(way), way.outer, self.layers.graph.layers
        own = [i for i, at in enumerate(homes) if at == home]
        numbers = (outer.schedule, outer.pipeline, home, way.micro_batches(self.job), outer.chunks)
        return [
            _Held(
                blocks[boundaries[i] : boundaries[i + 1]],
                flight,
                i + 1 < len(homes),
                blocks[boundaries[i] - 1] if boundaries[i] else -1,
                waits,
                met,
            )
            for i, flight, waits, met in zip(own, alive(*numbers), waiting(*numbers), begun(*numbers), strict=True)
        ]

    def setting(self, way: Way) -> Setting:
        """What holds for all ranks of a way."""
        inner, outer = way
        level, replicas = outer.sharding.stage, outer.data * inner.context
        same = replicas if self.at.same_tokens(inner) else max(1, replicas * inner.tensor // inner.expert)
        groups = (inner.tensor > 1, inner.context > 1, replicas > 1, outer.pipeline > 1, inner.expert > 1)
        return Setting(
            execution=self.layers.pricings[inner.recompute].execution,
            sharding=Sharding(stage=level, degree=outer.sharding.degree * inner.context if level else 1),
            expert_sharding=Sharding(stage=level, degree=same if level else 1),
            replicas=replicas,
            expert_replicas=same,
            micro_batches=way.micro_batches(self.job),
            communicators=sum(groups),
            counted=self.pools.counted,
            offload=inner.offload,
            splits=splits_backward(outer.schedule),
        )


class _Held(NamedTuple):
    """A virtual stage of a device.

    Attributes:
        blocks: of its layers.
        flight: micro-batches whose activations lie in memory together.
        sends: whether its output is sent on.
        before: the block of the layer before it; -1: there is none.
        waiting: of those in flight, how many wait for the gradients of weights alone.
        begun: as of Chunk.
    """

    blocks: tuple[int, ...]
    flight: int
    sends: bool
    before: int
    waiting: int
    begun: tuple[int, ...]


class _Peaks:
    """The memory of devices of one way, each once that holds the same."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._known: dict[tuple[object, ...], StageMemory] = {}

    def of(
        self, held: Sequence[_Held], loads: Sequence[LayerLoad], plain: Sequence[LayerLoad] = (), again: int = 0
    ) -> StageMemory:
        """The peak of a device.

        Args:
            held: its virtual stages.
            loads: by block what a layer brings.
            plain: by block what a layer brings that is not under the recompute policy; empty: all are.
            again: layers of each virtual stage that are under it, the first ones.
        """
        key = (again, *((len(h.blocks), h.blocks[0], h.blocks[-1], *h[1:]) for h in held))
        if key not in self._known:
            chunks = [
                Chunk(
                    layers=tuple((plain if plain and n >= again else loads)[i] for n, i in enumerate(h.blocks)),
                    flight=h.flight,
                    sends=h.sends,
                    offload=self.setting.offload,
                    received_bytes=loads[h.before].output_bytes if h.before >= 0 else 0.0,
                    waiting=h.waiting,
                    begun=h.begun,
                )
                for h in held
            ]
            self._known[key] = rank_peak(chunks, self.setting).memory
        return self._known[key]
