"""The peak of memory of a measured run, as its measurement counts it.

Blocks are local ones: what ranks of tensor, context and expert groups hold of a layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from nebula.cost_model.activations import activations
from nebula.cost_model.peak import Chunk, Counted, LayerLoad, Peak, Setting, layer_load, rank_peak
from nebula.cost_model.runs.case import Case, sharding_of
from nebula.cost_model.runs.schema import Row
from nebula.graph.values import Block
from nebula.plan.schedule import alive
from nebula.plan.values import Sharding

BlockOf = Callable[[int], Block]
"""The block of an index of the graph as one rank computes it."""

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
    """The peak of one rank of each stage of ranks.

    Args:
        case: the run.
        block_of: local blocks for the micro-batch of the plan, by index of the graph's blocks.
    """
    execution, every = case.execution, case.execution.recompute.every

    def load(block: Block, *, again: bool) -> LayerLoad:
        return layer_load(block, activations(block, execution, again=again))

    blocks = [block_of(index) for index in range(len(case.graph.blocks))]
    computed_again = [load(block, again=True) for block in blocks]
    others = [load(block, again=False) for block in blocks] if every > 1 else computed_again
    loads = [(others if place % every else computed_again)[i] for place, i in enumerate(case.graph.layers)]
    ranks = len(case.plan.stages) // case.row.vpp
    setting = _setting(case)
    return tuple(rank_peak(_chunks(case, loads, stage, ranks), setting) for stage in range(ranks))


def _setting(case: Case) -> Setting:
    row = case.row
    stage = sharding_of(row.zero, 2).stage
    planned = case.plan.stages[0].sharding
    degree = (planned.degree if planned.stage else row.dp) * row.cp if stage else 1
    # experts are spread over the ranks that share the sequence, the rows and the tensors
    same = max(1, row.dp * row.cp * row.tp // (row.ep * row.etp))
    groups = (row.tp > 1, row.cp > 1, row.dp * row.cp > 1, row.pp > 1, row.ep > 1)
    return Setting(
        execution=case.execution,
        sharding=Sharding(stage=stage, degree=degree),
        expert_sharding=Sharding(stage=stage, degree=same if stage else 1),
        replicas=row.dp * row.cp,
        micro_batches=case.plan.micro_batches,
        communicators=sum(groups),
        counted=counted_of(row),
        tied_elements=case.tied_elements / row.tp,
        limit_bytes=case.cluster.groups[0].device.memory_bytes,
    )


def _chunks(case: Case, loads: list[LayerLoad], stage: int, ranks: int) -> tuple[Chunk, ...]:
    plan = case.plan
    own = range(stage, len(plan.stages), ranks)
    flights = alive(plan.schedule, ranks, stage, plan.micro_batches, len(own))
    return tuple(
        Chunk(
            layers=tuple(loads[slice(*plan.stages[index].layers)]),
            flight=flight,
            sends=index + 1 < len(plan.stages),
        )
        for index, flight in zip(own, flights, strict=True)
    )
