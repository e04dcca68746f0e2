"""What the cost model says of a case: the time that was measured, and the peak of memory.

A case that the cost model cannot take is refused with its sentence; nothing is guessed in its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nebula.cluster.values import Cluster
from nebula.cost_model.peak import Peak
from nebula.cost_model.products import alone, rested
from nebula.cost_model.runs.case import Case, Refused
from nebula.cost_model.runs.peaks import peaks
from nebula.cost_model.step import StageTimes, StepPricing, StepTimes
from nebula.cost_model.step_parameters import DEFAULT, StepParameters
from nebula.errors import BadInput

REPEATS = 20
"""How often a layer that is timed alone is run in a row, where a source does not say: a device that was idle before
does the first milliseconds beyond its sustained rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """A prediction beside its case.

    Attributes:
        time_s: of what the case measured: a step, a layer's forward and backward, or one of the two.
        peak_bytes: of the rank that holds most.
        peak: the same by what holds it; None where a layer alone was measured.
        step: where the time of a step goes; None where a layer alone was measured.
    """

    case: Case
    time_s: float
    peak_bytes: float
    peak: Peak | None = None
    step: StepTimes | None = None


def predict(case: Case, parameters: StepParameters = DEFAULT) -> Predicted | Refused:
    """The prediction of a case, or why there is none."""
    try:
        return predicted(case, StepPricing(case.graph, case.cluster, case.execution, parameters))
    except BadInput as error:
        return Refused(row=case.row, reason=str(error))


def predicted(case: Case, pricing: StepPricing) -> Predicted:
    """The prediction of a case with a pricing that may have its blocks already.

    Raises:
        BadInput: the plan does not fit the graph, or its schedule these numbers.
    """
    if not case.row.is_step:
        return Predicted(case=case, time_s=_layer_seconds(case, pricing), peak_bytes=0.0)
    step = pricing.step(case.plan, case.expert_tensor)
    found = max(
        peaks(case, lambda index: pricing.block(index, pricing.degrees(case.plan, case.expert_tensor))),
        key=lambda one: one.bytes,
    )
    return Predicted(case=case, time_s=step.step_s, peak_bytes=found.bytes, peak=found, step=step)


def _layer_seconds(case: Case, pricing: StepPricing) -> float:
    """Of a layer timed alone, again and again, on devices that rested before."""
    sustained = _measured_part(case, pricing.layer(case.plan))
    quick = StepPricing(
        case.graph, _rested(pricing.cluster, REPEATS * sustained), pricing.execution, pricing.parameters
    )
    return _measured_part(case, quick.layer(case.plan))


def _measured_part(case: Case, layer: StageTimes) -> float:
    measured = case.measured
    if measured.layer_s not in (measured.forward_s, measured.backward_s):
        return layer.forward_s + layer.backward_s
    return layer.forward_s if measured.forward_s else layer.backward_s


def _rested(cluster: Cluster, busy_s: float) -> Cluster:
    groups = tuple(replace(g, device=rested(alone(g.device), busy_s)) if g.device.shaped else g for g in cluster.groups)
    return replace(cluster, groups=groups)
