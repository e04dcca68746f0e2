"""The peak of every stage of a plan under an execution, from the local blocks of its layers.

Stages of equal ranks are virtual stages of one device, whose memory they share. What a measurement of memory counts is
said by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nebula.cost_model.activations import activations
from nebula.cost_model.execution import Execution
from nebula.cost_model.peak import Chunk, Counted, LayerLoad, Peak, Setting, layer_load, rank_peak
from nebula.graph.values import Block, DistributedGraph
from nebula.plan.schedule import alive, begun, splits_backward, waiting
from nebula.plan.values import Plan, Sharding

BlockOf = Callable[[int], Block]
"""The block of an index of the graph as one rank computes it."""


def plan_peaks(
    graph: DistributedGraph,
    plan: Plan,
    execution: Execution,
    block_of: BlockOf,
    *,
    counted: Counted,
    limit_bytes: float,
    tied_elements: float = 0.0,
    expert_tensor: int = 1,
) -> tuple[Peak, ...]:
    """The peak of one rank of each group of ranks.

    Args:
        graph: of the plan.
        plan: stages with equal degrees.
        execution: how it is run.
        block_of: local blocks for the plan's micro-batch.
        counted: what is counted.
        limit_bytes: what may be filled.
        tied_elements: of a rank's parameters, that the graph has twice.
        expert_tensor: ranks over which the width of an expert is cut.
    """
    setting = setting_of(plan, execution, counted, limit_bytes, tied_elements, expert_tensor)
    return tuple(rank_peak(chunks, setting) for chunks in plan_chunks(graph, plan, execution, block_of))


def plan_chunks(
    graph: DistributedGraph, plan: Plan, execution: Execution, block_of: BlockOf
) -> tuple[tuple[Chunk, ...], ...]:
    """The virtual stages of one rank of each group of ranks; arguments as of plan_peaks."""
    return chunks_of(plan, layer_loads(graph, execution, block_of))


def layer_loads(graph: DistributedGraph, execution: Execution, block_of: BlockOf) -> tuple[LayerLoad, ...]:
    """What each layer of the chain brings to a rank."""
    every = execution.recompute.every
    blocks = [block_of(index) for index in range(len(graph.blocks))]
    again = [_load(block, execution, again=True) for block in blocks]
    others = [_load(block, execution, again=False) for block in blocks] if every > 1 else again
    return tuple((others if place % every else again)[i] for place, i in enumerate(graph.layers))


def chunks_of(plan: Plan, loads: Sequence[LayerLoad]) -> tuple[tuple[Chunk, ...], ...]:
    """The virtual stages of one rank of each group of ranks, from what each layer of the chain brings."""
    homes = plan.homes
    return tuple(home_chunks(plan, lambda _: loads, own, home, len(homes)) for home, own in enumerate(homes))


def _load(block: Block, execution: Execution, *, again: bool) -> LayerLoad:
    return layer_load(block, activations(block, execution, again=again))


def setting_of(
    plan: Plan,
    execution: Execution,
    counted: Counted,
    limit_bytes: float,
    tied_elements: float = 0.0,
    expert_tensor: int = 1,
    index: int = 0,
) -> Setting:
    """What holds for all ranks of a stage, the first where stages have equal degrees; arguments as of plan_peaks."""
    stage = plan.stages[index]
    context, tensor = stage.context, len(stage.replicas[0].ranks) // stage.context
    level = stage.sharding.stage
    replicas = stage.data * context
    # experts are spread over the ranks that share the sequence, the rows and the tensors
    same = max(1, replicas * tensor // (stage.expert * expert_tensor))
    if execution.same_tokens(tensor=tensor, sequence=plan.sequence_parallel, expert=stage.expert):
        same = replicas
    groups = (tensor > 1, context > 1, replicas > 1, len(plan.stages) > 1, stage.expert > 1)
    return Setting(
        execution=execution,
        sharding=Sharding(stage=level, degree=stage.sharding.degree * context if level else 1),
        expert_sharding=Sharding(stage=level, degree=same if level else 1),
        replicas=replicas,
        expert_replicas=same,
        micro_batches=plan.micro_batches,
        communicators=sum(groups),
        counted=counted,
        tied_elements=tied_elements,
        limit_bytes=limit_bytes,
        offload=stage.offload,
        splits=splits_backward(plan.schedule),
    )


def home_chunks(
    plan: Plan, loads_of: Callable[[int], Sequence[LayerLoad]], own: Sequence[int], home: int, homes: int
) -> tuple[Chunk, ...]:
    """The virtual stages of a device, in the order of the chain; a folded chain does not come back after p stages.

    Args:
        plan: of the stages.
        loads_of: for the index of a stage what each layer of the chain brings to a rank that holds it.
        own: indices of the device's stages.
        home: place of the device in the pipeline.
        homes: devices of the pipeline.
    """
    numbers = (plan.schedule, homes, home, plan.micro_batches, len(own))
    found = []
    for index, flight, waits, met in zip(own, alive(*numbers), waiting(*numbers), begun(*numbers), strict=True):
        loads, (first, end) = loads_of(index), plan.stages[index].layers
        found.append(
            Chunk(
                layers=tuple(loads[first:end]),
                flight=flight,
                sends=index + 1 < len(plan.stages),
                offload=plan.stages[index].offload,
                received_bytes=loads[first - 1].output_bytes if first else 0.0,
                waiting=waits,
                begun=met,
            )
        )
    return tuple(found)
