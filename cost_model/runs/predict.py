"""What the cost model says of a case: the time that was measured, and the peak of memory.

A case that the cost model cannot take is refused with its sentence; nothing is guessed in its place.
"""

from __future__ import annotations

from dataclasses import dataclass

from nebula.cost_model.evaluate import Pricing
from nebula.cost_model.runs.case import Case, Refused
from nebula.errors import BadInput
from nebula.plan.schedule import SCHEDULES


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """A prediction beside its case.

    Attributes:
        time_s: of what the case measured: a step, a layer's forward and backward, or one of the two.
        peak_bytes: of the rank that holds most.
    """

    case: Case
    time_s: float
    peak_bytes: float


def predict(case: Case) -> Predicted | Refused:
    """The prediction of a case, or why there is none."""
    try:
        return _predicted(case)
    except BadInput as error:
        return Refused(row=case.row, reason=str(error))


def _predicted(case: Case) -> Predicted:
    if case.plan.schedule not in SCHEDULES:
        raise BadInput(f"the schedule {case.plan.schedule!r} has no price yet")
    pricing = Pricing(case.graph, case.cluster, case.plan.job)
    if case.row.is_step:
        prediction = pricing.predict(case.plan)
        peak_bytes = max(stage.total_bytes for stage in prediction.memory)
        return Predicted(case=case, time_s=prediction.step_time_s, peak_bytes=peak_bytes)
    cost = pricing.stage_costs(case.plan)[0]
    measured = case.measured
    both = measured.layer_s not in (measured.forward_s, measured.backward_s)
    time_s = cost.forward_s + cost.backward_s if both else cost.forward_s if measured.forward_s else cost.backward_s
    return Predicted(case=case, time_s=time_s, peak_bytes=cost.memory.total_bytes)
