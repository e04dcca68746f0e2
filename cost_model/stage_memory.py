"""What a rank of a stage holds that fleet runs: of one stage by what holds it, of many runs of layers by lines.

Where tensors alone fill a device (emulated ones, plain CPUs) that is memory.py's sum, elsewhere the peak of peak.py, as
of plans of the executor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import DeviceType
from nebula.cost_model.eager import eager_execution
from nebula.cost_model.groups import Groups
from nebula.cost_model.held import held
from nebula.cost_model.memory import fixed, held_shares
from nebula.cost_model.moments import Summing, Totals
from nebula.cost_model.peak import (
    Counted,
    Line,
    Setting,
    fragmentation,
    process_bytes,
    stage_lines,
    stage_peak,
    tensors_alone,
)
from nebula.cost_model.sharding import by_reducer
from nebula.cost_model.tensor_moments import FIRST, Moment, OnWay, Walks, moments, on_way
from nebula.graph.values import DTYPE_BYTES
from nebula.plan.values import PRECISION_DTYPE, Job, Sharding, StageMemory

if TYPE_CHECKING:
    from nebula.cost_model.chain import ChainCost
    from nebula.cost_model.spans import Sums

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SUMMED = (
    "elements",
    "expert_elements",
    "widest_elements",
    "activations",
    "weight_gradients",
    "passing",
    "loss_passing",
    "logits",
)
"""Fields of Totals that differ from run to run."""


class StageMemories:
    """The memory of devices of one type under a job.

    Args:
        device: the type.
        job: precision, optimizer and what may be filled.
        chain: of layers, of which they hold runs.

    Attributes:
        tensors_alone: whether nothing else counts.
        process_bytes: what a process holds beside the allocator wherever it runs.
    """

    def __init__(self, device: DeviceType, job: Job, chain: ChainCost) -> None:
        self.device, self.job, self.tensors_alone = device, job, tensors_alone(device)
        dtype = PRECISION_DTYPE[job.precision]
        counted = Counted.EMULATED if self.tensors_alone else Counted.PROCESS
        self.process_bytes = process_bytes(counted, 0)
        self._width = DTYPE_BYTES[dtype]
        self._walks, self._recomputes = Walks(chain), chain.recomputes
        self._known: dict[Sharding, float] = {}
        self._base = Setting(
            execution=eager_execution(dtype, job.optimizer, (device,)),
            sharding=Sharding(),
            expert_sharding=Sharding(),
            counted=counted,
            limit_bytes=device.memory_bytes * job.memory_fraction,
        )

    def of_stages(
        self, runs: Sums, sharding: Sharding, groups: Groups, flights: Ints, borders_bytes: Floats, micro_batches: int
    ) -> list[StageMemory]:
        """The peak of a rank of each of some stages, by what holds it.

        Args:
            runs: the layers of each.
            sharding: of all of them.
            groups: where their ranks meet.
            flights: micro-batches whose activations lie in memory together.
            borders_bytes: what comes in from neighbours.
            micro_batches: of one step.
        """
        if self.tensors_alone:
            found = self._moments(runs, sharding, groups, borders_bytes, micro_batches, on_way(sharding))
            return self._of_tensors(runs, sharding, flights, found)
        totals, setting = self._totals(runs, flights), self._setting(sharding, groups)
        columns = {name: getattr(totals, name).tolist() for name in SUMMED}
        rows = zip(*columns.values(), strict=True)
        return [stage_peak(Totals(**dict(zip(columns, row, strict=True))), setting).memory for row in rows]

    def _moments(
        self, runs: Sums, sharding: Sharding, groups: Groups, borders_bytes: Floats, micro_batches: int, way: OnWay
    ) -> list[Moment]:
        """Those of runs where tensors alone count; arguments as of of_stages."""
        return moments(
            fixed(runs.parameters_bytes, runs.elements, sharding, self.job).gradients,
            self._walks.of(runs.first, runs.end, way, held_shares(sharding).gradients),
            runs.kept_bytes,
            borders_bytes,
            sharding=sharding,
            groups=groups,
            recomputes=self._recomputes,
            micro_batches=micro_batches,
        )

    def _of_tensors(self, runs: Sums, sharding: Sharding, flights: Ints, found: Sequence[Moment]) -> list[StageMemory]:
        """The fullest of the moments of each run."""
        way, share = on_way(sharding), held_shares(sharding).gradients
        own, memories = fixed(runs.parameters_bytes, runs.elements, sharding, self.job), []
        fullest = np.argmax([line.at(flights) for line in map(_line, found)], axis=0)
        for run, moment in enumerate(found[index] for index in fullest.tolist()):
            others, kept_bytes = min(float(flights[run]), moment.most) - 1.0, float(moment.kept[run])
            gradients_bytes, work_bytes = float(moment.gradients[run]), float(moment.work[run])
            if moment.name == FIRST:
                gradients_bytes = self._walks.gradients(int(runs.first[run]), int(runs.end[run]), way, share)
                work_bytes -= gradients_bytes
            own_bytes = min(kept_bytes, work_bytes)
            memories.append(
                StageMemory(
                    weights_bytes=float(own.weights[run]),
                    gradients_bytes=gradients_bytes,
                    optimizer_bytes=float(own.states[run]),
                    activations_bytes=others * kept_bytes + own_bytes,
                    workspace_bytes=work_bytes - own_bytes,
                    limit_bytes=self._base.limit_bytes,
                )
            )
        return memories

    def lines(
        self,
        runs: Sums,
        sharding: Sharding,
        groups: Groups,
        borders_bytes: Floats,
        micro_batches: int,
        way: OnWay | None = None,
    ) -> tuple[Line, ...]:
        """Lines whose greatest is the peak of each run of layers as a stage.

        Args:
            runs, sharding, groups, borders_bytes, micro_batches: as of of_stages.
            way: of gradients where it is not that of the sharding.
        """
        if not self.tensors_alone:
            return stage_lines(self._totals(runs, 1), self._setting(sharding, groups))
        own = fixed(runs.parameters_bytes, runs.elements, sharding, self.job)
        found = self._moments(runs, sharding, groups, borders_bytes, micro_batches, way or on_way(sharding))
        lines = map(_line, found)
        return tuple(line._replace(held=own.weights + own.states + line.held) for line in lines)

    def most_flying(self, micro_batches: int) -> int:
        """Of how many micro-batches activations lie beside all gradients of a step of so many, at most."""
        return micro_batches - 1 if self.tensors_alone else micro_batches

    def lasting(self, runs: Sums, sharding: Sharding) -> Line:
        """What all layers of a run add to what its device holds, process apart: of two runs the sum is that of both."""
        if self.tensors_alone:
            own = fixed(runs.parameters_bytes, runs.elements, sharding, self.job)
            return Line(own.weights + own.gradients + own.states, runs.kept_bytes)
        share = 1.0 + fragmentation(self._base.counted)
        return Line(self._element_bytes(sharding) * runs.elements, share * runs.kept_bytes)

    def _element_bytes(self, sharding: Sharding) -> float:
        """What one element adds to that."""
        if sharding not in self._known:
            own = held(1.0, self._base.execution, sharding)
            share = 1.0 + fragmentation(self._base.counted)
            self._known[sharding] = own.states + share * (own.weights + own.gradients)
        return self._known[sharding]

    def _totals(self, runs: Sums, flights: Ints | int) -> Totals[Floats]:
        return Totals(
            elements=runs.elements,
            expert_elements=0.0 * runs.elements,
            widest_elements=runs.widest_bytes / self._width,
            activations=flights * runs.kept_bytes,
            weight_gradients=runs.gradient_bytes,
            passing=runs.working_bytes,
            loss_passing=runs.loss_bytes,
            logits=flights * runs.logits_bytes,
        )

    def _setting(self, sharding: Sharding, groups: Groups) -> Setting:
        """What holds for ranks that meet so; of experts fleet cuts the states as of all other parameters."""
        meetings = (groups.tensor_ranks > 1, groups.shard or groups.outer, groups.before or groups.behind)
        return replace(
            self._base,
            sharding=sharding,
            expert_sharding=sharding,
            replicas=sharding.degree * (2 if groups.outer else 1),
            communicators=sum(map(bool, meetings)),
            summing=Summing.BUCKETS if by_reducer(groups, recomputes=self._recomputes) else Summing.FUSED,
        )


def _line(moment: Moment) -> Line:
    """What a moment holds over the micro-batches in flight, weights and states apart."""
    return Line(moment.gradients + moment.work - moment.kept, moment.kept, moment.most)
