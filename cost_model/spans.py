"""The cost of runs of consecutive layers, many at once: a run is what one stage may hold.

evaluate prices the stages of a plan with it, many.py those of thousands of candidates, the planner those it deals.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import DeviceType
from nebula.cost_model.border import receive_seconds, send_seconds
from nebula.cost_model.chain import ChainCost
from nebula.cost_model.groups import Groups
from nebula.cost_model.peak import Line
from nebula.cost_model.sharding import (
    GATHERING,
    REDUCING,
    Passes,
    adding_seconds,
    pass_costs,
    sync_seconds,
    update_seconds,
)
from nebula.cost_model.stage_memory import StageMemories
from nebula.cost_model.tensor_moments import OnWay, maxima
from nebula.plan.values import Job, Sharding

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Sums(NamedTuple):
    """What runs of layers add up to, before it is known where they run; one entry per run.

    Attributes:
        first: first layer of each run.
        end: the layer behind its last.
        working_bytes: of the layer that needs most.
        widest_bytes: parameters of the layer that has most.
        gradient_bytes: of the weight that has most.
        loss_bytes: gradients of one operator of the layer of the loss.
        logits_bytes: tensors of the loss.
    """

    first: Ints
    end: Ints
    forward_s: Floats
    forward_wire_s: Floats
    backward_s: Floats
    recompute_s: Floats
    backward_wire_s: Floats
    parameters_bytes: Floats
    tensors: Floats
    elements: Floats
    module_outputs: Floats
    module_output_bytes: Floats
    kept_bytes: Floats
    working_bytes: Floats
    widest_bytes: Floats
    gradient_bytes: Floats
    loss_bytes: Floats
    logits_bytes: Floats

    def where(self, which: Ints | tuple[slice, Ints]) -> Sums:
        """Those of some runs, by an index into each column."""
        first, end, *columns = self
        return Sums(first[which], end[which], *(column[which] for column in columns))


class Costs(NamedTuple):
    """What runs cost as stages in one place; one entry per run.

    Attributes:
        forward_s: one forward, borders included.
        backward_s: one backward, borders included.
        tail_s: synchronization and update after the last backward.
        room: most micro-batches in flight that fit into memory; below 1 none does.
    """

    forward_s: Floats
    backward_s: Floats
    tail_s: Floats
    room: Floats


class Spans:
    """Runs of one chain.

    Args:
        chain: cost by layer.
        device: what runs them.
        job: precision and optimizer.

    Attributes:
        whole: all layers, in numbers.
        single: each layer alone.
        fronts: [layers + 1] the layers before each border.
        backs: [layers + 1] those behind it.
        memories: what devices hold.
    """

    def __init__(self, chain: ChainCost, device: DeviceType, job: Job) -> None:
        self.chain, self.device, self.job = chain, device, job
        self.memories = StageMemories(device, job, chain)
        self.layers = len(chain.forward_s)
        summed = (
            chain.forward_s,
            chain.forward_communication_s,
            chain.backward_s,
            chain.recompute_s,
            chain.backward_communication_s,
            chain.parameters_bytes,
            chain.tensors,
            chain.elements,
            chain.module_outputs,
            chain.module_output_bytes,
            chain.kept_bytes,
        )
        self._prefixes = np.concatenate([np.zeros((len(summed), 1)), np.cumsum(summed, axis=1)], axis=1)
        cut = np.stack([chain.cut_tensors, chain.again_bytes, chain.again_tensors])
        self._cut = np.concatenate([np.zeros((3, 1)), np.cumsum(cut, axis=1)], axis=1)
        self._shared_bytes = np.concatenate([[0.0], np.cumsum(chain.shared_bytes)])
        most = (
            chain.working_bytes,
            chain.parameters_bytes,
            chain.gradient_bytes,
            chain.loss_bytes,
            chain.logits_bytes,
        )
        self._most = maxima(np.array(most)).reshape(len(most), -1)
        self._border_bytes = _inner(chain.forward_border_bytes), _inner(chain.backward_border_bytes)
        self._borders: dict[tuple[object, ...], tuple[Floats, Floats]] = {}
        self._messages = _inner(chain.forward_messages), _inner(chain.backward_messages)
        self.whole = Sums(*(column.tolist()[0] for column in self.of(np.array([0]), np.array([self.layers]))))
        self.single = self.of(np.arange(self.layers), np.arange(1, self.layers + 1))
        borders = np.arange(self.layers + 1)
        self.fronts = self.of(np.zeros_like(borders), borders)
        self.backs = self.of(borders, np.full_like(borders, self.layers))

    def of(self, first: Ints, end: Ints) -> Sums:
        """The sums of the runs [first, end)."""
        summed = self._prefixes[:, end] - self._prefixes[:, first]
        summed[-1] -= self._shared_bytes[end] - self._shared_bytes[np.minimum(first + 1, end)]
        return Sums(first, end, *summed, *self._most.take(first * (self.layers + 1) + end, axis=1))

    def added(self, sums: Sums, micro_batches: int, sharding: Sharding, groups: Groups) -> Passes[Floats]:
        """What sharding and the sums of gradients add to one forward and one backward."""
        cut_tensors = again_bytes = again_tensors = 0.0 * sums.tensors
        if sharding.stage == GATHERING:
            cut_tensors, again_bytes, again_tensors = self._cut[:, sums.end] - self._cut[:, sums.first]
        return pass_costs(
            sums.parameters_bytes,
            sums.tensors,
            cut_tensors=cut_tensors,
            gathered_again=(again_bytes, again_tensors),
            outputs=(sums.module_outputs, sums.module_output_bytes),
            sharding=sharding,
            shard=groups.shard,
            micro_batches=micro_batches,
            device=self.device,
        )

    def passes(
        self, sums: Sums, micro_batches: int, sharding: Sharding, groups: Groups, slow: float
    ) -> tuple[Floats, Floats]:
        """Seconds of one forward and one backward, borders apart."""
        if sharding.stage < REDUCING:
            # the same as below, where nothing but sums of gradients is added
            adds_s = adding_seconds(sums.parameters_bytes, sums.tensors, micro_batches, self.device)
            forward_s = slow * sums.forward_s + sums.forward_wire_s
            return forward_s, slow * (sums.backward_s + sums.recompute_s + adds_s) + sums.backward_wire_s
        more = self.added(sums, micro_batches, sharding, groups)
        forward_s = slow * (sums.forward_s + more.forward_kernels_s) + sums.forward_wire_s
        backward_s = slow * (sums.backward_s + sums.recompute_s + more.backward_kernels_s) + sums.backward_wire_s
        return forward_s + more.forward_wire_s, backward_s + more.backward_wire_s

    def computing(self, sums: Sums, micro_batches: int, sharding: Sharding, groups: Groups, slow: float) -> Floats:
        """Seconds of the kernels of one forward and one backward, what is computed again included."""
        more = self.added(sums, micro_batches, sharding, groups)
        own_s = sums.forward_s + sums.backward_s + sums.recompute_s
        return slow * (own_s + more.forward_kernels_s + more.backward_kernels_s)

    def sync(self, sums: Sums, sharding: Sharding, groups: Groups) -> Floats:
        """Seconds of data communication after the last backward."""
        return sync_seconds(
            sums.parameters_bytes,
            sums.tensors,
            sharding=sharding,
            groups=groups,
            recomputes=self.chain.recomputes,
            device=self.device,
        )

    def update(self, sums: Sums, sharding: Sharding, slow: float) -> Floats:
        """Seconds of the optimizer."""
        return slow * update_seconds(sums.elements, sums.tensors, sharding=sharding, job=self.job, device=self.device)

    def tail(self, sums: Sums, sharding: Sharding, groups: Groups, slow: float) -> Floats:
        """Seconds of synchronization and update after the last backward."""
        return self.sync(sums, sharding, groups) + self.update(sums, sharding, slow)

    def costs(
        self, sums: Sums, micro_batches: int, sharding: Sharding, groups: Groups, slow: float, limit_bytes: float
    ) -> Costs:
        """The costs of runs as stages whose ranks meet as in `groups`."""
        inside = self.inside(sums, micro_batches, sharding, groups, slow, limit_bytes)
        return self.bordered(inside, sums, groups)

    def inside(
        self, sums: Sums, micro_batches: int, sharding: Sharding, groups: Groups, slow: float, limit_bytes: float
    ) -> Costs:
        """The same, borders apart: what lies before and behind a stage has no part in it beyond being there."""
        forward_s, backward_s = self.passes(sums, micro_batches, sharding, groups, slow)
        room = self.room(sums, sharding, groups, micro_batches, limit_bytes)
        return Costs(forward_s, backward_s, self.tail(sums, sharding, groups, slow), room)

    def bordered(self, inside: Costs, sums: Sums, groups: Groups) -> Costs:
        """The costs of runs with their borders, of the costs without."""
        (received_s, back_s), (sent_s, returned_s) = self.entry(groups), self.exit(groups)
        return inside._replace(
            forward_s=inside.forward_s + received_s[sums.first] + sent_s[sums.end],
            backward_s=inside.backward_s + back_s[sums.first] + returned_s[sums.end],
        )

    def room(self, sums: Sums, sharding: Sharding, groups: Groups, micro_batches: int, limit_bytes: float) -> Floats:
        """Most micro-batches in flight that fit into memory; below 1 none does."""
        return _room(self.lines(sums, sharding, groups, micro_batches), limit_bytes)

    def most_room(
        self, sums: Sums, leanest: Sharding, groups: Groups, micro_batches: int, limit_bytes: float
    ) -> Floats:
        """The same, and no less than under a sharding that cuts less: but for what the leanest gathers."""
        borders_bytes = self.borders_bytes(sums)
        return _room(self.memories.lines(sums, leanest, groups, borders_bytes, micro_batches, OnWay()), limit_bytes)

    def lines(self, sums: Sums, sharding: Sharding, groups: Groups, micro_batches: int) -> tuple[Line, ...]:
        """Lines over the micro-batches in flight, whose greatest is what one rank holds."""
        return self.memories.lines(sums, sharding, groups, self.borders_bytes(sums), micro_batches)

    def borders_bytes(self, sums: Sums) -> Floats:
        """What comes in from both neighbours."""
        inward, returned = self._border_bytes
        borders: Floats = inward[sums.first] + returned[sums.end]
        return borders

    def entry(self, groups: Groups) -> tuple[Floats, Floats]:
        """Receiving a forward and sending a gradient back, [layers + 1] by the first layer of a run."""
        key = ("entry", groups.before, groups.tensor, groups.tensor_ranks)
        if key not in self._borders:
            (f_bytes, b_bytes), (f_count, b_count) = self._border_bytes, self._messages
            received_s = receive_seconds(f_bytes, f_count, groups.before, groups.tensor)
            self._borders[key] = received_s, send_seconds(b_bytes, b_count, groups.before, groups.tensor_ranks)
        return self._borders[key]

    def exit(self, groups: Groups) -> tuple[Floats, Floats]:
        """Sending a forward on and receiving a gradient, [layers + 1] by the layer behind a run."""
        key = ("exit", groups.behind, groups.tensor, groups.tensor_ranks)
        if key not in self._borders:
            (f_bytes, b_bytes), (f_count, b_count) = self._border_bytes, self._messages
            sent_s = send_seconds(f_bytes, f_count, groups.behind, groups.tensor_ranks)
            self._borders[key] = sent_s, receive_seconds(b_bytes, b_count, groups.behind, groups.tensor)
        return self._borders[key]

    @cached_property
    def widest_s(self) -> float:
        """Seconds of one forward and one backward of the slowest layer."""
        return float((self.chain.forward_total_s + self.chain.backward_total_s).max())

    def work_s(self, micro_batches: int, sharding: Sharding, groups: Groups) -> float:
        """Seconds of one forward and one backward of all layers on healthy nodes, borders apart."""
        forward_s, backward_s = self.passes(self.whole, micro_batches, sharding, groups, 1.0)
        return float(forward_s + backward_s)


def _inner(by_layer: Floats) -> Floats:
    """[layers + 1]: at each border what crosses it, 0 at both ends of the chain."""
    return np.concatenate([[0.0], by_layer[:-1], [0.0]])


def _room(lines: Sequence[Line], limit_bytes: float) -> Floats:
    room: Floats = np.floor(np.minimum.reduce([line.room(limit_bytes) for line in lines]))
    return room
