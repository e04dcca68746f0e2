"""Measured runs as functions of the numbers that are fitted: what a run would take under other values.

A run of a runs file is priced as `predict` does, a run of our own as `evaluate` does. Local blocks are kept between
calls, and layers as long as neither their device nor their host changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nebula.cluster.values import Cluster
from nebula.cost_model.calibration.parameters import HOST, Parameter, host_features, step_parameters
from nebula.cost_model.communication import Fabric, Pattern
from nebula.cost_model.evaluate import evaluate
from nebula.cost_model.execution import DEFAULTS, Execution
from nebula.cost_model.replicas import LayerLoad
from nebula.cost_model.runs.case import Case
from nebula.cost_model.runs.predict import predicted
from nebula.cost_model.step import StageTimes, StepPricing
from nebula.graph.values import Block, DistributedGraph
from nebula.plan.values import Plan

KEPT = 3
"""For how many values of a device or a host layers are kept: the present ones, and those that a slope is taken at."""


class Run(Protocol):
    """A measured run. Calls need no order; one at a time."""

    @property
    def id(self) -> str:
        """Its name."""
        ...

    @property
    def source(self) -> str:
        """Who measured it."""
        ...

    @property
    def cluster(self) -> Cluster:
        """What it ran on."""
        ...

    @property
    def measured_s(self) -> float:
        """What was measured."""
        ...

    def touched(self, parameter: Parameter) -> bool:
        """Whether its time may depend on a parameter."""
        ...

    def seconds(self, values: Mapping[str, float]) -> float:
        """What the model says under values by name; others are as the model has them.

        Raises:
            BadInput: the model cannot take the run.
        """
        ...


Layers = dict[tuple[object, ...], LayerLoad]
Places = dict[tuple[tuple[int, ...], bytes], tuple[list[Pattern], NDArray[np.int64]]]


class Kept:
    """Local blocks and layers of many runs, which share them where model, execution and device are the same."""

    def __init__(self) -> None:
        self._graphs: dict[int, tuple[DistributedGraph, dict[tuple[int, ...], Block]]] = {}
        self._layers: dict[tuple[object, ...], OrderedDict[tuple[float, ...], Layers]] = {}
        self._places: dict[str, Places] = {}
        self._ranks: dict[str, NDArray[np.int64]] = {}

    def blocks(self, graph: DistributedGraph) -> dict[tuple[int, ...], Block]:
        """Those of a graph."""
        return self._graphs.setdefault(id(graph), (graph, {}))[1]

    def places(self, case: Case) -> Places:
        """How the groups of a case lie."""
        return self._places.setdefault(case.id, {})

    def ranks(self, case: Case, devices: Callable[[Plan], NDArray[np.int64]]) -> NDArray[np.int64]:
        """The devices of a case's ranks, asked once."""
        if case.id not in self._ranks:
            self._ranks[case.id] = devices(case.plan)
        return self._ranks[case.id]

    def layers(self, case: Case, changed: tuple[float, ...]) -> Layers:
        """Those of a case whose host and devices have these numbers."""
        same = (id(case.graph), case.execution, tuple(g.device.name for g in case.cluster.groups))
        known = self._layers.setdefault(same, OrderedDict())
        found = known.setdefault(changed, {})
        known.move_to_end(changed)
        if len(known) > KEPT:
            known.popitem(last=False)
        return found


class KeptFabric(Fabric):
    """A Fabric that knows from earlier ones how groups lie: only the rates of links are new."""

    def __init__(self, cluster: Cluster, places: Places) -> None:
        super().__init__(cluster)
        self._places = places

    def _patterns(self, groups: NDArray[np.int64]) -> tuple[list[Pattern], NDArray[np.int64]]:
        key = (groups.shape, groups.tobytes())
        if key not in self._places:
            self._places[key] = super()._patterns(groups)
        return self._places[key]


