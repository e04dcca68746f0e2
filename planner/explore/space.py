"""The space of an exploration: which degrees, rows, policies, schedules and shardings its ways may have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.offload import holds_activations
from nebula.graph.values import DistributedGraph
from nebula.plan.job import EXCHANGES, OFFLOAD, RECOMPUTE
from nebula.plan.values import Job, Sharding
from nebula.planner.explore.extent import EVERYTHING, Extent
from nebula.planner.explore.ways import ALL, FEWEST, FOLDED, LEAST_TOKENS, MOST_CHUNKS, MOST_ROWS, PLAIN, Inner
from nebula.planner.space import divisors


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
        extent: what of all that is looked at.
    """

    job: Job
    devices: tuple[int, ...]
    per_node: int
    layers: int
    experts: int
    tokens: int
    fixed: Mapping[str, object]
    allowed: tuple[str, ...] = ()
    extent: Extent = EVERYTHING

    def inners(self) -> Iterator[Inner]:
        """Degrees of what one rank computes, with the most rows, and as no way with these degrees is faster.

        With activations on the host computing again may be quicker, and a policy may hold for no layer at all.
        """
        least = RECOMPUTE[0] if "recompute_layers" in self.allowed else self.policies[0]
        exchange = str(self.fixed.get("exchange", EXCHANGES[0]))
        for tensor, context in product(divisors(self.per_node), self._contexts()):
            for expert in self._experts():
                if self.allows(tensor=tensor, context=context, expert=expert):
                    yield from self._by_sequence(
                        Inner(tensor, context, expert, self.rows[-1], least, exchange=exchange)
                    )

    def _by_sequence(self, inner: Inner) -> Iterator[Inner]:
        """The degrees with tensor groups that cut the sequence, or else without."""
        cuts = inner.tensor > 1 and self.extent.sequence
        asked = int(str(self.fixed.get("sequence", int(cuts))))
        if asked and not cuts:
            return
        first = inner._replace(sequence=bool(asked) or inner.tensor == 1)
        if self._deals(first):
            yield first

    def settled(self, inner: Inner) -> Inner:
        """The inner half with its sequence cut or whole where nothing but that is possible, or asked for."""
        if inner.tensor == 1:
            return inner._replace(sequence=True)
        asked = self.fixed.get("sequence", 1 if self.extent.sequence else 0)
        return inner._replace(sequence=False) if asked == 0 else inner

    def _deals(self, inner: Inner) -> bool:
        """Whether experts may be dealt so: ranks of a tensor group with whole sequences hold the same tokens."""
        return inner.cuts_sequence or inner.tensor == 1 or inner.expert == 1 or self.extent.same_tokens

    def with_whole_sequences(self, inner: Inner) -> Inner | None:
        """The degrees where the sequence turns out not to be cut by them; None where they were asked to cut it."""
        other = inner._replace(sequence=False)
        open_ = inner.cuts_sequence and self.allows(sequence=0) and self._deals(other)
        return other if open_ else None

    def holds(self, inner: Inner) -> bool:
        """Whether an inner half is one of the space."""
        degrees = inner.tensor in divisors(self.per_node) and inner.context in self._contexts()
        asked = {"tensor": inner.tensor, "context": inner.context, "expert": inner.expert}
        known = inner.expert in self._experts() and inner.rows in self.rows
        known &= (inner.recompute, inner.offload, inner.layers) in self.variants
        known &= inner == self.settled(inner) and self.allows(sequence=int(inner.cuts_sequence)) and self._deals(inner)
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
            known = (s for s in every if s.stage in self.extent.shardings)
            allowed = (s for s in known if self.allows(sharding=s.stage, sharding_degree=s.degree))
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
        mixed = sum(count > 0 for count in stages) > 1 and self.extent.together
        return mixed and sum(stages) <= self.layers and self.allows(pipeline=sum(stages))

    def schedules(self, stages: int, micro_batches: int) -> Iterator[tuple[str, int]]:
        """Schedules of a pipeline, each with the virtual stages on a device."""
        for schedule, chunks, least in self.every_schedule(stages):
            if micro_batches >= least:
                yield schedule, chunks

    def every_schedule(self, stages: int) -> Iterator[tuple[str, int, int]]:
        """The same with the micro-batches that each asks for."""
        if stages == 1:
            if self.allows(schedule="1f1b", virtual_stages=1):
                yield "1f1b", 1, 1
            return
        chunked = [("interleaved", v) for v in range(2, MOST_CHUNKS + 1) if stages * v <= self.layers]
        folded = FOLDED if 2 * stages <= self.layers else ()
        for schedule, chunks in (*PLAIN, *chunked, *folded):
            known = not self.extent.schedules or schedule in self.extent.schedules
            if known and self.allows(schedule=schedule, virtual_stages=chunks):
                yield schedule, chunks, stages * (2 if (schedule, chunks) in FOLDED else 1)

    def _contexts(self) -> list[int]:
        if "context" in self.fixed:
            return [int(str(self.fixed["context"]))]
        if not self.extent.context:
            return [1]
        return [2**i for i in range(8) if self.tokens // 2**i >= LEAST_TOKENS or i == 0]

    def _experts(self) -> list[int]:
        return divisors(self.experts) if self.extent.expert else [1]

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
        known = [offload for offload in some if not self.extent.offloads or offload in self.extent.offloads]
        return [offload for offload in known if self.allows(offload=offload)]

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
