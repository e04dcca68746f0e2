"""What the stages of one plan cost, those that run alike together: seconds by what takes them, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from nebula.cost_model.groups import Groups
from nebula.cost_model.memory import in_flights
from nebula.cost_model.spans import Spans, Sums
from nebula.plan.values import Plan, Sharding, StageMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """What one stage does, in seconds.

    Attributes:
        compute_s: kernels of one forward and one backward, sums of gradients included.
        recompute_s: kernels run again in one backward.
        tensor_s: communication of the tensor group in one forward and one backward.
        sharded_s: communication that sharding adds to one forward and one backward.
        forward_s: one forward, all of the above and receiving included.
        backward_s: one backward, likewise.
        received_s: receiving, in one forward.
        returned_s: receiving gradients, in one backward.
        send_forward_s: sending on.
        send_backward_s: sending back.
        sync_s: data communication of one step after the last backward.
        update_s: the optimizer.
    """

    compute_s: float
    recompute_s: float
    tensor_s: float
    sharded_s: float
    forward_s: float
    backward_s: float
    received_s: float
    returned_s: float
    send_forward_s: float
    send_backward_s: float
    sync_s: float
    update_s: float
    memory: StageMemory

    @property
    def pass_s(self) -> float:
        """One forward and one backward without borders."""
        return self.compute_s + self.recompute_s + self.tensor_s + self.sharded_s


class StageWay(NamedTuple):
    """How a replica of a stage runs: stages that run alike are priced together, see nebula.cost_model.fleet.

    Attributes:
        until: layers from that one on keep all; 0: all layers are under the recompute policy.
    """

    rows: int
    tensor: int
    recompute: str
    until: int
    sharding: Sharding
    groups: Groups
    slow: float
    device: str


def alike_costs(plan: Plan, spans: Spans, way: StageWay, stages: Sequence[int]) -> list[StageCost]:
    """The costs of the stages of a plan that run in one way, whose layers `spans` prices."""
    groups, slow = way.groups, way.slow
    layers = np.array([plan.stages[index].layers for index in stages])
    sums = spans.of(layers[:, 0], layers[:, 1])
    more = spans.added(sums, plan.micro_batches, way.sharding, groups)
    forward_s = slow * (sums.forward_s + more.forward_kernels_s)
    backward_s = slow * (sums.backward_s + more.backward_kernels_s)
    recompute_s = slow * sums.recompute_s
    (received_s, back_s), (sent_s, returned_s) = spans.entry(groups), spans.exit(groups)
    received_s, returned_s = received_s[sums.first], returned_s[sums.end]
    wired_s = sums.forward_wire_s + more.forward_wire_s, sums.backward_wire_s + more.backward_wire_s
    columns = {
        "compute_s": forward_s + backward_s,
        "recompute_s": recompute_s,
        "tensor_s": sums.forward_wire_s + sums.backward_wire_s,
        "sharded_s": more.forward_wire_s + more.backward_wire_s,
        "forward_s": forward_s + wired_s[0] + received_s,
        "backward_s": backward_s + recompute_s + wired_s[1] + returned_s,
        "received_s": received_s,
        "returned_s": returned_s,
        "send_forward_s": sent_s[sums.end],
        "send_backward_s": back_s[sums.first],
        "sync_s": spans.sync(sums, way.sharding, groups),
        "update_s": spans.update(sums, way.sharding, slow),
    }
    memory = _memory(plan, spans, way, stages, sums)
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        StageCost(**dict(zip(columns, row, strict=True)), memory=held) for row, held in zip(rows, memory, strict=True)
    ]


def _memory(plan: Plan, spans: Spans, way: StageWay, stages: Sequence[int], sums: Sums) -> list[StageMemory]:
    """What a rank of each of those stages holds."""
    flying = in_flights(plan.schedule, len(plan.stages), plan.micro_batches)[list(stages)]
    return spans.memories.of_stages(
        sums, way.sharding, way.groups, flying, spans.borders_bytes(sums), plan.micro_batches
    )


def worst(costs: Sequence[StageCost], micro_batches: int) -> StageCost:
    """The cost of a stage whose replicas cost those."""
    if len(costs) == 1:
        return costs[0]
    slowest = max(costs, key=lambda c: micro_batches * c.pass_s + c.update_s)
    fullest = max((c.memory for c in costs), key=lambda m: m.total_bytes / m.limit_bytes)
    return replace(slowest, memory=fullest)
