"""What splits cost while they are searched: lower bounds of many at once, and the exact time of given boundaries.

The same formulas as nebula.cost_model.evaluate, over arrays of runs of layers; a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.topology import Level, nic_share
from nebula.cluster.values import Cluster, Link
from nebula.cost_model.closed_form import step_seconds
from nebula.cost_model.communication import Levels
from nebula.cost_model.compute import product_seconds
from nebula.cost_model.evaluate import Pricing
from nebula.cost_model.groups import Groups
from nebula.cost_model.memory import fixed_bytes
from nebula.cost_model.placed import Placed, place
from nebula.cost_model.spans import Costs, Spans, Sums
from nebula.graph.values import DistributedGraph, Kernel
from nebula.plan.values import Job, Sharding
from nebula.planner.pool import Pool
from nebula.planner.space import Split
from nebula.planner.stages import Cost, Deals, Runs, deal, every_run, geometric_bound, stage_bound

Floats = NDArray[np.float64]
NOWHERE = Groups()
"""Groups of one rank each: communication that costs nothing, for bounds."""


class Useful(NamedTuple):
    """The runs of layers that may be a stage, what they add up to, and what lies before and behind each."""

    runs: Runs
    sums: Sums
    front: Sums
    back: Sums


class SplitPrice:
    """Prices the boundaries of one split.

    Args:
        spans: of the chain that the split runs.
        placed: its stages.
        sharding: of every stage.
        micro_batches: of one step.
        limit_bytes: device memory that may be filled.
    """

    def __init__(
        self, spans: Spans, placed: Placed, sharding: Sharding, micro_batches: int, limit_bytes: float
    ) -> None:
        self.spans, self.placed, self.sharding = spans, placed, sharding
        self.micro_batches, self.limit_bytes = micro_batches, limit_bytes

    def deals(self, useful: Useful, to_beat_s: float) -> Deals:
        """The best deals of layers to up to as many stages as are placed, by their lower bound.

        Args:
            useful: what may be a stage.
            to_beat_s: a deal whose step takes longer is of no use, and its bound may be too high.
        """
        f_front_s, b_front_s = self._least_passes(useful.front)
        f_back_s, b_back_s = self._least_passes(useful.back)
        before_s, behind_s = f_front_s + b_front_s, f_back_s + b_back_s
        kinds = [self._kind(useful.sums, b_front_s, *kind) for kind in self.placed.kinds]
        m, last = self.micro_batches, len(self.placed.stages) - 1

        def cost(behind: int, waits_s: Floats) -> Cost:
            """The cost of each run with so many stages behind, whose borders take `waits_s` at least."""
            kind = kinds[self.placed.stages[last - behind]]
            bound_s = stage_bound(kind.forward_s, kind.backward_s, before_s, behind_s + waits_s, m, behind)
            fits = kind.room >= min(behind + 1, m)
            return Cost(np.where(fits, bound_s + kind.tailed_s, np.inf), kind.borders_s)

        return deal(useful.runs, cost, last + 1, to_beat_s)

    def _kind(self, sums: Sums, front_s: Floats, groups: Groups, slow: float) -> _Kind:
        costs = self._cost(sums, groups, slow)
        (received_s, returned_s), (sent_s, got_s) = self.spans.entry(groups), self.spans.exit(groups)
        return _Kind(
            forward_s=costs.forward_s,
            backward_s=costs.backward_s,
            room=costs.room,
            tailed_s=np.maximum(0.0, costs.tail_s - front_s),
            borders_s=(received_s + returned_s)[sums.first] + (sent_s + got_s)[sums.end],
        )

    def _least_passes(self, sums: Sums) -> tuple[Floats, Floats]:
        """One forward and one backward of runs on the best placed stage, borders apart."""
        places = {groups.shard: groups for groups, _ in self.placed.kinds}.values()
        each = [self.spans.passes(sums, self.micro_batches, self.sharding, groups, 1.0) for groups in places]
        return min(each, key=lambda pair: float(pair[0].sum() + pair[1].sum()))

    def fits(self, boundaries: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
        """Which of several boundaries fit into memory."""
        stages = len(self.placed.stages)
        needed = np.minimum(np.arange(stages, 0, -1), self.micro_batches)
        fits: NDArray[np.bool_] = (self._costs(boundaries).room >= needed).all(axis=1)
        return fits

    def step_seconds(self, boundaries: Sequence[Sequence[int]]) -> Floats:
        """The exact step time of each of several boundaries."""
        costs = self._costs(boundaries)
        return step_seconds(costs.forward_s, costs.backward_s, costs.tail_s, self.micro_batches)

    def _costs(self, boundaries: Sequence[Sequence[int]]) -> Costs:
        """Costs of several boundaries, each array [boundaries, stages]."""
        bounds = np.array(boundaries)
        sums = self.spans.of(bounds[:, :-1], bounds[:, 1:])
        by_kind = [self._cost(sums, *kind) for kind in self.placed.kinds]
        which, column = np.array(self.placed.stages), np.arange(len(self.placed.stages))
        return Costs(*(np.stack(field)[which, :, column].T for field in zip(*by_kind, strict=True)))

    def _cost(self, sums: Sums, groups: Groups, slow: float) -> Costs:
        """Costs of runs as stages of one kind."""
        return self.spans.costs(sums, self.micro_batches, self.sharding, groups, slow, self.limit_bytes)


class RelaxedPrice(SplitPrice):
    """A lower bound for every placement and sharding of a split: nothing but the model's own work takes time.

    Memory is that of the leanest sharding.
    """

    def __init__(self, spans: Spans, stages: int, leanest: Sharding, micro_batches: int, limit_bytes: float) -> None:
        placed = Placed(kinds=((NOWHERE, 1.0),), stages=(0,) * stages)
        super().__init__(spans, placed, Sharding(), micro_batches, limit_bytes)
        self._leanest = leanest

    def _cost(self, sums: Sums, groups: Groups, slow: float) -> Costs:
        own = super()._cost(sums, groups, slow)
        lean = self.spans.costs(sums, self.micro_batches, self._leanest, groups, slow, self.limit_bytes)
        return own._replace(tail_s=np.zeros_like(own.tail_s), room=lean.room)


class _Kind(NamedTuple):
    """Every run as one kind of stage.

    Attributes:
        tailed_s: what the tail adds to the step where nothing hides it: while a stage synchronizes, those before it
            still run one backward each.
        borders_s: what the borders of each run take of a micro-batch's way forth and back.
    """

    forward_s: Floats
    backward_s: Floats
    room: Floats
    tailed_s: Floats
    borders_s: Floats


class Prices:
    """Prices splits of one graph over one pool of devices."""

    def __init__(self, graph: DistributedGraph, cluster: Cluster, job: Job, pool: Pool) -> None:
        self.pricing = Pricing(graph, cluster, job)
        self.job, self.pool = job, pool
        self.limit_bytes = pool.device.memory_bytes * job.memory_fraction
        self._devices = np.array(pool.devices)
        self._every = every_run(len(graph.layers))
        self._levels: dict[int, Levels] = {}
        self._placed: dict[tuple[int, int, int, int], Placed] = {}
        self._useful: dict[tuple[int, int, str, int], tuple[float, Useful]] = {}

    def spans(self, tensor: int, rows: int, recompute: str) -> Spans:
        """Costs of all runs of layers for that tensor degree, micro-batch and policy.

        Raises:
            BadInput: the tensor degree does not divide what it has to cut.
        """
        if tensor not in self._levels:
            self._levels[tensor] = self.pricing.fabric.levels(self.pool.devices[:tensor])
        return self.pricing.spans(
            rows=rows,
            tensor=tensor,
            levels=self._levels[tensor],
            sequence=False,
            device=self.pool.device,
            policy=recompute,
        )

    def split(self, split: Split) -> SplitPrice:
        """The price of a split with its ranks placed."""
        m = split.micro_batches(self.job)
        return SplitPrice(self._spans_of(split), self._place(split), split.sharding, m, self.limit_bytes)

    def without_communication(self, split: Split) -> SplitPrice:
        """The same split as if data and pipeline communication and sharding took no time."""
        m = split.micro_batches(self.job)
        return RelaxedPrice(self._spans_of(split), split.pipeline, split.sharding, m, self.limit_bytes)

    def deals(self, split: Split, price: SplitPrice, to_beat_s: float) -> Deals:
        """The best deals of layers to up to split.pipeline stages, by their lower bound."""
        return price.deals(self._runs(split, to_beat_s), to_beat_s)

    def _runs(self, split: Split, to_beat_s: float) -> Useful:
        """The runs of layers that can be a stage of a step shorter than to_beat_s, whatever the placement."""
        m = split.micro_batches(self.job)
        key = (split.tensor, split.rows, split.recompute, m)
        known_s, useful = self._useful.get(key, (np.inf, None))
        if useful is None or known_s > 1.05 * to_beat_s:
            spans = self.spans(*key[:3])
            everything = spans.of(self._every.first, self._every.end)
            forward_s, backward_s = spans.passes(everything, m, Sharding(), NOWHERE, 1.0)
            others_s = spans.work_s(m, Sharding(), NOWHERE) - forward_s - backward_s
            least_s = stage_bound(forward_s, backward_s, np.zeros(1), others_s, m, spans.layers)
            runs = self._every.where(least_s < to_beat_s)
            useful = Useful(
                runs=runs,
                sums=spans.of(runs.first, runs.end),
                front=spans.of(np.zeros_like(runs.first), runs.first),
                back=spans.of(runs.end, np.full_like(runs.end, spans.layers)),
            )
            self._useful[key] = (to_beat_s, useful)
        return useful

    def product_seconds_per_row(self) -> float:
        """Seconds of the matrix products of one more row on one device, forward and backward: no split needs less."""
        one, two = (self._product_seconds(rows) for rows in (1, 2))
        return two - one

    def _product_seconds(self, rows: int) -> float:
        best = replace(self.pool.device, half_product_flops=0.0)
        blocks = [self.pricing.chains.block(i, rows, 1, False) for i in range(len(self.pricing.graph.blocks))]
        return sum(
            product_seconds(work, best)
            for index in self.pricing.graph.layers
            for op in blocks[index].operators
            for work in (*op.forward, *op.backward)
            if isinstance(work, Kernel)
        )

    def least_seconds(self, split: Split) -> float:
        """A lower bound of the split's step time that needs neither boundaries nor places.

        The work and the tails of all stages together, over the stages; m times the slowest layer; geometric_bound.
        Groups meet as well as any could.
        """
        spans, m, p = self._spans_of(split), split.micro_batches(self.job), split.pipeline
        groups = self._ideal(split)
        work_s = spans.work_s(m, split.sharding, groups)
        tail_s = float(spans.tail(spans.whole, split.sharding, groups, 1.0)[0])
        return max((m * work_s + tail_s) / p, m * spans.widest_s, geometric_bound(work_s, m, p))

    def least_bytes(self, split: Split) -> float:
        """What the fullest device of a split holds at least, however its layers are dealt.

        The mean over the stages of what does not depend on the deal, one micro-batch in flight; or the fullest layer.
        """
        spans = self._spans_of(split)
        alone = spans.held_bytes(spans.single, split.sharding, NOWHERE) + spans.single.kept_bytes
        shared = fixed_bytes(
            spans.whole.parameters_bytes, spans.whole.elements, 0.0 * spans.whole.elements, split.sharding, self.job
        )
        return max(float(alone.max()), float((shared + spans.whole.kept_bytes)[0]) / split.pipeline)

    def _ideal(self, split: Split) -> Groups:
        """Groups of a split that meet as well as any could: as many ranks to a node as it holds, no delay."""
        degree = split.sharding.degree
        return Groups(shard=self._packed(degree, split.tensor), outer=self._packed(split.data // degree, split.tensor))

    def _packed(self, ranks: int, tensor: int) -> Levels:
        """The levels of a group of ranks of different tensor groups, packed into as few nodes as possible."""
        groups = self.pricing.cluster.groups
        inside = max(1, min(ranks, max(g.devices_per_node for g in groups) // tensor))
        bus = Link(kind="widest", bytes_per_s=max(g.intra.bytes_per_s for g in groups), latency_s=0.0)
        wire = Link(kind="widest", bytes_per_s=max(nic_share(g) for g in groups), latency_s=0.0)
        fastest = max(bus, wire, key=lambda link: link.bytes_per_s)
        levels = ((inside, fastest), (ranks // inside, wire))
        return Levels(Level(name=link.kind, members=members, link=link) for members, link in levels if members > 1)

    def _place(self, split: Split) -> Placed:
        """Groups and slowness of each stage, ranks in the order of nebula.plan.layout on the pool's devices."""
        key = (split.data, split.tensor, split.pipeline, split.sharding.degree)
        if key not in self._placed:
            data, tensor, pipeline, degree = key
            self._placed[key] = place(
                self._devices,
                data=data,
                tensor=tensor,
                pipeline=pipeline,
                degree=degree,
                fabric=self.pricing.fabric,
            )
        return self._placed[key]

    def _spans_of(self, split: Split) -> Spans:
        return self.spans(split.tensor, split.rows, split.recompute)
