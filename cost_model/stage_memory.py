"""What a rank of a stage holds that fleet runs: of one stage by what holds it, of many runs of layers by lines.

Where tensors alone fill a device (emulated ones, plain CPUs) that is memory.py's sum, elsewhere the peak of peak.py, as
of plans of the executor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import DeviceType
from nebula.cost_model.eager import eager_execution
from nebula.cost_model.groups import Groups
from nebula.cost_model.held import held
from nebula.cost_model.memory import fixed_bytes, stage_memory
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
from nebula.cost_model.sharding import bucket_bytes, data_alone
from nebula.graph.values import DTYPE_BYTES
from nebula.plan.values import PRECISION_DTYPE, Job, Sharding, StageMemory

if TYPE_CHECKING:
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

    Attributes:
        tensors_alone: whether nothing else counts.
        process_bytes: what a process holds beside the allocator wherever it runs.
    """

    def __init__(self, device: DeviceType, job: Job) -> None:
        self.device, self.job, self.tensors_alone = device, job, tensors_alone(device)
        dtype = PRECISION_DTYPE[job.precision]
        counted = Counted.EMULATED if self.tensors_alone else Counted.PROCESS
        self.process_bytes = process_bytes(counted, 0)
        self._width = DTYPE_BYTES[dtype]
        self._known: dict[Sharding, float] = {}
        self._base = Setting(
            execution=eager_execution(dtype, job.optimizer, (device,)),
            sharding=Sharding(),
            expert_sharding=Sharding(),
            counted=counted,
            limit_bytes=device.memory_bytes * job.memory_fraction,
        )

    def of_stages(
        self, runs: Sums, sharding: Sharding, groups: Groups, flights: Ints, borders_bytes: Floats
    ) -> list[StageMemory]:
        """The peak of a rank of each of some stages, by what holds it.

        Args:
            runs: the layers of each.
            sharding: of all of them.
            groups: where their ranks meet.
            flights: micro-batches whose activations lie in memory together.
            borders_bytes: what comes in from neighbours.
        """
        if self.tensors_alone:
            return self._of_tensors(
                runs, sharding, flights, borders_bytes + bucket_bytes(runs.parameters_bytes, groups)
            )
        totals, setting = self._totals(runs, flights), self._setting(sharding, groups)
        columns = {name: getattr(totals, name).tolist() for name in SUMMED}
        rows = zip(*columns.values(), strict=True)
        return [stage_peak(Totals(**dict(zip(columns, row, strict=True))), setting).memory for row in rows]

    def _of_tensors(self, runs: Sums, sharding: Sharding, flights: Ints, borders_bytes: Floats) -> list[StageMemory]:
        columns = {
            "parameters_bytes": runs.parameters_bytes,
            "elements": runs.elements,
            "widest_bytes": runs.widest_bytes,
            "kept_bytes": runs.kept_bytes,
            "working_bytes": runs.working_bytes,
            "border_bytes": borders_bytes,
            "in_flight": flights,
        }
        limit_bytes = self._base.limit_bytes
        return [
            stage_memory(
                **dict(zip(columns, row, strict=True)), sharding=sharding, job=self.job, limit_bytes=limit_bytes
            )
            for row in zip(*(column.tolist() for column in columns.values()), strict=True)
        ]

    def lines(self, runs: Sums, sharding: Sharding, groups: Groups, borders_bytes: Floats) -> tuple[Line, ...]:
        """Lines whose greatest is the peak of each run of layers as a stage; arguments as of of_stages."""
        if not self.tensors_alone:
            return stage_lines(self._totals(runs, 1), self._setting(sharding, groups))
        fixed = fixed_bytes(runs.parameters_bytes, runs.elements, runs.widest_bytes, sharding, self.job)
        buffers = borders_bytes + bucket_bytes(runs.parameters_bytes, groups)
        return (Line(fixed + runs.working_bytes + buffers, runs.kept_bytes),)

    def lasting(self, runs: Sums, sharding: Sharding) -> Line:
        """What all layers of a run add to what its device holds, process apart: of two runs the sum is that of both."""
        if self.tensors_alone:
            nothing = 0.0 * runs.elements
            return Line(fixed_bytes(runs.parameters_bytes, runs.elements, nothing, sharding, self.job), runs.kept_bytes)
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
            summing=Summing.BUCKETS if data_alone(groups) else Summing.FUSED,
        )
