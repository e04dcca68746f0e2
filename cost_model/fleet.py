"""What a plan costs that fleet runs: its step time by parts that sum to it, its memory per stage, its range and origin.

A Pricing object serves many plans of one graph, cluster and job and keeps what they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.places import device_index
from nebula.cluster.values import Cluster, DeviceType
from nebula.cost_model.border import meets
from nebula.cost_model.chain import Chains
from nebula.cost_model.closed_form import step_seconds
from nebula.cost_model.communication import Fabric, Levels
from nebula.cost_model.confidence import interval, provenance
from nebula.cost_model.groups import Groups, replica_devices, stage_groups
from nebula.cost_model.spans import Spans
from nebula.cost_model.stage_cost import StageCost, StageWay, alike_costs, worst
from nebula.cost_model.step_parameters import parameters_on
from nebula.cost_model.traffic import attained, slowest_of
from nebula.errors import BadInput
from nebula.graph.values import DistributedGraph
from nebula.plan.values import PRECISION_DTYPE, Job, Plan, Prediction, RankPlace, Stage, StepParts

if TYPE_CHECKING:
    from nebula.cost_model.simulate import Timeline

KEPT_PLACEMENTS = 256
"""Placements that a Pricing remembers: a few tens of kilobytes each, where ranks are thousands."""


class Pricing:
    """Prices plans of one graph on one cluster for one job.

    Args:
        chains: of the graph, where blocks are cut already; they must not have priced layers on other devices.
    """

    def __init__(self, graph: DistributedGraph, cluster: Cluster, job: Job, chains: Chains | None = None) -> None:
        self.graph, self.cluster, self.job = graph, cluster, job
        self.chains = chains or Chains(graph)
        parameters = parameters_on(cluster)
        self.fabric = Fabric(attained(cluster, parameters), parameters.start_s)
        self._device: dict[RankPlace, int] = {}
        self._placed: dict[tuple[object, ...], list[_Place]] = {}
        self._types: dict[str, DeviceType] = {}
        self._spans: dict[tuple[object, ...], Spans] = {}

    def predict(self, plan: Plan) -> Prediction:
        """The prediction for a plan.

        Raises:
            BadInput: the plan does not fit the graph or the cluster.
        """
        devices = self.devices(plan)
        costs = self._stage_costs(plan, devices)
        m = plan.micro_batches
        types = self.fabric.device_types(devices)
        step_s, borderless_s = _steps(costs, m, plan.schedule, meet=any(map(meets, types)))
        busy = max(costs, key=lambda c: m * c.pass_s + c.sync_s + c.update_s)
        parts = StepParts(
            compute_s=m * busy.compute_s,
            recompute_s=m * busy.recompute_s,
            tensor_communication_s=m * busy.tensor_s,
            pipeline_communication_s=step_s - borderless_s,
            data_communication_s=m * busy.sharded_s + busy.sync_s,
            bubble_s=borderless_s - m * busy.pass_s - busy.sync_s - busy.update_s,
            optimizer_s=busy.update_s,
        )
        computing_s = [m * (c.compute_s + c.recompute_s) + c.update_s for c in costs]
        rows = m * sum(r.micro_batch_rows for r in plan.stages[0].replicas)
        return Prediction(
            step_time_s=step_s,
            interval_s=interval(step_s, types),
            tokens_per_s=rows * self.graph.tokens_per_row / step_s,
            mfu=self._flops_per_row * rows / (self._peak_flops(devices) * step_s),
            parts=parts,
            memory=tuple(c.memory for c in costs),
            provenance=provenance(types),
            computing_s=mean_over_ranks(plan, computing_s),
        )

    def on(self, cluster: Cluster) -> Pricing:
        """The same on a cluster that differs in its rates."""
        return Pricing(self.graph, cluster, self.job, self.chains.for_other_devices())

    def timeline(self, plan: Plan) -> Timeline:
        """The events of one predicted step."""
        from nebula.cost_model.simulate import Durations, Sends, Timeline, tail_events, timeline

        costs = self.stage_costs(plan)
        meet = any(map(meets, self.fabric.device_types(self.devices(plan))))
        passes = timeline(
            Durations(
                forward_s=tuple(c.forward_s for c in costs),
                backward_s=tuple(c.backward_s for c in costs),
                send_forward_s=tuple(c.send_forward_s for c in costs),
                send_backward_s=tuple(c.send_backward_s for c in costs),
                sends=Sends.MEET if meet else Sends.OCCUPY,
            ),
            plan.schedule,
            plan.micro_batches,
        )
        stages = enumerate(zip(passes.by_stage(), costs, strict=True))
        return Timeline(
            events=tuple(
                e for s, (own, cost) in stages for e in (*own, *tail_events(own, s, cost.sync_s, cost.update_s))
            )
        )

    def stage_costs(self, plan: Plan) -> tuple[StageCost, ...]:
        """The cost of every stage."""
        return self._stage_costs(plan, self.devices(plan))

    def spans(
        self,
        *,
        rows: int,
        tensor: int,
        levels: Levels,
        sequence: bool,
        device: DeviceType,
        policy: str,
        until: int = 0,
    ) -> Spans:
        """What runs of layers cost one rank; arguments and errors as of Chains.cost."""
        key = (rows, tensor, levels, sequence, device.name, policy, until)
        if key not in self._spans:
            chain = self.chains.cost(
                rows=rows, tensor=tensor, levels=levels, sequence=sequence, device=device, policy=policy, until=until
            )
            self._spans[key] = Spans(chain, device, self.job)
        return self._spans[key]

    def devices(self, plan: Plan) -> NDArray[np.int64]:
        """The global device index of every rank."""
        try:
            return np.fromiter(map(self._device.__getitem__, plan.ranks), np.int64, len(plan.ranks))
        except KeyError:
            for place in plan.ranks:
                self._device[place] = device_index(self.cluster, place.node, place.device)
            return self.devices(plan)

    def _check(self, plan: Plan) -> None:
        layers = len(self.graph.layers)
        held = [layer for stage in plan.stages for layer in range(*stage.layers)]
        if held != list(range(layers)):
            ranges = ", ".join(f"[{s.layers[0]}, {s.layers[1]})" for s in plan.stages)
            raise BadInput(f"the stages hold layers {ranges}; {self.graph.name} has layers [0, {layers}), each once")
        for stage in plan.stages:
            if stage.context > 1 or stage.expert > 1:
                raise BadInput("context and expert parallelism have no price yet; plan with context=1 and expert=1")

    def _stage_costs(self, plan: Plan, devices: NDArray[np.int64]) -> tuple[StageCost, ...]:
        """The cost of each stage: that of its slowest replica, with the memory of the one nearest to its limit."""
        self._check(plan)
        by_stage: list[list[StageCost]] = [[] for _ in plan.stages]
        for way, stages in self._ways(plan, devices).items():
            spans = self.spans(
                rows=way.rows,
                tensor=way.tensor,
                levels=way.groups.tensor,
                sequence=plan.sequence_parallel,
                device=self._types[way.device],
                policy=way.recompute,
                until=way.until,
            )
            for index, cost in zip(stages, alike_costs(plan, spans, way, stages), strict=True):
                by_stage[index].append(cost)
        return tuple(worst(costs, plan.micro_batches) for costs in by_stage)

    def _ways(self, plan: Plan, devices: NDArray[np.int64]) -> dict[StageWay, list[int]]:
        """The stages by the ways in which their replicas run."""
        ways: dict[StageWay, list[int]] = {}
        for index, (stage, (groups, slow, types)) in enumerate(
            zip(plan.stages, self._placement(plan, devices), strict=True)
        ):
            unlike = _unlike(stage)
            for (rows, tensor), ranks in unlike.items():
                # whoever is slower may have fewer rows
                for device in types if len(unlike) == 1 else self.fabric.device_types(devices[ranks]):
                    self._types[device.name] = device
                    met = groups if len(types) == 1 else self._meeting(groups, replica_devices(stage, devices), device)
                    until = stage.layers[0] + stage.recompute_layers if stage.recompute_layers else 0
                    way = StageWay(rows, tensor, stage.recompute, until, stage.sharding, met, slow, device.name)
                    ways.setdefault(way, []).append(index)
        return ways

    def _meeting(self, groups: Groups, grid: NDArray[np.int64], device: DeviceType) -> Groups:
        """The groups of those of the replicas [replicas, tensor] that have devices of a type; others may be slower."""
        has = [device in self.fabric.device_types(own) for own in grid]
        return replace(groups, tensor=slowest_of(grid[has], self.fabric)) if groups.tensor else groups

    def _placement(self, plan: Plan, devices: NDArray[np.int64]) -> list[_Place]:
        """Where each stage is; plans that differ in their layers alone are placed once."""
        held = [replica_devices(stage, devices) for stage in plan.stages]
        degrees = tuple(stage.sharding.degree for stage in plan.stages)
        key = (degrees, tuple(grid.shape for grid in held), np.concatenate(held, axis=None).tobytes())
        if key not in self._placed:
            if len(self._placed) >= KEPT_PLACEMENTS:
                self._placed.clear()
            self._placed[key] = [
                _Place(groups, self.fabric.slowest(grid.ravel()), self.fabric.device_types(grid))
                for groups, grid in zip(stage_groups(held, degrees, self.fabric), held, strict=True)
            ]
        return self._placed[key]

    @cached_property
    def _flops_per_row(self) -> float:
        """Model FLOPs of one row: forward and backward of the serial graph."""
        return (self.graph.forward_flops + self.graph.backward_flops) / self.graph.rows

    def _peak_flops(self, devices: NDArray[np.int64]) -> float:
        dtype = PRECISION_DTYPE[self.job.precision]
        return self.fabric.total(devices, lambda device: device.peak(dtype))


class _Place(NamedTuple):
    """Where a stage is: whom its ranks meet, by what factor the slowest is slower, and of which types they are."""

    groups: Groups
    slow: float
    types: list[DeviceType]


def _steps(costs: Sequence[StageCost], micro_batches: int, schedule: str, *, meet: bool) -> tuple[float, float]:
    """Seconds of the step, and of the same step if borders took no time; `meet` as of border.meets."""
    forward_s = [[c.forward_s + c.send_forward_s for c in costs], [c.forward_s - c.received_s for c in costs]]
    backward_s = [[c.backward_s + c.send_backward_s for c in costs], [c.backward_s - c.returned_s for c in costs]]
    tail_s = [[c.sync_s + c.update_s for c in costs]] * 2
    met_s = np.array([[c.send_backward_s for c in costs], [0.0] * len(costs)]) if meet else None
    step_s, borderless_s = step_seconds(
        np.array(forward_s), np.array(backward_s), np.array(tail_s), micro_batches, schedule, met_s
    ).tolist()
    return step_s, borderless_s


def _unlike(stage: Stage) -> dict[tuple[int, int], list[int]]:
    """The ranks of replicas by their rows and tensor degree; usually of one kind."""
    kinds: dict[tuple[int, int], list[int]] = {}
    for replica in stage.replicas:
        kinds.setdefault((replica.micro_batch_rows, len(replica.ranks)), []).extend(replica.ranks)
    return kinds


def mean_over_ranks(plan: Plan, by_stage: Sequence[float]) -> float:
    """The mean over all ranks of a plan of what each rank of a stage has; virtual stages of one device add up."""
    return sum(len(stage.ranks) * value for stage, value in zip(plan.stages, by_stage, strict=True)) / plan.world_size
