"""The peak of memory of a measured run, as its measurement counts it.

Blocks are local ones: what ranks of tensor, context and expert groups hold of a layer.
"""

from __future__ import annotations

import re
from dataclasses import replace

from nebula.cost_model.peak import Counted, Peak
from nebula.cost_model.plan_peaks import BlockOf, plan_peaks
from nebula.cost_model.runs.case import Case, sharding_of
from nebula.cost_model.runs.schema import Row
from nebula.plan.values import Plan, Sharding

COUNTED = (
    ("peak_alloc_gib", Counted.ALLOCATED),
    ("peak_mem_allocated_mb", Counted.ALLOCATED),
    ("peak_mem_gib", Counted.RESERVED),
    ("peak_mem_mib", Counted.PROCESS),
    ("peak_mem_mb", Counted.PROCESS),
    ("peak_mem_gb", Counted.PROCESS),
)
"""What a field of measured memory counts where no text says more: frameworks print GiB that they reserved, tools of the
driver MiB, MB or GB of a process."""

TEXTS = (
    (r"max(?:_memory)?_allocated|max allocated", Counted.ALLOCATED),
    (r"max(?:_memory)?_reserved|max reserved", Counted.RESERVED),
    (r"nvidia-smi|npu-smi|of the process", Counted.PROCESS),
)


def counted_of(row: Row) -> Counted:
    """What the measurement of a row counts."""
    text = f"{row.notes} {row.assumptions}".lower()
    said = next((counted for pattern, counted in TEXTS if re.search(pattern, text)), None)
    field = next((counted for name, counted in COUNTED if getattr(row.measured, name)), Counted.ALLOCATED)
    return said or field


def peaks(case: Case, block_of: BlockOf) -> tuple[Peak, ...]:
    """The peak of one rank of each group of ranks of a run, as its measurement counts it.

    Args:
        case: the run.
        block_of: local blocks for the micro-batch of the plan, by index of the graph's blocks.
    """
    return plan_peaks(
        case.graph,
        _sharded(case),
        case.execution,
        block_of,
        counted=counted_of(case.row),
        limit_bytes=case.cluster.groups[0].device.memory_bytes,
        tied_elements=case.tied_elements / case.row.tp,
        expert_tensor=case.expert_tensor,
    )


def _sharded(case: Case) -> Plan:
    """The plan with the sharding stage that the row prints, also where a single replica has nobody to share with.

    What sharding does to one replica's gradients and updates (flat copies, sums beside them) it does all the same.
    """
    level = sharding_of(case.row.zero, 2).stage
    if case.plan.stages[0].sharding.stage == level:
        return case.plan
    stages = tuple(replace(stage, sharding=Sharding(stage=level, degree=case.row.dp)) for stage in case.plan.stages)
    return replace(case.plan, stages=stages)
