"""Which ways there are to train a model beyond what fleet runs: what one rank computes, and how ranks work together.

A way has two halves. The inner one decides what one rank computes of a layer and costs a cut of the graph; the outer
one decides how many such ranks there are and in which order they work, and costs arithmetic. What is left out by rule
is said in RULES.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.offload import holds_activations
from nebula.graph.values import DistributedGraph
from nebula.plan.job import OFFLOAD, RECOMPUTE
from nebula.plan.values import Job, Sharding
from nebula.planner.space import divisors

LEAST_TOKENS, MOST_ROWS, MOST_CHUNKS = 512, 8, 8

RULES = {
    "sequence": "tensor groups cut norms and residuals along the sequence, which saves memory and gathers once more",
    "context": f"a rank of a context group keeps at least {LEAST_TOKENS} tokens of the sequence",
    "rows": f"micro-batches have up to {MOST_ROWS} rows",
    "deal": "layers are dealt to stages so that the slowest stage is as fast as it can be; of such deals the last "
    "stage holds most, and those before it are dealt likewise",
    "wan": "only pipeline and data cross a WAN: tensor, context, expert and sharding groups lie within one site",
    "order": "ranks lie tensor, context, data, pipeline from the inside out, stages on devices of one type",
}
"""What the explored space leaves out, by rule: the bound of an answer is valid for the rest."""

ALLOWED_RULES = {
    "offload": "all stages offload the same",
    "recompute_layers": "of the layers of a stage the first ones are computed again, as few as fit, as many on each "
    "virtual stage of a device; they are dealt as if all were; with activations on the host all of them or none",
}
"""The same of what is explored on request, by a name of ALLOWABLE."""

PLAIN = (("1f1b", 1), ("zb-h1", 1))
"""Schedules of one virtual stage on a device."""

FOLDED = (("zb-v", 2), ("dualpipe-v", 2))
"""Schedules of two, the second of which runs back."""


ALL, FEWEST = "all", "fewest"
"""Which layers of a stage are under the recompute policy: all of them, or the first ones, as few as fit into memory."""


class Inner(NamedTuple):
    """What one rank computes of a layer, and of which layers of a stage it computes some again (ALL or FEWEST)."""

    tensor: int
    context: int
    expert: int
    rows: int
    recompute: str
    offload: str = OFFLOAD[0]
    layers: str = ALL

    @property
    def passes(self) -> Inner:
        """The same as far as passes depend on it: where the states of the optimizer lie does not matter to them."""
        if self.offload == OFFLOAD[0]:
            return self
        return self._replace(offload="activations" if holds_activations(self.offload) else OFFLOAD[0])

    @property
    def width(self) -> int:
        """Ranks of one replica of one stage."""
        return self.tensor * self.context

    @property
    def degrees(self) -> tuple[int, int, int, int, int, int, int]:
        """As StepPricing takes them: rows, tensor, sequence, context, expert, expert_tensor, exchange (by a ring)."""
        return (self.rows, self.tensor, int(self.tensor > 1), self.context, self.expert, 1, 0)


class Outer(NamedTuple):
    """How ranks work together.

    Attributes:
        stages: for each pool of equal devices how many stages lie on it, in the order of the pools.
        chunks: virtual stages on each device.
    """

    data: int
    stages: tuple[int, ...]
    schedule: str
    chunks: int
    sharding: Sharding

    @property
    def pipeline(self) -> int:
        """Stages, virtual ones of a device counted once."""
        return sum(self.stages)


class Way(NamedTuple):
    """A way to train."""

    inner: Inner
    outer: Outer

    @property
    def ranks(self) -> int:
        """Ranks in all."""
        return self.inner.width * self.outer.data * self.outer.pipeline

    def micro_batches(self, job: Job) -> int:
        """Micro-batches of one replica in one step."""
        return job.global_batch // (self.outer.data * self.inner.rows)

    @property
    def words(self) -> str:
        """For people, degrees of 1 left out: `data 2 · tensor 4 · pipeline 3 · 1f1b · 2 rows · recompute full`."""
        inner, outer = self
        degrees = {
            "data": outer.data,
            "tensor": inner.tensor,
            "context": inner.context,
            "expert": inner.expert,
            "pipeline": outer.pipeline,
        }
        parts = [f"{name} {degree}" for name, degree in degrees.items() if degree > 1] or ["1 device"]
        if outer.pipeline > 1:
            parts.append(outer.schedule)
        if outer.sharding.stage:
            parts.append(f"sharding stage {outer.sharding.stage} over {outer.sharding.degree}")
        parts.append(f"{inner.rows} row{'s' if inner.rows > 1 else ''}")
        if inner.recompute != "none":
            parts.append(f"recompute {inner.recompute}" + " where it must" * (inner.layers == FEWEST))
        if inner.offload != OFFLOAD[0]:
            parts.append(f"offload {inner.offload}")
        return " · ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Stages on several pools.

    Attributes:
        stages: on each pool.
        allowed: whether they lie on several pools, and may.
        schedules: of so many stages, each with the virtual stages on a device and the micro-batches that it asks for.
    """

    stages: tuple[int, ...]
    allowed: bool
    schedules: tuple[tuple[str, int, int], ...]

    @cached_property
    def pools(self) -> NDArray[np.int64]:
        """[stages] the pool of each."""
        return np.repeat(np.arange(len(self.stages)), self.stages)


