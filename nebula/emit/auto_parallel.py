"""A plan as Paddle's semi-automatic parallelism takes it: a ProcessMesh per stage, placements of every parameter.

Stages may differ, for each has a mesh of its own; the replicas of one stage may not. The cut that ZeRO makes is not in
the placements: paddle.distributed.ShardingStage1 to 3 make it along the axis `sharding`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nebula.emit.expressible import require
from nebula.emit.values import Decided, Emitted, Options
from nebula.graph.distribution import Distribution
from nebula.graph.spmd.splits import annotate
from nebula.graph.values import Block, DistributedGraph, Tensor
from nebula.plan import engines
from nebula.plan.files import render
from nebula.plan.legality import Case
from nebula.plan.values import Plan, Stage

AXES = ("dp", "sharding", "mp")
"""Of every stage's mesh, the last fastest; stages are the pipeline."""

_TENSOR = AXES.index("mp")


def emit(decided: Decided, options: Options) -> Emitted:
    """Meshes and placements as JSON.

    Raises:
        BadInput: replicas of a stage differ, or the plan has an axis that this format has not.
    """
    del options
    plan, graph = decided.plan, decided.graph
    require("auto-parallel", plan, _rectangular, engines.no_context, engines.no_experts)
    stages = [_stage(graph, plan, stage) for stage in plan.stages]
    first = plan.stages[0]
    document = {
        "model": graph.name,
        "micro_batches": plan.micro_batches,
        "schedule": plan.schedule,
        "sequence_parallel": plan.sequence_parallel,
        "sharding": {"stage": first.sharding.stage, "axis": "sharding"},
        "stages": stages,
    }
    return Emitted(text=render(document) + "\n", document=document, notes=_notes(stages))


def placements(lies: Distribution, axis: int = _TENSOR, axes: int = len(AXES)) -> list[str]:
    """The placements of a tensor whose distribution is on a mesh of one axis, which is `axis` of `axes`.

    Raises:
        AssertionError: the mesh has several axes.

    Example:
        >>> from nebula.graph.distribution import Mesh
        >>> placements(Distribution(mesh=Mesh(shape=(2,), axes=("tensor",)), dims_mapping=(-1, 0)))
        ['Replicate()', 'Replicate()', 'Shard(1)']
    """
    assert len(lies.mesh.shape) == 1, lies.mesh
    out = ["Replicate()"] * axes
    if 0 in lies.partial:
        out[axis] = "Partial()"
    elif 0 in lies.dims_mapping:
        out[axis] = f"Shard({lies.dims_mapping.index(0)})"
    return out


def _stage(graph: DistributedGraph, plan: Plan, stage: Stage) -> dict[str, Any]:
    degree = stage.sharding.degree
    known: dict[int, dict[str, dict[str, Any]]] = {}
    for block in {graph.layers[layer] for layer in range(*stage.layers)}:
        known[block] = dict(_parameters(graph, graph.blocks[block], stage.tensor, sequence=plan.sequence_parallel))
    return {
        "mesh": {
            "shape": [stage.data // degree, degree, stage.tensor],
            "dim_names": list(AXES),
            "process_ids": list(stage.ranks),
        },
        "layers": list(graph.layer_names[slice(*stage.layers)]),
        "micro_batch_size": stage.replicas[0].micro_batch_rows,
        "recompute": stage.recompute,
        "recompute_layers": stage.recompute_layers,
        "parameters": {
            f"{graph.layer_names[layer]}.{name}": entry
            for layer in range(*stage.layers)
            for name, entry in known[graph.layers[layer]].items()
        },
    }


def _parameters(
    graph: DistributedGraph, block: Block, degree: int, *, sequence: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and entry of each parameter of a block."""
    lies = annotate(block, degree, graph.splits, sequence=sequence) if degree > 1 else {}
    for parameter in block.parameters:
        yield parameter.name, _entry(parameter, lies.get(parameter.name))


def _entry(parameter: Tensor, lies: Distribution | None) -> dict[str, Any]:
    """Shape and placements; `blocks` where a fused dim is cut inside each of its blocks."""
    placed = placements(lies) if lies else ["Replicate()"] * len(AXES)
    entry: dict[str, Any] = {"shape": list(parameter.shape), "placements": placed}
    if lies and lies.blocks:
        entry["blocks"] = max(lies.blocks)
    return entry


def _rectangular(case: Case) -> Iterator[str]:
    """Inside a stage all replicas are equal, and so is the sharding of all stages."""
    for index, stage in enumerate(case.plan.stages):
        alone = Case(plan=_alone(case.plan, stage), layers=case.layers)
        for sentence in engines.alike(alone):
            yield sentence.replace("stage 0", f"stage {index}").replace("fleet needs", "a mesh needs")
        if stage.sharding.stage != case.plan.stages[0].sharding.stage:
            first = case.plan.stages[0].sharding.stage
            yield f"sharding stage {stage.sharding.stage} in stage {index} and {first} in stage 0: it has one for all"


def _alone(plan: Plan, stage: Stage) -> Plan:
    return replace(plan, stages=(stage,))


def _notes(stages: list[dict[str, Any]]) -> tuple[str, ...]:
    """What Shard cannot say: a fused dim is cut inside each of the tensors that it holds."""
    fused = [name for stage in stages for name, entry in stage["parameters"].items() if "blocks" in entry]
    if not fused:
        return ()
    told = f"{fused[0]} and {len(fused) - 1} more fuse" if len(fused) > 1 else f"{fused[0]} fuses"
    return (
        f"{told} several tensors in one dim (`blocks`), and a rank takes its part of each: interleave them by head "
        "before shard_tensor, as Paddle's fused layers do",
    )
