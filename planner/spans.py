"""The cost of every run of consecutive layers at once, as matrices over (first layer, layer behind the last).

A stage is such a run. All entries come from the same formulas as nebula.cost_model.evaluate; a run without layers has
infinite cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import DeviceType
from nebula.cost_model.chain import ChainCost
from nebula.cost_model.groups import Groups
from nebula.cost_model.memory import fixed_bytes
from nebula.cost_model.stage import (
    accumulation_seconds,
    pass_seconds,
    receive_seconds,
    send_seconds,
    sync_seconds,
    update_seconds,
)
from nebula.plan.values import Job, Sharding

Floats = NDArray[np.float64]


class Spans:
    """Sums and maxima of a chain's costs over all runs of layers, each [layers + 1, layers + 1].

    Args:
        chain: cost by layer.
        device: what runs them.
        job: precision and optimizer.
    """

    def __init__(self, chain: ChainCost, device: DeviceType, job: Job) -> None:
        self.chain, self.device, self.job = chain, device, job
        self.layers = len(chain.forward_s)
        self.forward_s = _sums(chain.forward_s)
        self.forward_wire_s = _sums(chain.forward_communication_s)
        self.backward_s = _sums(chain.backward_s + chain.recompute_s)
        self.backward_wire_s = _sums(chain.backward_communication_s)
        self.parameters_bytes = _sums(chain.parameters_bytes)
        self.tensors = _sums(chain.tensors)
        self.elements = _sums(chain.elements)
        self.kept_bytes = _sums(chain.kept_bytes)
        self.working_bytes = _maxima(chain.working_bytes)
        self.widest_bytes = _maxima(chain.parameters_bytes)
        self.some = np.triu(np.ones((self.layers + 1, self.layers + 1), dtype=bool), 1)

    def passes(self, micro_batches: int, sharding: Sharding, groups: Groups, slow: float) -> tuple[Floats, Floats]:
        """Seconds of one forward and one backward of each run, borders apart."""
        gather_s, scatter_s = pass_seconds(self.parameters_bytes, sharding, groups.shard)
        add_s = accumulation_seconds(self.parameters_bytes, self.tensors, micro_batches, self.device)
        forward_s = slow * self.forward_s + self.forward_wire_s + gather_s
        return forward_s, slow * (self.backward_s + add_s) + self.backward_wire_s + scatter_s

    def tail(self, sharding: Sharding, groups: Groups, slow: float) -> Floats:
        """Seconds of synchronization and update after the last backward."""
        sync_s = sync_seconds(self.parameters_bytes, sharding, groups)
        return sync_s + slow * update_seconds(self.elements, self.tensors, sharding, self.job, self.device)

    def total_s(self, micro_batches: int) -> float:
        """Seconds of one forward and one backward of all layers on one rank, borders and sharding apart."""
        forward_s, backward_s = self.passes(micro_batches, Sharding(), Groups(), 1.0)
        return float(forward_s[0, -1] + backward_s[0, -1])

    @property
    def widest_s(self) -> float:
        """Seconds of one forward and one backward of the slowest layer."""
        chain = self.chain
        return float((chain.forward_total_s + chain.backward_total_s).max())

    def whole_tail(self, sharding: Sharding, groups: Groups) -> float:
        """The tails of all stages together, however the layers are dealt."""
        bytes_s = sync_seconds(float(self.parameters_bytes[0, -1]), sharding, groups)
        elements, tensors = float(self.elements[0, -1]), float(self.tensors[0, -1])
        return bytes_s + update_seconds(elements, tensors, sharding, self.job, self.device)

    def fixed_bytes(self, sharding: Sharding) -> Floats:
        """Bytes on one rank that do not depend on the micro-batches in flight, borders apart."""
        held = fixed_bytes(self.parameters_bytes, self.elements, self.widest_bytes, sharding, self.job)
        return held + self.working_bytes

    def borders(self, groups: Groups) -> Borders:
        """What the ends of a run add, by the layer before its first and its last layer."""
        f_bytes, b_bytes = _ahead(self.chain.forward_border_bytes), _ahead(self.chain.backward_border_bytes)
        f_count, b_count = _ahead(self.chain.forward_messages), _ahead(self.chain.backward_messages)
        behind, before, tensor = groups.behind, groups.before, groups.tensor
        zero = np.zeros_like(f_bytes)
        return Borders(
            forward_begin_s=receive_seconds(f_bytes, f_count, before, tensor) if before else zero,
            forward_end_s=send_seconds(f_bytes, f_count, behind, tensor) if behind else zero,
            backward_begin_s=send_seconds(b_bytes, b_count, before, tensor) if before else zero,
            backward_end_s=receive_seconds(b_bytes, b_count, behind, tensor) if behind else zero,
            begin_bytes=f_bytes if before else zero,
            end_bytes=b_bytes if behind else zero,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Borders:
    """Costs at the ends of a run, each [layers + 1]: `begin` by the run's first layer, `end` by the layer behind it."""

    forward_begin_s: Floats
    forward_end_s: Floats
    backward_begin_s: Floats
    backward_end_s: Floats
    begin_bytes: Floats
    end_bytes: Floats


def _ahead(by_layer: Floats) -> Floats:
    """[layers + 1]: for each border the value of the layer in front of it; nothing in front of the first."""
    return np.concatenate([[0.0], by_layer])


def _sums(by_layer: Floats) -> Floats:
    """Sum over the layers of each run; negative where a run has none."""
    prefix = np.concatenate([[0.0], by_layer.cumsum()])
    sums: Floats = prefix[None, :] - prefix[:, None]
    return sums


def _maxima(by_layer: Floats) -> Floats:
    """Maximum over the layers of each run, 0 where a run has none."""
    layers = len(by_layer)
    spread = np.triu(np.broadcast_to(_ahead(by_layer), (layers + 1, layers + 1)), 1)
    maxima: Floats = np.maximum.accumulate(spread, axis=1)
    return maxima
