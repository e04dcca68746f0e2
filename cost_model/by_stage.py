"""Prices plans whose stages differ in more than their layers: recompute policy, degrees, rows of unlike replicas.

A stage is priced under the execution of its own policy; the step waits for the slowest of its replicas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nebula.cost_model.peak import LayerLoad
from nebula.cost_model.plan_peaks import layer_loads
from nebula.cost_model.step import StageTimes, StepPricing
from nebula.plan.values import Plan, RankPlace, Stage

KEPT_STAGES = 4096
"""Stages whose times are remembered."""


class ByStage(StepPricing):
    """Prices plans of one graph on one cluster, each stage under its own recompute policy.

    Args:
        pricings: by policy; their executions differ in what is computed again alone. They share the blocks that they
            cut from now on.
    """

    def __init__(self, pricings: Mapping[str, StepPricing]) -> None:
        first = next(iter(pricings.values()))
        super().__init__(first.graph, first.cluster, first.execution, first.parameters)
        self.fabric, self.pricings, self.cuts = first.fabric, pricings, first.cuts
        for pricing in pricings.values():
            pricing.fabric = first.fabric
            pricing.under = pricings
            # a cut does not depend on what is computed again
            pricing.cuts = first.cuts
        self._stages: dict[tuple[object, ...], StageTimes] = {}
        self._places: tuple[tuple[RankPlace, ...], NDArray[np.int64]] = ((), np.zeros(0, dtype=np.int64))

    def devices(self, plan: Plan) -> NDArray[np.int64]:
        """As of StepPricing; places of ranks and times of stages are remembered while plans have the same ranks."""
        if self._places[0] is not plan.ranks:
            self._places = plan.ranks, super().devices(plan)
            self._stages.clear()
        return self._places[1]

    def _stage(
        self, plan: Plan, index: int, grids: Sequence[NDArray[np.int64]], expert_tensor: int, *, alone: bool
    ) -> StageTimes:
        stage = plan.stages[index]
        behind = plan.stages[index + 1].replicas if index + 1 < len(plan.stages) else ()
        key = (stage, behind, plan.micro_batches, plan.sequence_parallel, expert_tensor, alone)
        if key not in self._stages:
            if len(self._stages) >= KEPT_STAGES:
                self._stages.clear()
            own = self.pricings[stage.recompute]
            self._stages[key] = own._stage(plan, index, grids, expert_tensor, alone=alone)
        return self._stages[key]


def held_loads(pricing: StepPricing, degrees: tuple[int, ...]) -> tuple[LayerLoad, ...]:
    """What each layer of the chain holds on a rank under degrees (rows, tensor, sequence, context, expert, ...)."""
    if degrees not in pricing.held:
        pricing.held[degrees] = layer_loads(
            pricing.graph, pricing.execution, lambda index: pricing.block(index, degrees)
        )
    return pricing.held[degrees]


def loads_of(pricing: StepPricing, stage: Stage, degrees: tuple[int, ...]) -> tuple[LayerLoad, ...]:
    """The same of a stage, each layer under its own policy where the pricing knows several."""
    found = held_loads(under(pricing, stage), degrees)
    if isinstance(pricing, ByStage):
        for policy, first, end in stage.policy_runs[1:]:
            found = (*found[:first], *held_loads(pricing.pricings[policy], degrees)[first:end], *found[end:])
    return found


def under(pricing: StepPricing, stage: Stage) -> StepPricing:
    """What prices a stage: the pricing of its policy where there are several."""
    return pricing.pricings[stage.recompute] if isinstance(pricing, ByStage) else pricing