class KeptPricing(StepPricing):
    """A StepPricing that starts with the blocks and layers of earlier ones."""

    def __init__(self, case: Case, kept: Kept, changed: tuple[float, ...], values: Mapping[str, float]) -> None:
        cluster = with_shares(case.cluster, values)
        super().__init__(case.graph, cluster, with_host(case.execution, values), step_parameters(values))
        self.fabric = KeptFabric(self.fabric.cluster, kept.places(case))
        self._blocks = kept.blocks(case.graph)
        self._loads = kept.layers(case, changed)
        self._ranks = kept.ranks(case, super().devices)
        self._stages: dict[tuple[object, ...], StageTimes] = {}

    def devices(self, plan: Plan) -> NDArray[np.int64]:
        """Those of the case's plan, which is the only one."""
        del plan
        return self._ranks

    def _stage(
        self, plan: Plan, index: int, grids: Sequence[NDArray[np.int64]], expert_tensor: int, *, alone: bool
    ) -> StageTimes:
        """Stages that hold the same on devices that lie the same take the same."""
        if len(self.cluster.groups) > 1 or self.cluster.tiers or self.cluster.groups[0].slow:
            return super()._stage(plan, index, grids, expert_tensor, alone=alone)
        first = int(grids[index].min()) // self.cluster.groups[0].devices_per_node
        where = [(g - first * self.cluster.groups[0].devices_per_node).tobytes() for g in grids[index : index + 2]]
        stage = plan.stages[index]
        key = (self.graph.layers[slice(*stage.layers)], stage.sharding, *where)
        if key not in self._stages:
            self._stages[key] = super()._stage(plan, index, grids, expert_tensor, alone=alone)
        return self._stages[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRun:
    """A row of a runs file."""

    case: Case
    kept: Kept

    @property
    def id(self) -> str:
        """The row's."""
        return self.case.id

    @property
    def source(self) -> str:
        """The row's."""
        return self.case.row.origin

    @property
    def cluster(self) -> Cluster:
        """The row's."""
        return self.case.cluster

    @property
    def measured_s(self) -> float:
        """A step's or a layer's."""
        return self.case.measured.time_s

    def touched(self, parameter: Parameter) -> bool:
        """Of a device and of a host whether it has them; a layer alone knows nothing of steps."""
        if parameter.group == "devices":
            return uses(self.cluster, parameter)
        if parameter.group == "host":
            return parameter.name == host_feature(self.case.execution)
        return True

    def seconds(self, values: Mapping[str, float]) -> float:
        """As `predict` has it."""
        shares = [g.device.product_efficiency for g in with_shares(self.cluster, values).groups]
        changed = (*shares, with_host(self.case.execution, values).host_kernel_s)
        pricing = KeptPricing(self.case, self.kept, changed, values)
        if self.case.row.is_step:
            # the peak of memory is of no interest here
            return pricing.step(self.case.plan, self.case.expert_tensor).step_s
        return predicted(self.case, pricing).time_s


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRun:
    """A run of `nebula train`: its plan, and the median time of its steps."""

    id: str
    graph: DistributedGraph
    cluster: Cluster
    plan: Plan
    measured_s: float

    @property
    def source(self) -> str:
        """All runs on one cluster are one source."""
        return f"nebula train on {self.cluster.name}"

    def touched(self, parameter: Parameter) -> bool:
        """Such steps are priced from the cluster file alone."""
        return parameter.group == "devices" and uses(self.cluster, parameter)

    def seconds(self, values: Mapping[str, float]) -> float:
        """As `evaluate` has it."""
        return evaluate(self.graph, with_shares(self.cluster, values), self.plan).step_time_s


def uses(cluster: Cluster, parameter: Parameter) -> bool:
    """Whether a cluster has a device whose efficiency the parameter is."""
    return any(g.device.name in parameter.types for g in cluster.groups)


def by_type(values: Mapping[str, float], known: Sequence[Parameter]) -> dict[str, float]:
    """The values with the efficiency of each device type under its own name."""
    spread = {f"{t}.product_efficiency": values[p.name] for p in known if p.name in values for t in p.types}
    return {**values, **spread}


def with_shares(cluster: Cluster, values: Mapping[str, float]) -> Cluster:
    """The cluster with the efficiencies among values by device type."""
    groups = tuple(
        replace(g, device=replace(g.device, product_efficiency=values[name]))
        if (name := f"{g.device.name}.product_efficiency") in values
        else g
        for g in cluster.groups
    )
    return replace(cluster, groups=groups)


def host_feature(execution: Execution) -> str:
    """The default that says what the host of an execution takes; empty where the run says it or nothing is launched."""
    if HOST not in execution.assumed or execution.compiled:
        return ""
    return next((f for f in host_features() if DEFAULTS[f][0] == execution.host_kernel_s), "")


def with_host(execution: Execution, values: Mapping[str, float]) -> Execution:
    """The execution with the default among values in the place of its own."""
    feature = host_feature(execution)
    return replace(execution, host_kernel_s=values[feature]) if feature in values else execution
