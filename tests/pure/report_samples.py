"""Values built by hand that the tests of the report and the command line share: a small plan and a large one."""

from __future__ import annotations

from dataclasses import replace

from nebula.cluster.values import Cluster, DeviceType, Link, NodeGroup, Tier
from nebula.cost_model.economy import outlook
from nebula.cost_model.memory_timeline import memory_timelines
from nebula.cost_model.simulate import Event, Timeline
from nebula.graph.values import Block, DistributedGraph, Role, Tensor
from nebula.plan.conditions import Conditions
from nebula.plan.layout import uniform_stages
from nebula.plan.schedule import actions
from nebula.plan.values import (
    Job,
    MadeFrom,
    Plan,
    Prediction,
    RankPlace,
    RunnerUp,
    Sharding,
    StageMemory,
    StepParts,
)
from nebula.report.findings import Contender, Findings, Measured, Search, Step
from nebula.report.spans import Span

GIB = 2.0**30


def device(name: str, *, emulated: bool = False) -> DeviceType:
    return DeviceType(
        name=name,
        kind="npu",
        peak_flops={"float32": 1e11, "bfloat16": 4e11},
        memory_bytes=32 * GIB,
        memory_bytes_per_s=1e12,
        emulated=emulated,
    )


def cluster(*, name: str, group: str, nodes: int, devices: int, emulated: bool = False) -> Cluster:
    own = NodeGroup(
        name=group,
        count=nodes,
        device=device("Ascend-910", emulated=emulated),
        devices_per_node=devices,
        intra=Link(kind="hccs", bytes_per_s=30e9, latency_s=5e-6),
        nic=Link(kind="roce", bytes_per_s=12.5e9, latency_s=6e-6),
        nic_count=8,
    )
    tiers = (Tier(name="leaf", nodes=8), Tier(name="spine", oversubscription=2, latency_s=1e-5)) if nodes > 1 else ()
    return Cluster(name=name, groups=(own,), tiers=tiers)


def graph(name: str, universal: int) -> DistributedGraph:
    def block(kind: str) -> Block:
        weight = Tensor(name="weight", shape=(64, 64), dtype="float32", role=Role.PARAMETER)
        return Block(name=kind, rows=1, tensors=(weight,), operators=(), inputs=(), outputs=())

    names = ("embedding", *(f"universal.{i}" for i in range(universal)), *(f"nlg.{i}" for i in range(2)), "head")
    kinds = (0, *(1,) * universal, 2, 2, 3)
    return DistributedGraph(
        name=name,
        blocks=tuple(block(kind) for kind in ("Embedding", "Layer", "SmallLayer", "Head")),
        layers=kinds,
        layer_names=names,
        rows=1,
        tokens_per_row=512,
    )


def prediction(stages: int, *, memory_gib: float, step_time_s: float = 1.0) -> Prediction:
    shares = (0.55, 0.08, 0.1, 0.04, 0.08, 0.13, 0.02, 0.0)
    names = tuple(StepParts.__dataclass_fields__)
    return Prediction(
        step_time_s=step_time_s,
        interval_s=(step_time_s * 0.9, step_time_s * 1.12),
        tokens_per_s=8192 / step_time_s,
        mfu=0.34,
        parts=StepParts(**{name: share * step_time_s for name, share in zip(names, shares, strict=True)}),
        memory=tuple(
            StageMemory(
                weights_bytes=memory_gib * 0.2 * GIB,
                gradients_bytes=memory_gib * 0.2 * GIB,
                optimizer_bytes=memory_gib * 0.4 * GIB,
                activations_bytes=memory_gib * 0.15 * GIB * (1 - stage / stages),
                workspace_bytes=memory_gib * 0.05 * GIB,
                limit_bytes=32 * GIB,
            )
            for stage in range(stages)
        ),
        provenance=(("peak FLOP/s", "data sheet"), ("kernel time", "assumed"), ("links", "data sheet")),
    )


def plan(
    model: DistributedGraph,
    machine: Cluster,
    *,
    data: int,
    tensor: int,
    boundaries: tuple[int, ...],
    micro_batches: int,
    memory_gib: float = 20,
) -> Plan:
    stages = uniform_stages(
        boundaries=boundaries,
        data=data,
        tensor=tensor,
        sharding=Sharding(stage=1, degree=data) if data > 1 else Sharding(),
        micro_batch_rows=1,
    )
    per_node = machine.groups[0].devices_per_node
    world = data * tensor * (len(boundaries) - 1)
    group = machine.groups[0].name
    return Plan(
        stages=stages,
        micro_batches=micro_batches,
        schedule="1f1b",
        engine="fleet",
        ranks=tuple(RankPlace(f"{group}/{rank // per_node}", rank % per_node) for rank in range(world)),
        job=Job(global_batch=data * micro_batches, tokens=3e9),
        made_from=MadeFrom(
            model=model.name, model_hash="0123456789ab", cluster=machine.name, cluster_hash="ba9876543210"
        ),
        prediction=prediction(len(boundaries) - 1, memory_gib=memory_gib),
        because="Two stages keep the activations of a micro-batch on one device, and their bubble costs less than "
        "the gradient exchange of more replicas.",
        runner_up=RunnerUp(
            split="data 4 · tensor 1 · pipeline 1 · 2 micro-batches", step_time_s=1.09, lost_by="data communication"
        ),
        bound_s=0.93,
    )


