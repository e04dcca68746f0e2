"""What the fullest rank of each device of a pipeline holds from moment to moment of one predicted step.

Weights and optimizer states lie there all the time, gradients from the first backward to the update, activations from a
forward to the end of its backward, the workspace while a backward runs. What a forward works on for a moment is not
counted, and what an allocator keeps for later is not shown as held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import beyond_fleet, plan_pricing
from nebula.cost_model.executed import executed_kept
from nebula.cost_model.peak import HOLDERS, holder_bytes
from nebula.cost_model.simulate import Event, Timeline
from nebula.graph.values import DistributedGraph
from nebula.plan.schedule import alive
from nebula.plan.values import Plan, StageMemory

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MemoryTimeline:
    """The memory of one device of a pipeline over a step.

    Attributes:
        stages: indices of the plan's stages that it holds.
        starts_s: [moments] since when it holds what it does, ascending, the first 0.
        end_s: of the last moment.
        held_bytes: pairs of a holder and its bytes [moments]; holders that never have any are left out.
        limit_bytes: what the plan may fill.
    """

    stages: tuple[int, ...]
    starts_s: Floats
    end_s: float
    held_bytes: tuple[tuple[str, Floats], ...]
    limit_bytes: float

    @property
    def total_bytes(self) -> Floats:
        """[moments] by all holders together."""
        total: Floats = np.sum([held for _, held in self.held_bytes], axis=0)
        return total

    @property
    def peak_bytes(self) -> float:
        """The most that it ever holds."""
        return float(self.total_bytes.max())

    @property
    def peak_s(self) -> float:
        """When it first holds most."""
        return float(self.starts_s[int(self.total_bytes.argmax())])

    def fullest(self, slots: int) -> MemoryTimeline:
        """The same in so many equal stretches of time, of each the moment at which most is held."""
        edges = np.linspace(0.0, self.end_s, slots, endpoint=False)
        first = np.searchsorted(self.starts_s, edges, side="right") - 1
        behind = np.append(np.searchsorted(self.starts_s, edges[1:]), len(self.starts_s))
        total = self.total_bytes
        chosen = [a + int(total[a : max(b, a + 1)].argmax()) for a, b in zip(first, behind, strict=True)]
        held = tuple((holder, values[chosen]) for holder, values in self.held_bytes)
        return replace(self, starts_s=edges, held_bytes=held)


def memory_timelines(
    graph: DistributedGraph, cluster: Cluster, plan: Plan, steps: Timeline
) -> tuple[MemoryTimeline, ...]:
    """The memory of every device of the pipeline.

    Args:
        graph: the model.
        cluster: that the plan is for.
        plan: with its prediction, whose peaks these are.
        steps: the predicted events of its step.

    Raises:
        BadInput: the plan does not fit the graph or the cluster.
    """
    assert plan.prediction is not None
    homes = plan.homes
    peaks = [plan.prediction.memory[own[0]] for own in homes]
    flights = [
        alive(plan.schedule, len(homes), device, plan.micro_batches, len(own)) for device, own in enumerate(homes)
    ]
    kept = (
        [
            _at_peak(own, flight, peak)
            for own, flight, peak in zip(
                executed_kept(plan_pricing(graph, cluster, plan), plan), flights, peaks, strict=True
            )
        ]
        if beyond_fleet(plan)
        else [(peak.activations_bytes / flight[0],) for peak, flight in zip(peaks, flights, strict=True)]
    )
    devices, end_s = zip(homes, peaks, flights, kept, strict=True), steps.end_s
    return tuple(
        _timeline(_Device(tuple(own), peak, flight, each), events, end_s)
        for (own, peak, flight, each), events in zip(devices, steps.by_stage(), strict=True)
    )


def _at_peak(kept: Sequence[float], flight: Sequence[int], peak: StageMemory) -> tuple[float, ...]:
    """What a micro-batch keeps on each chunk, such that all in flight come to what they hold at the peak.

    A backward may have used some of it up when the peak is reached; where all is gone then, it counts whole.
    """
    whole = sum(n * each for n, each in zip(flight, kept, strict=True))
    share = peak.activations_bytes / whole if whole and peak.activations_bytes else 1.0
    return tuple(share * each for each in kept)


def _timeline(device: _Device, events: Sequence[Event], end_s: float) -> MemoryTimeline:
    for event in events:
        device.do(event)
    peak = device.peak
    starts_s, *columns = (np.array(column) for column in zip(*device.moments, strict=True))
    changing = dict(zip(_Device.CHANGING, columns, strict=True))
    held = (
        (holder, changing[holder] if holder in changing else np.full(len(starts_s), holder_bytes(peak, holder)))
        for holder in HOLDERS
    )
    return MemoryTimeline(
        stages=device.stages,
        starts_s=starts_s,
        end_s=end_s,
        held_bytes=tuple((holder, values) for holder, values in held if values.any()),
        limit_bytes=peak.limit_bytes,
    )


class _Device:
    """One device as it goes through its events: what changes, at each moment.

    Args:
        stages: that it holds, in the order of its chunks; the last of the plan has the loss.
        peak: of it.
        flight: micro-batches that each chunk holds at the peak.
        kept: bytes of one of them on each chunk.
    """

    CHANGING = ("gradients", "activations", "workspace", "logits", "buffers")

    def __init__(
        self, stages: tuple[int, ...], peak: StageMemory, flight: Sequence[int], kept: Sequence[float]
    ) -> None:
        self.stages, self.peak, self._kept = stages, peak, kept
        self._alive = [0] * len(kept)
        self._loss = stages.index(max(stages))
        self._logits_bytes = peak.logits_bytes / max(flight[self._loss], 1)
        self._backward = self._gradients = False
        # where the peak has no activations, replicas sum gradients then, and what that takes lies there only so long
        self._summing = bool(peak.activations_bytes)
        self.moments: list[tuple[float, ...]] = []
        self._note(0.0)

    def do(self, event: Event) -> None:
        """An event from its start to its end."""
        if event.kind == "F":
            self._alive[event.chunk] += 1
            self._note(event.start_s)
        elif event.kind in ("B", "I"):
            self._backward = self._gradients = True
            self._note(event.start_s)
            self._backward = False
            self._alive[event.chunk] -= event.kind == "B"
            self._note(event.end_s)
        elif event.kind == "W":
            self._alive[event.chunk] -= 1
            self._note(event.end_s)
        elif event.kind == "sync" and not self.peak.activations_bytes:
            self._summing = True
            self._note(event.start_s)
            self._summing = False
            self._note(event.end_s)
        elif event.kind == "update":
            self._gradients = False
            self._note(event.end_s)

    def _note(self, at_s: float) -> None:
        self.moments.append(
            (
                at_s,
                self.peak.gradients_bytes * self._gradients,
                sum(n * each for n, each in zip(self._alive, self._kept, strict=True)),
                self.peak.workspace_bytes * self._backward,
                self._logits_bytes * self._alive[self._loss],
                self.peak.buffers_bytes * self._summing,
            )
        )
