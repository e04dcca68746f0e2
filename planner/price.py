"""What splits cost while they are searched: lower bounds of many at once, and the exact time of given boundaries.

The same formulas as nebula.cost_model.evaluate, over matrices of all runs of layers; a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import Cluster
from nebula.cost_model.compute import product_seconds
from nebula.cost_model.evaluate import Pricing
from nebula.cost_model.groups import Groups, uniform_groups
from nebula.cost_model.simulate import last_backward_s
from nebula.graph.values import DistributedGraph, Kernel
from nebula.plan.values import Job, Sharding
from nebula.planner.pool import Pool
from nebula.planner.space import Split
from nebula.planner.spans import Spans
from nebula.planner.stages import Suffixes, deal, stage_bound

Floats = NDArray[np.float64]
NOWHERE = Groups()
"""Groups of one rank each: communication that costs nothing, for bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageKind:
    """All runs of layers as one kind of stage: stages whose groups lie alike share it.

    Attributes:
        forward_s: [layers + 1, layers + 1] one forward, borders included.
        backward_s: one backward, likewise.
        tail_s: synchronization and update.
        bound_s: lower bound of the step time as the last stage.
        hidden_s: by how much each stage behind lowers that bound.
        in_flight: most micro-batches in flight that fit.
    """

    forward_s: Floats
    backward_s: Floats
    tail_s: Floats
    bound_s: Floats
    hidden_s: Floats
    in_flight: Floats