def spans(stages: int, micro_batches: int, unit_s: float, *, stretch: float = 1.0) -> tuple[Span, ...]:
    """1F1B with equal stages, forward `unit_s` and backward twice that."""
    end: dict[tuple[str, int, int], float] = {}
    out: list[Span] = []
    lists = [list(a) for a in actions("1f1b", stages, micro_batches)]
    free = [0.0] * stages
    while any(lists):
        for stage, left in enumerate(lists):
            while left:
                kind, index, _ = left[0]
                before = (kind, stage - 1 if kind == "F" else stage + 1, index)
                if 0 <= before[1] < stages and before not in end:
                    break
                start = max(free[stage], end.get(before, 0.0))
                free[stage] = end[kind, stage, index] = start + unit_s * stretch * (1 if kind == "F" else 2)
                out.append(Span(stage, "compute", kind, index, start, free[stage]))
                left.pop(0)
    return tuple(out)


def small(*, measured: bool = False) -> Findings:
    model = graph("ernie-3.0-small", 6)
    machine = cluster(name="emulated-4", group="local", nodes=1, devices=4, emulated=True)
    chosen = plan(model, machine, data=2, tensor=1, boundaries=(0, 4, 10), micro_batches=4, memory_gib=24)
    contenders = [
        Contender(split=chosen.split, step_time_s=1.0, memory_share=0.75),
        Contender(
            split="data 4 · tensor 1 · pipeline 1", step_time_s=1.09, memory_share=0.8, lost_by="data communication"
        ),
    ]
    return Findings(
        plan=chosen,
        graph=model,
        cluster=machine,
        spans=spans(2, 4, 1 / 15),
        search=Search(
            seconds=0.8,
            candidates=180,
            contenders=tuple(contenders),
            cut=(("memory of a device", 64), ("heads divide by tensor", 36)),
        ),
        measured=run() if measured else Measured(),
    )


def run() -> Measured:
    steps = tuple(
        Step(
            step=i,
            loss=6 / (1 + i / 10) + 2,
            tokens=8192,
            predicted_s=1.0,
            took_s=1.06,
            memory_bytes=21 * GIB,
            mfu=0.32,
        )
        for i in range(1, 31)
    )
    lanes = [s._replace(lane=s.lane + 2 * half) for s in spans(2, 4, 1 / 15, stretch=1.06) for half in (0, 1)]
    return Measured(run="demo", clock="virtual", steps=steps, spans=tuple(lanes), evaluation=(("nats per token", 5.1),))


def filling(findings: Findings) -> Findings:
    """The findings with what each device holds over the step, as their made-up spans have it."""
    ordered = sorted(findings.spans, key=lambda s: (s.lane, s.start_s))
    steps = Timeline(events=tuple(Event(s.lane, s.kind, s.micro_batch, s.start_s, s.end_s) for s in ordered))
    return replace(findings, memory=memory_timelines(findings.graph, findings.cluster, findings.plan, steps))


def looking_ahead(findings: Findings, conditions: Conditions | None = None) -> Findings:
    """The findings with days, goodput, money and energy, on devices with a price and a board power."""
    (group,) = findings.cluster.groups
    priced = replace(group.device, price_per_hour=2.5, power_w=300.0, sources=(("price_per_hour", "a price list"),))
    machine = replace(findings.cluster, groups=(replace(group, device=priced),))
    ahead = outlook(findings.graph, machine, findings.plan, conditions)
    return replace(findings, cluster=machine, outlook=ahead)


def large() -> Findings:
    """1,920 devices: data 4, tensor 8, pipeline 60."""
    model = graph("ernie-3.0-titan", 56)
    machine = cluster(name="pengcheng", group="ascend", nodes=240, devices=8)
    chosen = plan(model, machine, data=4, tensor=8, boundaries=tuple(range(61)), micro_batches=128, memory_gib=28)
    return Findings(plan=chosen, graph=model, cluster=machine, spans=spans(60, 128, 1 / 600))
