"""What each part of a predicted step rests on, as rows: operators by kind, communication, the optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nebula.cluster.values import NodeGroup
from nebula.report.findings import Findings

FIELDS = {
    "peak_flops": "peak FLOP/s",
    "product_efficiency": "share of it that products attain",
    "memory_bytes_per_s": "memory bandwidth",
    "memory_efficiency": "share of it that kernels attain",
    "exponentials_per_s": "rate of the special function units",
    "kernel_s": "fixed time of a kernel",
}
LINKS = "links"


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """One part of the step.

    Attributes:
        name: kind of operator, or of communication.
        step_s: of a step.
        share: of the step.
        launches: of kernels; 0 for communication.
        bound: what takes most of it.
        rests_on: what that follows from, each with where it comes from.
    """

    name: str
    step_s: float
    share: float
    launches: float
    bound: str
    rests_on: str


def basis_rows(findings: Findings) -> tuple[Basis, ...]:
    """The operators, then what is exposed of communication; empty without a prediction."""
    return tuple(_rows(findings)) if findings.plan.prediction and findings.operations else ()


def _rows(findings: Findings) -> Iterator[Basis]:
    prediction = findings.plan.prediction
    assert prediction is not None
    step_s, parts = prediction.step_time_s, prediction.parts
    for row in findings.operations:
        rests = ", ".join(f"{FIELDS[field]}: {source}" for field, source in row.rests_on)
        yield Basis(
            name=row.kind,
            step_s=row.step_s,
            share=row.step_s / step_s,
            launches=row.launches,
            bound=row.bound,
            rests_on=rests,
        )
    communication = {
        "tensor communication": parts.tensor_communication_s,
        "pipeline communication": parts.pipeline_communication_s,
        "data communication": parts.data_communication_s,
    }
    rests = link_words(findings)
    for name, seconds in communication.items():
        if seconds:
            yield Basis(name=name, step_s=seconds, share=seconds / step_s, launches=0.0, bound=LINKS, rests_on=rests)


def link_words(findings: Findings) -> str:
    """Where the rates of the links of a plan come from."""
    used = {place.node.rpartition("/")[0] for place in findings.plan.ranks}
    return ", ".join(dict.fromkeys(_link(group) for group in findings.cluster.groups if group.name in used))


def _link(group: NodeGroup) -> str:
    if group.device.emulated:
        return "rates of the cluster file: emulated"
    if group.intra.attained and group.nic.attained:
        return "rates that messages attained: measured"
    return "rates of the cluster file, share of them that collectives attain: fitted"