@dataclass(frozen=True, kw_only=True)
class Space:
    """What bounds the ways.

    Attributes:
        devices: of each pool of equal devices.
        per_node: devices of the smallest node.
        layers: of the model.
        experts: of a layer; 1: it has none.
        tokens: of a row's longest sequence.
        fixed: degrees that the user asked for, by a name of FIXABLE.
        allowed: of ALLOWABLE, what may be used beside what always is.
    """

    job: Job
    devices: tuple[int, ...]
    per_node: int
    layers: int
    experts: int
    tokens: int
    fixed: Mapping[str, object]
    allowed: tuple[str, ...] = ()

    def inners(self) -> Iterator[Inner]:
        """Degrees of what one rank computes, with the most rows, and as no way with these degrees is faster.

        With activations on the host computing again may be quicker, and a policy may hold for no layer at all.
        """
        least = RECOMPUTE[0] if "recompute_layers" in self.allowed else self.policies[0]
        for tensor, context in product(divisors(self.per_node), self._contexts()):
            for expert in self._experts():
                if self.allows(tensor=tensor, context=context, expert=expert):
                    yield Inner(tensor, context, expert, self.rows[-1], least)

    def holds(self, inner: Inner) -> bool:
        """Whether an inner half is one of the space."""
        degrees = inner.tensor in divisors(self.per_node) and inner.context in self._contexts()
        asked = {"tensor": inner.tensor, "context": inner.context, "expert": inner.expert}
        known = inner.expert in self._experts() and inner.rows in self.rows
        known &= (inner.recompute, inner.offload, inner.layers) in self.variants
        return degrees and known and self.allows(**asked)

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of a micro-batch, ascending."""
        asked = self.fixed.get("micro_batch_rows")
        allowed = [r for r in divisors(self.job.global_batch) if r <= MOST_ROWS]
        return (int(str(asked)),) if asked else tuple(allowed)

    def replicas(self, inner: Inner) -> Iterator[tuple[int, Sharding]]:
        """Numbers of replicas of a stage, and how they share its states."""
        for data in self.data_degrees(inner):
            for sharding in self.shardings(data):
                yield data, sharding

    def data_degrees(self, inner: Inner) -> tuple[int, ...]:
        """Numbers of replicas of a stage."""
        key = (inner.rows, inner.width, inner.expert)
        if key not in self._data_degrees:
            every = [d for d in divisors(self.job.global_batch // inner.rows) if self.allows(data=d)]
            self._data_degrees[key] = tuple(
                d for d in every if inner.width * d % inner.expert == 0 and inner.width * d <= max(self.devices)
            )
        return self._data_degrees[key]

    @cached_property
    def _data_degrees(self) -> dict[tuple[int, int, int], tuple[int, ...]]:
        return {}

    def shardings(self, data: int) -> tuple[Sharding, ...]:
        """How so many replicas may share states."""
        if data not in self._shardings:
            every = [Sharding()]
            if data > 1:
                every += [Sharding(stage=stage, degree=data) for stage in (1, 2, 3)]
            allowed = (s for s in every if self.allows(sharding=s.stage, sharding_degree=s.degree))
            self._shardings[data] = tuple(allowed)
        return self._shardings[data]

    @cached_property
    def _shardings(self) -> dict[int, tuple[Sharding, ...]]:
        return {}

    def stage_counts(self, group: int) -> Iterator[tuple[int, ...]]:
        """How many stages of so many ranks lie on each pool: on one alone, or on all as many as fit."""
        most = self.most_stages(group)
        for index, count in enumerate(most):
            for stages in range(1, count + 1):
                if self.allows(pipeline=stages):
                    yield tuple(stages if i == index else 0 for i in range(len(most)))
        if self.mixes(most):
            yield most

    def on_all(self, group: int) -> Pipeline:
        """The pipeline of stages of so many ranks that fills all pools."""
        if group not in self._on_all:
            stages = self.most_stages(group)
            allowed = self.mixes(stages)
            every = tuple(self.every_schedule(sum(stages))) if allowed else ()
            self._on_all[group] = Pipeline(stages=stages, allowed=allowed, schedules=every)
        return self._on_all[group]

    @cached_property
    def _on_all(self) -> dict[int, Pipeline]:
        return {}

    def most_stages(self, group: int) -> tuple[int, ...]:
        """As many stages of so many ranks as each pool has room for."""
        return tuple(min(n // group, self.layers) for n in self.devices)

    def mixes(self, stages: tuple[int, ...]) -> bool:
        """Whether stages lie on several pools, and may."""
        mixed = sum(count > 0 for count in stages) > 1
        return mixed and sum(stages) <= self.layers and self.allows(pipeline=sum(stages))

    def schedules(self, stages: int, micro_batches: int) -> Iterator[tuple[str, int]]:
        """Schedules of a pipeline, each with the virtual stages on a device."""
        for schedule, chunks, least in self.every_schedule(stages):
            if micro_batches >= least:
                yield schedule, chunks

    def every_schedule(self, stages: int) -> Iterator[tuple[str, int, int]]:
        """The same with the micro-batches that each asks for."""
        if stages == 1:
            if self.allows(schedule="1f1b"):
                yield "1f1b", 1, 1
            return
        chunked = [("interleaved", v) for v in range(2, MOST_CHUNKS + 1) if stages * v <= self.layers]
        folded = FOLDED if 2 * stages <= self.layers else ()
        for schedule, chunks in (*PLAIN, *chunked, *folded):
            if self.allows(schedule=schedule):
                yield schedule, chunks, stages * (2 if (schedule, chunks) in FOLDED else 1)

    def _contexts(self) -> list[int]:
        return [2**i for i in range(8) if self.tokens // 2**i >= LEAST_TOKENS or i == 0]

    def _experts(self) -> list[int]:
        return divisors(self.experts)

    def under_policies(self, inner: Inner) -> list[Inner]:
        """The same degrees under each policy of recomputing and of offloading."""
        return [
            inner._replace(recompute=policy, offload=offload, layers=layers)
            for policy, offload, layers in self.variants
        ]

    @property
    def policies(self) -> list[str]:
        """Recompute policies, the one that computes least first."""
        return [policy for policy in RECOMPUTE if self.allows(recompute=policy)]

    @cached_property
    def variants(self) -> list[tuple[str, str, str]]:
        """Recompute policies, what is offloaded under each, and which layers are under the policy."""
        found = [(policy, offload, ALL) for policy in self.policies for offload in self.offloads]
        if "recompute_layers" in self.allowed:
            # a layer on the host may be quicker to compute again than to copy, so that fewest need not be best
            known = [(p, o) for p, o, _ in found if p != RECOMPUTE[0] and not holds_activations(o)]
            found += [(policy, offload, FEWEST) for policy, offload in known]
        return found

    @property
    def offloads(self) -> list[str]:
        """What may lie in the host's memory, what takes least time first."""
        some = OFFLOAD if "offload" in self.allowed or "offload" in self.fixed else OFFLOAD[:1]
        return [offload for offload in some if self.allows(offload=offload)]

    def allows(self, **values: object) -> bool:
        """Whether degrees are those that the user fixed."""
        return all(self.fixed.get(name, value) == value for name, value in values.items())


def experts_of(graph: DistributedGraph) -> int:
    """Experts of a layer of the model; 1 where it has none."""
    return max(
        (
            block.tensor(op.inputs[1]).shape[0]
            for block in graph.blocks
            for op in block.operators
            if op.kind == "grouped_matmul"
        ),
        default=1,
    )
