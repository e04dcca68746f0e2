"""What the cost model says of a case: the time that was measured, and the peak of memory.

A case that the cost model cannot take is refused with its sentence; nothing is guessed in its place. A step whose time
has no price yet and whose memory was measured still has its peak.
"""

from __future__ import annotations

from dataclasses import dataclass

from nebula.cost_model.evaluate import Pricing
from nebula.cost_model.peak import Peak
from nebula.cost_model.runs.case import Case, Refused
from nebula.cost_model.runs.peaks import peak
from nebula.errors import BadInput
from nebula.plan.schedule import SCHEDULES


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """A prediction beside its case.

    Attributes:
        time_s: of what the case measured: a step, a layer's forward and backward, or one of the two; 0 where it has no
            price yet.
        peak_bytes: of the rank that holds most.
        peak: the same by what holds it; None where a layer alone was measured.
        unpriced: why there is no time.
    """

    case: Case
    time_s: float
    peak_bytes: float
    peak: Peak | None = None
    unpriced: str = ""


def predict(case: Case) -> Predicted | Refused:
    """The prediction of a case, or why there is none."""
    try:
        return _predicted(case)
    except BadInput as error:
        if case.row.is_step and case.measured.peak_bytes:
            return _memory_alone(case, str(error))
        return Refused(row=case.row, reason=str(error))


def _predicted(case: Case) -> Predicted:
    if case.plan.schedule not in SCHEDULES:
        raise BadInput(f"the schedule {case.plan.schedule!r} has no price yet")
    pricing = Pricing(case.graph, case.cluster, case.plan.job)
    if case.row.is_step:
        time_s = pricing.predict(case.plan).step_time_s
        found = peak(case, pricing.chains)
        return Predicted(case=case, time_s=time_s, peak_bytes=found.bytes, peak=found)
    cost = pricing.stage_costs(case.plan)[0]
    measured = case.measured
    both = measured.layer_s not in (measured.forward_s, measured.backward_s)
    time_s = cost.forward_s + cost.backward_s if both else cost.forward_s if measured.forward_s else cost.backward_s
    return Predicted(case=case, time_s=time_s, peak_bytes=cost.memory.total_bytes)


def _memory_alone(case: Case, unpriced: str) -> Predicted | Refused:
    try:
        found = peak(case)
    except BadInput as error:
        return Refused(row=case.row, reason=str(error))
    return Predicted(case=case, time_s=0.0, peak_bytes=found.bytes, peak=found, unpriced=unpriced)
