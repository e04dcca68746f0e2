"""What splits cost while they are searched: what they share is worked out once, and bounds of whole splits.

How the boundaries of one split are priced is split_price.py's question.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.topology import Level, nic_share
from nebula.cluster.values import Cluster, Link
from nebula.cost_model.chain import ChainCost, Chains
from nebula.cost_model.communication import Levels
from nebula.cost_model.compute import product_seconds
from nebula.cost_model.fleet import Pricing
from nebula.cost_model.groups import Groups
from nebula.cost_model.peak import Line
from nebula.cost_model.placed import Placed, place
from nebula.cost_model.siblings import kernels_of
from nebula.cost_model.spans import Spans, Sums
from nebula.graph.values import DistributedGraph
from nebula.plan.layout import FLEET
from nebula.plan.values import Job, Sharding
from nebula.planner.arrangements import Arrangement, Arrangements, Mesh
from nebula.planner.cuts import Cut, Cuts
from nebula.planner.deals import Cost, Deals, deal, every_run
from nebula.planner.furthest import Ahead
from nebula.planner.pool import Pool
from nebula.planner.space import Split
from nebula.planner.split_price import NOWHERE, RelaxedPrice, SplitPrice, Useful
from nebula.planner.stages import geometric_bound, least_largest, stage_bound

Floats = NDArray[np.float64]
Work = tuple[int, int, str, int]
"""Tensor degree, rows, recompute policy and micro-batches: what the work of runs of layers depends on."""


class Prices:
    """Prices splits of one graph over one pool of devices.

    Args:
        chains: of the graph, whose blocks are cut already.
    """

    def __init__(
        self, graph: DistributedGraph, cluster: Cluster, job: Job, pool: Pool, chains: Chains | None = None
    ) -> None:
        self.pricing = Pricing(graph, cluster, job, chains and chains.for_other_devices())
        self.job, self.pool = job, pool
        self.limit_bytes = pool.device.memory_bytes * job.memory_fraction
        self.cuts: Cuts | None = None
        self._devices = np.array(pool.devices)
        self._every = every_run(len(graph.layers))
        self._levels: dict[int, tuple[Levels, ...]] = {}
        self._aheads: dict[tuple[int, int, str, int, Sharding], dict[tuple[object, ...], Ahead]] = {}
        self._packings: dict[tuple[int, int], Levels] = {}
        self._least: dict[tuple[int, int, str], Spans] = {}
        self._met: dict[Mesh, Placed] = {}
        self._arranged: dict[Split, tuple[Arrangement, Placed]] = {}
        self._useful: dict[Work, tuple[float, Useful]] = {}
        self._sums: dict[tuple[int, int, str], Sums] = {}
        self._bounds: dict[Work, Floats] = {}
        self._work_s: dict[Work, float] = {}
        self._computing_s: dict[Work, float] = {}
        self._busiest_s: dict[tuple[int, int, str], Floats] = {}
        self._least_s: dict[tuple[object, ...], tuple[float, float]] = {}
        self._fitting: dict[tuple[int, int, str, int, int, bool], tuple[float, int]] = {}

    def spans(self, tensor: int, rows: int, recompute: str) -> Spans:
        """Costs of all runs of layers for that tensor degree, micro-batch and policy; no tensor group takes less.

        Raises:
            BadInput: the tensor degree does not divide what it has to cut.
        """
        key = (tensor, rows, recompute)
        if key not in self._least:
            if self.cuts is not None:
                self.cuts.bring(Cut(tensor, rows))
            each = [self._spans_at(levels, *key) for levels in self._tensor_levels(tensor)]
            self._least[key] = each[0] if len(each) == 1 else self._fastest([spans.chain for spans in each])
        return self._least[key]

    def cut_ahead(self, wanted: Iterable[Cut], processes: int) -> Cuts:
        """Others cut what is likely to be asked for, in that order, until they are told to end."""
        self.cuts = Cuts(self.pricing.chains, self.pool.device, self._tensor_levels, wanted, processes)
        return self.cuts

    def _tensor_levels(self, tensor: int) -> tuple[Levels, ...]:
        """The ways in which tensor groups of that degree lie on the pool, whatever the split."""
        if tensor not in self._levels:
            groups = self._devices[: len(self._devices) // tensor * tensor].reshape(-1, tensor)
            self._levels[tensor] = tuple(dict.fromkeys(self.pricing.fabric.distinct(groups)[0]))
        return self._levels[tensor]

    def _spans_at(self, levels: Levels, tensor: int, rows: int, recompute: str) -> Spans:
        return self.pricing.spans(
            rows=rows, tensor=tensor, levels=levels, sequence=False, device=self.pool.device, policy=recompute
        )

    def _fastest(self, chains: Sequence[ChainCost]) -> Spans:
        """Chains that differ in where the tensor group meets, each layer as in the fastest."""
        chain = replace(
            chains[0],
            forward_communication_s=np.min([chain.forward_communication_s for chain in chains], axis=0),
            backward_communication_s=np.min([chain.backward_communication_s for chain in chains], axis=0),
        )
        return Spans(chain, self.pool.device, self.job)

    def split(self, split: Split) -> SplitPrice:
        """The price of a split with its ranks placed."""
        return self._price(split, self.arranged(split)[1])

    def step_seconds(self, split: Split, boundaries: Sequence[int], placed: Placed) -> float:
        """Seconds of a step of a split whose ranks meet so."""
        return float(self._price(split, placed).step_seconds([boundaries])[0])

    def may_be_dealt(self, split: Split, to_beat_s: float) -> bool:
        """Whether a step shorter than to_beat_s could have a deal if all groups met as well as any could."""
        groups = self._ideal(split)
        placed = Placed(kinds=((groups, 1.0),), stages=(0,) * split.pipeline)
        price = self._priced(split, {groups.tensor: self._spans_of(split)}, placed)
        return price.fewest_stages(to_beat_s) <= split.pipeline

    def _price(self, split: Split, placed: Placed) -> SplitPrice:
        key = (split.tensor, split.rows, split.recompute)
        where = {groups.tensor: self._spans_at(groups.tensor, *key) for groups, _ in placed.kinds}
        return self._priced(split, where, placed)

    def _priced(self, split: Split, where: dict[Levels, Spans], placed: Placed) -> SplitPrice:
        m, key = split.micro_batches(self.job), (split.tensor, split.rows, split.recompute)
        aheads = self._aheads.setdefault((*key, m, split.sharding), {})
        return SplitPrice(self._spans_of(split), where, placed, split.sharding, m, self.limit_bytes, aheads)

    def without_communication(self, split: Split) -> SplitPrice:
        """The same split as if data and pipeline communication and sharding took no time."""
        m = split.micro_batches(self.job)
        return RelaxedPrice(self._spans_of(split), split.pipeline, split.sharding, m, self.limit_bytes)

    def deals(self, split: Split, price: SplitPrice, to_beat_s: float, fewest: int) -> Deals:
        """The best deals of layers to `fewest` to split.pipeline stages, by their lower bound."""
        fewest = max(fewest, price.fewest_stages(to_beat_s))
        if fewest > split.pipeline:
            return Deals(runs=self._every, steps=())
        return price.deals(self._runs(split, to_beat_s), to_beat_s, fewest)

    def leanest_deals(self, split: Split, to_beat_bytes: float = np.inf) -> Deals:
        """The deals of layers to up to as many stages as the split has, by the bytes of the fullest device.

        Those that do not stay below to_beat_bytes may come out too high.
        """
        m = split.micro_batches(self.job)
        sums = self._every_sums(split.tensor, split.rows, split.recompute)
        lines = self._leanest_lines(split, sums)

        def cost(behind: int, which: slice, _: Floats) -> Cost:
            """What each of some runs holds with so many stages behind."""
            flying = min(behind + 1, m)
            each = np.maximum.reduce([line.of(which).at(flying) for line in lines])
            return Cost(each, lines[0].held[which])

        return deal(self._every, cost, split.pipeline, to_beat_bytes)

    def _leanest_lines(self, split: Split, sums: Sums) -> tuple[Line, ...]:
        """What all runs of layers hold as a stage, by lines; where tensors alone count, buckets of gradients apart."""
        spans, m = self._spans_of(split), split.micro_batches(self.job)
        if spans.memories.tensors_alone:
            return spans.lines(sums, split.sharding, NOWHERE, m)
        alone, among = (
            spans.lines(sums, split.sharding, self._ideal(replace(split, pipeline=stages)), m) for stages in (1, 2)
        )
        # a run of all layers has no neighbour
        whole = (sums.first == 0) & (sums.end == spans.layers)
        return tuple(
            Line(np.where(whole, one.held, other.held), np.where(whole, one.kept, other.kept))
            for one, other in zip(alone, among, strict=True)
        )

    def _runs(self, split: Split, to_beat_s: float) -> Useful:
        """The runs of layers that can be a stage of a step shorter than to_beat_s, whatever the placement."""
        key = (split.tensor, split.rows, split.recompute, split.micro_batches(self.job))
        known_s, useful = self._useful.get(key, (np.inf, None))
        if useful is None or not to_beat_s <= known_s <= 1.05 * to_beat_s:
            runs, which = self._every.where(self._every_bound(key) < to_beat_s)
            useful = Useful(runs=runs, sums=self._every_sums(*key[:3]).where(which))
            self._useful[key] = (to_beat_s, useful)
        return useful

    def _every_sums(self, tensor: int, rows: int, recompute: str) -> Sums:
        """What all runs of layers add up to."""
        key = (tensor, rows, recompute)
        if key not in self._sums:
            self._sums[key] = self.spans(*key).of(self._every.first, self._every.end)
        return self._sums[key]

    def _every_bound(self, key: Work) -> Floats:
        """For each run of layers a step time that no step with such a stage can beat."""
        if key not in self._bounds:
            spans, m = self.spans(*key[:3]), key[3]
            forward_s, backward_s = spans.passes(self._every_sums(*key[:3]), m, Sharding(), NOWHERE, 1.0)
            others_s = spans.work_s(m, Sharding(), NOWHERE) - forward_s - backward_s
            self._bounds[key] = stage_bound(forward_s, backward_s, np.zeros(1), others_s, m, spans.layers)
        return self._bounds[key]

    def product_seconds_per_row(self) -> float:
        """Seconds of the matrix products of one more row on one device, forward and backward: no split needs less."""
        one, two = (self._product_seconds(rows) for rows in (1, 2))
        return two - one

    def _product_seconds(self, rows: int) -> float:
        best = replace(self.pool.device, half_product_flops=0.0)
        blocks = [self.pricing.chains.block(i, rows, 1, False) for i in range(len(self.pricing.graph.blocks))]
        works = [kernels_of(work for op in block.operators for work in (*op.forward, *op.backward)) for block in blocks]
        each = [sum(product_seconds(work, best) for work in own) for own in works]
        return sum(each[index] for index in self.pricing.graph.layers)

    def least_seconds(self, split: Split) -> float:
        """A lower bound of the split's step time that needs neither boundaries nor places.

        The work and the tails of all stages together, over the stages; m times the slowest layer; geometric_bound.
        Groups meet as well as any could.
        """
        spans, m, p = self._spans_of(split), split.micro_batches(self.job), split.pipeline
        key = (split.tensor, split.rows, split.recompute, split.data, split.sharding, p > 1)
        if key not in self._least_s:
            groups = self._ideal(split)
            tail_s = float(spans.tail(spans.whole, split.sharding, groups, 1.0))
            self._least_s[key] = spans.work_s(m, split.sharding, groups), tail_s
        work_s, tail_s = self._least_s[key]
        return max((m * work_s + tail_s) / p, m * spans.widest_s, geometric_bound(work_s, m, p))

    def work_seconds(self, split: Split) -> float:
        """Seconds of one forward and one backward of all layers of a split, communication of data and borders apart."""
        key = (split.tensor, split.rows, split.recompute, split.micro_batches(self.job))
        if key not in self._work_s:
            self._work_s[key] = self._spans_of(split).work_s(key[3], Sharding(), NOWHERE)
        return self._work_s[key]

    def computing_seconds(self, split: Split) -> float:
        """Seconds of a step in which the devices of all stages compute at least, one of each, on healthy nodes."""
        key = (split.tensor, split.rows, split.recompute, split.micro_batches(self.job))
        if key not in self._computing_s:
            spans = self._spans_of(split)
            self._computing_s[key] = key[3] * float(spans.computing(spans.whole, key[3], Sharding(), NOWHERE, 1.0))
        return self._computing_s[key]

    def busiest_seconds(self, split: Split) -> Floats:
        """[stages - 1] seconds of one forward and one backward of the busiest of so many stages, whatever the deal."""
        key = (split.tensor, split.rows, split.recompute)
        if key not in self._busiest_s:
            chain = self.spans(*key).chain
            self._busiest_s[key] = least_largest(chain.forward_total_s + chain.backward_total_s)
        return self._busiest_s[key]

    def fewest_that_hold(self, split: Split) -> float:
        """Stages that memory asks for at least, however the layers are dealt; infinite where one layer is too much.

        What does not depend on the deal, one micro-batch in flight, lies on all stages together.
        """
        if not self._each_fits(split):
            return inf
        spans = self._spans_of(split)
        flying = min(1, spans.memories.most_flying(split.micro_batches(self.job)))
        together = float(spans.memories.lasting(spans.whole, split.sharding).at(flying))
        return max(1, ceil(together / (self.limit_bytes - spans.memories.process_bytes)))

    def _each_fits(self, split: Split) -> bool:
        """Whether every layer fits alone on a device.

        Cut among more ranks a layer never holds more, but for the buffers of other owners under stage 2.
        """
        degree, stage, m = split.sharding.degree, split.sharding.stage, split.micro_batches(self.job)
        key = (split.tensor, split.rows, split.recompute, stage, degree if stage == 2 else 0, m > 1)
        if key not in self._fitting and stage != 2 and degree > 2:
            # where two ranks are enough nothing else is to be looked at
            self._each_fits(replace(split, sharding=Sharding(stage=stage, degree=2)))
        enough, too_few = self._fitting.get(key, (inf, 0))
        if too_few < degree < enough:
            spans = self._spans_of(split)
            lines = spans.lines(spans.single, split.sharding, NOWHERE, m)
            fits = max(float(line.at(1).max()) for line in lines) <= self.limit_bytes
            enough, too_few = (degree, too_few) if fits else (enough, degree)
            self._fitting[key] = enough, too_few
        return degree >= enough

    def fewest_stages(self, split: Split, to_beat_s: float) -> int:
        """Stages that split.pipeline must be at least, by all memory and work together; one more when none will do.

        Args:
            split: with the most stages, and the sharding that holds least.
            to_beat_s: what a step must beat to be of use.
        """
        m, most, work_s = split.micro_batches(self.job), split.pipeline, self.work_seconds(split)
        fewest = int(min(self.fewest_that_hold(split), most + 1))
        every = range(fewest, most + 1)
        # more stages never take longer
        return fewest + bisect_left(every, True, key=lambda stages: geometric_bound(work_s, m, stages) < to_beat_s)

    def _ideal(self, split: Split) -> Groups:
        """Groups of a split that meet as well as any could: as many ranks to a node as it holds, no delay.

        Tensor ranks and borders are there, because gradients are copied otherwise where data parallelism is alone.
        """
        degree = split.sharding.degree
        return Groups(
            tensor_ranks=split.tensor,
            shard=self._packed(degree, split.tensor),
            outer=self._packed(split.data // degree, split.tensor),
            behind=self._packed(min(split.pipeline, 2), 1),
        )

    def _packed(self, ranks: int, tensor: int) -> Levels:
        """The levels of a group of ranks of different tensor groups, packed into as few nodes as possible."""
        if (ranks, tensor) not in self._packings:
            self._packings[ranks, tensor] = self._pack(ranks, tensor)
        return self._packings[ranks, tensor]

    def _pack(self, ranks: int, tensor: int) -> Levels:
        fabric = self.pricing.fabric
        groups = fabric.cluster.groups
        inside = max(1, min(ranks, max(g.devices_per_node for g in groups) // tensor))
        bus = Link(kind="widest", bytes_per_s=max(g.intra.bytes_per_s for g in groups), latency_s=0.0)
        wire = Link(kind="widest", bytes_per_s=max(nic_share(g) for g in groups), latency_s=0.0)
        fastest = max(bus, wire, key=lambda link: link.bytes_per_s)
        levels = ((inside, fastest), (ranks // inside, wire))
        return Levels(
            Level(name=link.kind, members=members, link=link, start_s=fabric.start_s)
            for members, link in levels
            if members > 1
        )

    @cached_property
    def _ways(self) -> Arrangements | None:
        """The ways to place ranks where the pool has devices on both sides of a WAN; None within one site."""
        if len(self.pricing.cluster.sites) < 2:
            return None
        ways = Arrangements(self.pricing.cluster, self.pool.devices, self.pricing.fabric)
        return ways if ways.several_sites else None

    def placeable(self, split: Split) -> bool:
        """Whether the ranks can be placed so that no tensor or sharding group crosses a WAN."""
        return self._ways is None or bool(self._ways.of(_mesh(split)))

    def arranged(self, split: Split) -> tuple[Arrangement, Placed]:
        """Where the ranks of a split that is placeable are, and whom those of each stage meet.

        Within one site they lie in fleet's order on the pool's devices. Across sites they lie so that a step with
        layers dealt evenly by their seconds takes least.
        """
        mesh = _mesh(split)
        if self._ways is None:
            if mesh not in self._met:
                self._met[mesh] = place(self._devices, **mesh._asdict(), fabric=self.pricing.fabric)
            return Arrangement(FLEET, self._devices[: split.ranks]), self._met[mesh]
        if split not in self._arranged:
            every, even = self._ways.of(mesh), self._even_deal(split)
            seconds = [self.step_seconds(split, even, met) for _, met in every]
            self._arranged[split] = every[int(np.argmin(seconds))]
        return self._arranged[split]

    def _even_deal(self, split: Split) -> tuple[int, ...]:
        """Boundaries that cut the seconds of all layers into equal parts, as far as every stage has a layer."""
        chain, p = self._spans_of(split).chain, split.pipeline
        done_s = np.cumsum(chain.forward_total_s + chain.backward_total_s)
        bounds, layers = [0], len(done_s)
        for stage in range(1, p):
            wanted = int(np.searchsorted(done_s, done_s[-1] * stage / p)) + 1
            bounds.append(min(max(wanted, bounds[-1] + 1), layers - (p - stage)))
        return (*bounds, layers)

    def _spans_of(self, split: Split) -> Spans:
        return self.spans(split.tensor, split.rows, split.recompute)


def _mesh(split: Split) -> Mesh:
    return Mesh(data=split.data, tensor=split.tensor, pipeline=split.pipeline, degree=split.sharding.degree)