class SplitPrice:
    """Prices the boundaries of one split.

    Args:
        spans: of the chain that the split runs.
        groups: of each stage.
        slow: for each stage by what factor its slowest node is slower.
        sharding: of every stage.
        micro_batches: of one step.
        limit_bytes: device memory that may be filled.
    """

    def __init__(
        self,
        spans: Spans,
        groups: Sequence[Groups],
        slow: Sequence[float],
        sharding: Sharding,
        micro_batches: int,
        limit_bytes: float,
    ) -> None:
        self.spans, self.micro_batches, self.sharding = spans, micro_batches, sharding
        self._limit_bytes = limit_bytes
        placed = list(zip(groups, slow, strict=True))
        totals = (spans.passes(micro_batches, sharding, g, 1.0) for g in {g for g, _ in placed})
        self.total_s = min(float(f[0, -1] + b[0, -1]) for f, b in totals)
        kinds = {key: self._kind(*key) for key in set(placed)}
        self.stages = [kinds[key] for key in placed]

    def deal(self) -> Suffixes:
        """Boundaries with the least lower bound that fit into memory."""
        last = len(self.stages) - 1
        return deal(lambda behind: self._cost(self.stages[last - behind], behind), self.spans.layers, last + 1)

    def fits(self, boundaries: Sequence[int]) -> bool:
        """Whether every stage fits into memory."""
        last, m = len(self.stages) - 1, self.micro_batches
        ends = pairwise(boundaries)
        return all(self.stages[s].in_flight[first, end] >= min(last - s + 1, m) for s, (first, end) in enumerate(ends))

    def step_seconds(self, boundaries: Sequence[Sequence[int]]) -> Floats:
        """The exact step time of each of several boundaries."""
        bounds = np.array(boundaries)
        first, end = bounds[:, :-1], bounds[:, 1:]

        def of(name: str) -> Floats:
            return np.stack([getattr(kind, name)[first[:, s], end[:, s]] for s, kind in enumerate(self.stages)], axis=1)

        ends_s = last_backward_s(of("forward_s"), of("backward_s"), self.micro_batches)
        step_s: Floats = (ends_s + of("tail_s")).max(axis=1)
        return step_s

    def _cost(self, kind: StageKind, behind: int) -> Floats:
        """The lower bound of the step time for each run of layers as a stage, infinite where it does not fit."""
        hidden = min(behind, self.micro_batches - 1)
        fits = kind.in_flight >= min(behind + 1, self.micro_batches)
        return np.where(fits, kind.bound_s - hidden * kind.hidden_s, np.inf)

    def _kind(self, groups: Groups, slow: float) -> StageKind:
        spans, m = self.spans, self.micro_batches
        forward_s, backward_s = spans.passes(m, self.sharding, groups, slow)
        # what lies before a stage's first forward and behind its last backward is taken without borders
        back_s = backward_s[0][:, None]
        ends = spans.borders(groups)
        forward_s = forward_s + ends.forward_begin_s[:, None] + ends.forward_end_s[None, :]
        backward_s = backward_s + ends.backward_begin_s[:, None] + ends.backward_end_s[None, :]
        tail_s = spans.tail(self.sharding, groups, slow)
        bound_s = stage_bound(forward_s, backward_s, self.total_s, m, 0) + np.maximum(0.0, tail_s - back_s)
        held = spans.fixed_bytes(self.sharding) + ends.begin_bytes[:, None] + ends.end_bytes[None, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.floor((self._limit_bytes - held) / spans.kept_bytes)
        room = np.where(spans.kept_bytes > 0, room, np.where(held <= self._limit_bytes, np.inf, -1.0))
        return StageKind(
            forward_s=forward_s,
            backward_s=backward_s,
            tail_s=tail_s,
            bound_s=bound_s,
            hidden_s=np.minimum(forward_s, backward_s),
            in_flight=np.where(spans.some, room, -1.0),
        )


class Prices:
    """Prices splits of one graph over one pool of devices."""

    def __init__(self, graph: DistributedGraph, cluster: Cluster, job: Job, pool: Pool) -> None:
        self.pricing = Pricing(graph, cluster, job)
        self.job, self.pool = job, pool
        self.limit_bytes = pool.device.memory_bytes * job.memory_fraction
        self._devices = np.array(pool.devices)
        self._spans: dict[tuple[int, int, str], Spans] = {}
        self._placed: dict[tuple[int, int, int, int], tuple[tuple[Groups, ...], list[float]]] = {}

    def spans(self, tensor: int, rows: int, recompute: str) -> Spans:
        """Costs of all runs of layers for that tensor degree, micro-batch and policy.

        Raises:
            BadInput: the tensor degree does not divide what it has to cut.
        """
        key = (tensor, rows, recompute)
        if key not in self._spans:
            levels = self.pricing.fabric.levels(self.pool.devices[:tensor])
            chain = self.pricing.chains.cost(
                rows=rows, tensor=levels, sequence=False, device=self.pool.device, policy=recompute
            )
            self._spans[key] = Spans(chain, self.pool.device, self.job)
        return self._spans[key]

    def product_seconds_per_row(self) -> float:
        """Seconds of the matrix products of one more row on one device, forward and backward: no split needs less."""
        one, two = (self._product_seconds(rows) for rows in (1, 2))
        return two - one

    def _product_seconds(self, rows: int) -> float:
        device = self.pool.device
        blocks = [self.pricing.chains.block(i, rows, 1, False) for i in range(len(self.pricing.graph.blocks))]
        best = replace(device, half_product_flops=0.0)
        return sum(
            product_seconds(work, best)
            for index in self.pricing.graph.layers
            for op in blocks[index].operators
            for work in (*op.forward, *op.backward)
            if isinstance(work, Kernel)
        )

    def split(self, split: Split) -> SplitPrice:
        """The price of a split with its ranks placed."""
        groups, slow = self._place(split)
        return SplitPrice(
            self.spans(split.tensor, split.rows, split.recompute),
            groups,
            slow,
            split.sharding,
            split.micro_batches(self.job),
            self.limit_bytes,
        )

    def without_communication(self, split: Split) -> SplitPrice:
        """The same split as if data and pipeline communication cost nothing: a lower bound for every placement."""
        alike = [NOWHERE] * split.pipeline
        spans = self.spans(split.tensor, split.rows, split.recompute)
        slow = [1.0] * split.pipeline
        return SplitPrice(spans, alike, slow, split.sharding, split.micro_batches(self.job), self.limit_bytes)

    def least_seconds(self, split: Split) -> float:
        """A lower bound of the split's step time that needs no boundaries.

        The work and the tails of all stages together, over the stages; and of m micro-batches dealt to p stages, the
        one whose stage is slowest: with each stage s idle for at least the earlier ones' share of a micro-batch, T
        cannot be below W / (1 - (1 - 1/m)**p) for W seconds of one micro-batch.
        """
        spans, m, p = (
            self.spans(split.tensor, split.rows, split.recompute),
            split.micro_batches(self.job),
            split.pipeline,
        )
        groups, _ = self._place(split)
        total_s = spans.total_s(m)
        tail_s = min(spans.whole_tail(split.sharding, g) for g in set(groups))
        return max((m * total_s + tail_s) / p, m * spans.widest_s, total_s / (1.0 - (1.0 - 1.0 / m) ** p))

    def _place(self, split: Split) -> tuple[tuple[Groups, ...], list[float]]:
        """Groups and slowness of each stage, ranks in the order of nebula.plan.layout on the pool's devices."""
        degree = split.sharding.degree
        key = (split.data, split.tensor, split.pipeline, degree)
        if key not in self._placed:
            grid = self._devices[: split.ranks].reshape(-1, split.pipeline, degree, split.tensor)
            by_stage = grid.transpose(1, 0, 2, 3).reshape(split.pipeline, split.data, split.tensor)
            fabric = self.pricing.fabric
            slow = [fabric.slowest(stage.ravel()) for stage in by_stage]
            self._placed[key] = (uniform_groups(by_stage, degree, fabric), slow)
        return self._placed[key]
