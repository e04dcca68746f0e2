"""The prediction of a plan under any execution: its step by parts that sum to it, memory, range and provenance.

For plans that fleet does not run as fleet.py prices it: interleaved and zero-bubble schedules, context and expert
parallelism, or a software stack of which the caller says what it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nebula.cluster.values import Cluster
from nebula.cost_model.by_stage import loads_of
from nebula.cost_model.confidence import provenance, run_interval
from nebula.cost_model.execution import Execution
from nebula.cost_model.fleet import mean_over_ranks
from nebula.cost_model.offload import holds_states
from nebula.cost_model.peak import Chunk, LayerLoad, counted_on, rank_peak
from nebula.cost_model.plan_peaks import home_chunks, setting_of
from nebula.cost_model.simulate import Durations, Event, Sends, Timeline, end_of, tail_events, timeline
from nebula.cost_model.step import StageTimes, StepPricing, StepTimes, degrees_of_stage
from nebula.cost_model.step_parameters import StepParameters
from nebula.graph.values import DistributedGraph
from nebula.plan.values import Plan, Prediction, Stage, StageMemory, StepParts


def predict_executed(
    graph: DistributedGraph,
    cluster: Cluster,
    plan: Plan,
    execution: Execution,
    *,
    expert_tensor: int = 1,
    parameters: StepParameters | None = None,
) -> Prediction:
    """The prediction of a plan as an execution carries it out.

    Raises:
        BadInput: the plan does not fit the graph or the cluster, or its schedule these numbers.
    """
    return predict_priced(StepPricing(graph, cluster, execution, parameters), plan, expert_tensor)


def predict_priced(pricing: StepPricing, plan: Plan, expert_tensor: int = 1) -> Prediction:
    """The same by a pricing that may know layers of the plan already.

    Raises:
        BadInput: as of predict_executed.
    """
    graph, cluster, execution = pricing.graph, pricing.cluster, pricing.execution
    step = pricing.step(plan, expert_tensor)
    devices = pricing.devices(plan)
    types = pricing.fabric.device_types(devices)
    rows = plan.micro_batches * sum(r.micro_batch_rows for r in plan.stages[0].replicas)
    flops = rows * (graph.forward_flops + graph.backward_flops) / graph.rows
    offloads = any(stage.offload != "none" for stage in plan.stages)
    peak_flops = pricing.fabric.total(devices, lambda device: device.peak(execution.compute_dtype))
    return Prediction(
        step_time_s=step.step_s,
        interval_s=run_interval(step.step_s, cluster, execution),
        tokens_per_s=rows * graph.tokens_per_row / step.step_s,
        mfu=flops / (peak_flops * step.step_s),
        parts=step_parts(pricing, plan, step),
        memory=plan_memory(pricing, plan, expert_tensor),
        provenance=provenance(types, more=("host_bytes_per_s",) if offloads else ()),
        computing_s=mean_over_ranks(
            plan, [_computing_s(plan, stage, times) for stage, times in zip(plan.stages, step.stages, strict=True)]
        ),
    )


def _computing_s(plan: Plan, stage: Stage, times: StageTimes) -> float:
    """Of a step in which the devices of a stage run kernels; an update on the host is none of them."""
    updating_s = 0.0 if holds_states(stage.offload) else times.update_s
    return plan.micro_batches * (sum(times.compute_s) + times.again_s) + updating_s


def executed_timeline(pricing: StepPricing, plan: Plan) -> Timeline:
    """The events of one step of a plan as an execution carries it out, device by device of its pipeline.

    Raises:
        BadInput: the plan does not fit the graph or the cluster, or its schedule these numbers.
    """
    stages = pricing.step(plan).stages
    homes = plan.homes
    forward, backward, send, back = (tuple(each.tolist()) for each in pricing.durations(stages))
    durations = Durations(
        forward_s=forward,
        backward_s=backward,
        send_forward_s=send,
        send_backward_s=back,
        weight_s=tuple(min(s.weight_s, s.backward_s) for s in stages),
        sends=Sends.BESIDE,
    )
    passes = timeline(durations, plan.schedule, plan.micro_batches, len(stages) // len(homes))
    events: list[Event] = []
    ends = np.array([end_of(own) for own in passes.by_stage()])
    waits = pricing.tied_ends(plan, ends, pricing.devices(plan)) - ends
    for place, (indices, own) in enumerate(zip(homes, passes.by_stage(), strict=True)):
        held = [stages[index] for index in indices]
        turns = min(len(homes), plan.micro_batches)
        sync_s = float(waits[place]) + pricing.sync_seconds(held, turns)
        events += [*own, *tail_events(own, place, sync_s, sum(s.update_s for s in held))]
    return Timeline(events=tuple(events))


def executed_kept(pricing: StepPricing, plan: Plan) -> tuple[tuple[float, ...], ...]:
    """For each device of the pipeline what one micro-batch keeps on each of its virtual stages, in bytes.

    Of replicas with unlike rows the one with most counts.

    Raises:
        BadInput: the plan does not fit the graph or the cluster.
    """
    homes = plan.homes
    return tuple(
        tuple(
            chunk.kept_bytes
            for chunk in _chunks(pricing, plan, own, home, len(homes), _most_rows(plan.stages[own[0]]), 1)
        )
        for home, own in enumerate(homes)
    )


def _most_rows(stage: Stage) -> int:
    return max(replica.micro_batch_rows for replica in stage.replicas)


def _chunks(
    pricing: StepPricing, plan: Plan, own: Sequence[int], home: int, homes: int, rows: int, expert_tensor: int
) -> tuple[Chunk, ...]:
    """The virtual stages of a device, for replicas with micro-batches of so many rows."""

    def loads(index: int) -> tuple[LayerLoad, ...]:
        stage = plan.stages[index]
        return loads_of(pricing, stage, degrees_of_stage(plan, stage, rows, expert_tensor))

    return home_chunks(plan, loads, own, home, homes)


def step_parts(pricing: StepPricing, plan: Plan, step: StepTimes) -> StepParts:
    """Where the time of a step goes on its busiest device; what waits, and the host, are bubble."""
    m = plan.micro_batches
    each = [[step.stages[index] for index in own] for own in plan.homes]
    busy = max(each, key=lambda own: sum(t.forward_s + t.backward_s for t in own))
    turns = min(len(each), m)
    borderless_s = pricing.step_of(plan, step.stages, borders=0.0).step_s if len(plan.stages) > 1 else step.step_s
    compute_s, again_s, inner_s, sharded_s, copies_s = (
        m * sum(values)
        for values in zip(
            *(
                (sum(t.compute_s), t.again_s, t.tensor_s + t.context_s + t.expert_s, t.sharded_s, t.offload_s)
                for t in busy
            ),
            strict=True,
        )
    )
    data_s = sharded_s + pricing.sync_seconds(busy, turns)
    update_s = sum(t.update_s for t in busy)
    return StepParts(
        compute_s=compute_s,
        recompute_s=again_s,
        tensor_communication_s=inner_s,
        pipeline_communication_s=step.step_s - borderless_s,
        data_communication_s=data_s,
        bubble_s=borderless_s - compute_s - again_s - inner_s - data_s - update_s - copies_s,
        optimizer_s=update_s,
        offload_s=copies_s,
    )


def plan_memory(pricing: StepPricing, plan: Plan, expert_tensor: int = 1) -> tuple[StageMemory, ...]:
    """What a process holds on the fullest rank of every stage; virtual stages of one device share its memory.

    Of replicas that differ in rows or in the memory of their devices the one nearest to its limit counts.

    Raises:
        BadInput: the plan does not fit the graph or the cluster.
    """
    devices, homes = pricing.devices(plan), plan.homes
    counted = counted_on(pricing.cluster)
    found: dict[int, StageMemory] = {}
    for home, own in enumerate(homes):
        setting = setting_of(plan, pricing.execution, counted, 0.0, expert_tensor=expert_tensor, index=own[0])
        peaks = []
        for rows, ranks in _by_rows(plan.stages[own[0]]).items():
            chunks = _chunks(pricing, plan, own, home, len(homes), rows, expert_tensor)
            least_bytes = min(t.memory_bytes for t in pricing.fabric.device_types(devices[ranks]))
            host_bytes = pricing.fabric.host(devices[ranks]).memory_bytes
            peaks.append(
                replace(
                    rank_peak(chunks, setting).memory,
                    limit_bytes=plan.job.memory_fraction * least_bytes,
                    host_limit_bytes=plan.job.memory_fraction * host_bytes if math.isfinite(host_bytes) else 0.0,
                )
            )
        found |= dict.fromkeys(own, max(peaks, key=lambda held: held.share))
    return tuple(found[index] for index in range(len(plan.stages)))


def _by_rows(stage: Stage) -> dict[int, list[int]]:
    """The ranks of replicas by the rows of their micro-batches."""
    found: dict[int, list[int]] = {}
    for replica in stage.replicas:
        found.setdefault(replica.micro_batch_rows, []).extend(replica.ranks)
    return found
