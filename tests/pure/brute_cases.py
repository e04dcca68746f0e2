"""Random small models, clusters and jobs on which every plan can be tried: by a seed, so that a case comes back."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol, TypeVar

from nebula.cluster.values import Cluster, DeviceType, Host, Link, NodeGroup, Site, Tier
from nebula.cost_model.peak import COMMUNICATOR_BYTES, CONTEXT_BYTES
from nebula.graph.values import DistributedGraph
from nebula.models.decoders import DecoderConfig
from nebula.models.decoders_parts import Experts
from nebula.models.describe import decoder_graph
from nebula.plan.job import Objective
from nebula.plan.values import Job
from tests.pure.cost_samples import chain, device
from tests.pure.decoder_samples import GROUPED, MIXED


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One problem."""

    graph: DistributedGraph
    cluster: Cluster
    job: Job
    objective: Objective

    def __str__(self) -> str:
        groups = [
            f"{g.count}x{g.devices_per_node} {g.device.name} of {g.device.memory_bytes:.3g} B"
            f" out {sorted(g.excluded)} slow {dict(g.slow)}"
            for g in self.cluster.groups
        ]
        return f"{self.graph.name} of {len(self.graph.layers)} layers on {groups}, {self.job}, {self.objective}"


class Decided(Protocol):
    """What is decided about a plan."""

    def given(self) -> dict[str, int | str]:
        """By the names that `objective.fixed` takes."""
        ...


Chosen = TypeVar("Chosen", bound=Decided)


@cache
def model(kind: str, layers: int, dtype: str) -> DistributedGraph:
    """A model of `layers` layers in all, from 2 on; made once."""
    if kind == "unlike":
        wide = tuple(i for i in range(layers) if i % 3 == 1)
        return chain(layers, hidden=32, tokens=64, wide=wide)
    shape = replace(MIXED if kind == "experts" else GROUPED, layers=max(1, layers - 2), tied=kind == "tied")
    return decoder_graph(kind, shape, dtype=dtype)


def types(rng: random.Random, count: int, room_bytes: float) -> list[DeviceType]:
    """So many device types, none like another; memory around what the model needs in all."""
    kind = rng.choice(("npu", "npu", "gpu", "cpu"))
    made = []
    for index in range(count):
        made.append(
            device(
                name=f"type{index}",
                kind=kind,
                emulated=kind == "npu",
                peak_flops={"float32": 10 ** rng.uniform(10.5, 13)},
                memory_bytes=room_bytes * 10 ** rng.uniform(-0.7, 0.8),
                memory_bytes_per_s=10 ** rng.uniform(9.5, 11.5),
                kernel_s=rng.choice((0.0, 1e-6, 2e-5)),
                product_efficiency=rng.uniform(0.4, 1.0),
                price_per_hour=rng.uniform(1.0, 4.0),
                power_w=rng.uniform(100.0, 500.0),
            )
        )
    return made


def group(rng: random.Random, name: str, kind: DeviceType, sizes: tuple[int, ...], most: int) -> NodeGroup:
    """Nodes of one size, some of them out of use or slow."""
    size = rng.choice([s for s in sizes if s <= most])
    count = rng.randint(1, min(4, most // size))
    out = frozenset(n for n in range(1, count) if rng.random() < 0.15)
    slow = tuple((n, rng.uniform(1.1, 3.0)) for n in range(count) if rng.random() < 0.2)
    return NodeGroup(
        name=name,
        count=count,
        device=kind,
        devices_per_node=size,
        intra=Link(kind="bus", bytes_per_s=10 ** rng.uniform(8.5, 11.5), latency_s=rng.choice((0.0, 1e-6, 1e-5))),
        nic=Link(kind="wire", bytes_per_s=10 ** rng.uniform(7.5, 10.5), latency_s=rng.choice((0.0, 5e-6, 2e-5))),
        nic_count=rng.choice((1, size)),
        excluded=out,
        slow=slow,
    )


TIERS = (
    (),
    (Tier(name="leaf", nodes=2, latency_s=1e-6), Tier(name="spine", oversubscription=2.0)),
    (Tier(name="leaf", nodes=1, latency_s=1e-6), Tier(name="spine", oversubscription=4.0, latency_s=2e-5)),
)
"""Flat, and two trees."""


def network(rng: random.Random, kinds: list[DeviceType], sizes: tuple[int, ...], most: int) -> Cluster:
    """One to three groups of nodes, each on a device type drawn anew, in all of at most so many devices."""
    names = ("a", "b", "c")[: rng.choice((1, 2, 2, 3))]
    drawn = [kinds[i % len(kinds)] if rng.random() < 0.5 else rng.choice(kinds) for i in range(len(names))]
    groups = tuple(group(rng, name, kind, sizes, most // len(names)) for name, kind in zip(names, drawn, strict=True))
    return Cluster(name="small", groups=groups, tiers=rng.choice(TIERS))


def room_bytes(graph: DistributedGraph) -> float:
    """About what a whole model needs on one device: states and one row's activations."""
    return 16.0 * graph.parameter_count + sum(graph.block_of(i).saved_bytes for i in range(len(graph.layers)))


ORDER = ("recompute", "sharding", "micro_batch_rows", "pipeline", "tensor", "data")


def wish(rng: random.Random, name: str, layers: int, batch: int) -> int | str:
    """A value that a user might fix for a degree; not all of them can be."""
    divisors = [d for d in range(1, batch + 1) if batch % d == 0]
    some: dict[str, list[int | str]] = {
        "recompute": ["none", "selective", "full"],
        "sharding": [0, 1, 2, 3],
        "micro_batch_rows": list(divisors),
        "pipeline": list(range(1, min(4, layers) + 1)),
        "tensor": [1, 2, 4, 3],
        "data": list(divisors),
    }
    return rng.choice(some[name])


def fleet_case(seed: int, most_devices: int = 8) -> Case:
    """A case of `nebula plan`."""
    rng = random.Random(seed)
    kind = rng.choice(("unlike", "dense", "tied", "experts"))
    graph = model(kind, rng.randint(3 if kind != "unlike" else 2, 8), rng.choice(("float32", "bfloat16")))
    kinds = types(rng, rng.choice((1, 2, 2)), room_bytes(graph))
    cluster = network(rng, kinds, (1, 2, 2, 3, 4, 8), most_devices)
    job = Job(
        global_batch=rng.choice((1, 2, 3, 4, 6, 8)),
        precision=rng.choice(("fp32", "fp32", "bf16")),
        optimizer=rng.choice(("adamw", "adamw", "sgd")),
        memory_fraction=rng.choice((0.92, 0.5, 1.0)),
    )
    names = [name for name in ORDER if rng.random() < 0.06]
    fixed = {name: wish(rng, name, len(graph.layers), job.global_batch) for name in names}
    objective = Objective(fixed=fixed, exclude=left_out(rng, cluster))
    return beside_processes(rng, Case(graph=graph, cluster=cluster, job=job, objective=objective))


def beside_processes(rng: random.Random, case: Case) -> Case:
    """The case with as much more memory on GPUs as a process with up to three communicators holds there."""
    process_bytes = CONTEXT_BYTES + rng.randint(0, 3) * COMMUNICATOR_BYTES
    more_bytes = process_bytes / case.job.memory_fraction
    groups = (
        replace(g, device=replace(g.device, memory_bytes=g.device.memory_bytes + more_bytes * (g.device.kind == "gpu")))
        for g in case.cluster.groups
    )
    return replace(case, cluster=replace(case.cluster, groups=tuple(groups)))


def long_case(seed: int, layers: int) -> Case:
    """A case of a chain of unlike layers on devices of one type, at least one for every other layer."""
    rng = random.Random(f"long {seed}")
    wide = tuple(i for i in range(layers) if rng.random() < 0.4)
    graph = chain(layers, hidden=32, tokens=rng.choice((16, 64, 256)), wide=wide)
    (kind,) = types(rng, 1, 4 * room_bytes(graph) / layers)
    node = group(rng, "a", kind, (1, 2, 4), 4)
    on = Cluster(name="small", groups=(replace(node, count=layers, excluded=frozenset()),), tiers=rng.choice(TIERS))
    job = Job(global_batch=rng.choice((4, 6, 8, 12)))
    return beside_processes(rng, Case(graph=graph, cluster=on, job=job, objective=Objective()))


def wan_case(seed: int) -> Case:
    """A case on two sites with a WAN between them and devices of one type on both."""
    rng = random.Random(f"wan {seed}")
    case = fleet_case(seed)
    (kind,) = types(rng, 1, room_bytes(case.graph))
    kind = replace(kind, kind="gpu", emulated=False, memory_bytes=2 * kind.memory_bytes)
    groups = tuple(group(rng, name, kind, (1, 2, 2, 4), 4) for name in ("a", "b"))
    sites = tuple(Site(name=f"site {each.name}", groups=(each.name,)) for each in groups)
    wan = Link(kind="wan", bytes_per_s=10 ** rng.uniform(6.5, 9), latency_s=rng.choice((1e-4, 1e-3, 1e-2)))
    on = Cluster(name="two sites", groups=groups, tiers=rng.choice(TIERS), sites=sites, wan=wan)
    return beside_processes(rng, replace(case, cluster=on, objective=Objective()))


def left_out(rng: random.Random, cluster: Cluster) -> tuple[str, ...]:
    """Now and then a node or a group that the objective leaves out; never all."""
    if rng.random() < 0.8:
        return ()
    if len(cluster.groups) > 1:
        return (rng.choice((cluster.groups[-1].name, f"{cluster.groups[-1].name}/0")),)
    return (f"{cluster.groups[0].name}/{cluster.groups[0].count - 1}",) if cluster.groups[0].count > 1 else ()


WIDE = DecoderConfig(style="llama", layers=1, hidden=1024, heads=8, kv_heads=8, ffn=4096, vocabulary=16384, seq_len=256)
"""Large enough that its memory counts beside that of a process."""

FEW = Experts(count=4, top_k=2, ffn=2048, shared=1)


@cache
def wide_model(layers: int, tokens: int, experts: bool) -> DistributedGraph:
    """A decoder of `layers` layers in all; made once."""
    shape = replace(WIDE, layers=layers - 2, seq_len=tokens, **({"experts": FEW} if experts else {}))
    return decoder_graph("experts" if experts else "dense", shape, dtype="bfloat16")


def explored_case(seed: int, most_devices: int = 6) -> Case:
    """A case of `nebula plan --explore`."""
    rng = random.Random(f"explore {seed}")
    graph = wide_model(rng.randint(3, 7), rng.choice((256, 1024, 1024)), rng.random() < 0.4)
    needed = room_bytes(graph)
    kinds = [
        replace(
            kind,
            peak_flops={"float32": 10 ** rng.uniform(12.5, 13.5), "bfloat16": 10 ** rng.uniform(13, 14.5)},
            memory_bytes_per_s=10 ** rng.uniform(11, 12.5),
            memory_bytes=(0.0 if kind.emulated else 2.5 * CONTEXT_BYTES) + needed * 10 ** rng.uniform(-0.9, 0.4),
        )
        for kind in types(rng, rng.choice((1, 2, 2)), needed)
    ]
    cluster = network(rng, kinds, (1, 2, 2, 4), most_devices)
    job = Job(
        global_batch=rng.choice((1, 2, 3, 4, 6, 8)),
        precision="bf16",
        optimizer=rng.choice(("adamw", "sgd")),
        memory_fraction=rng.choice((0.92, 1.0)),
    )
    return Case(graph=graph, cluster=cluster, job=job, objective=Objective(exclude=left_out(rng, cluster)))


def uneven_case(seed: int, most_devices: int = 8) -> Case:
    """A case of it whose sequence some tensor degrees do not divide."""
    rng = random.Random(f"uneven {seed}")
    case = explored_case(seed, most_devices)
    graph = wide_model(rng.randint(3, 7), rng.choice((255, 258, 1026)), rng.random() < 0.4)
    return replace(case, graph=graph)


def offloaded_case(seed: int, most_devices: int = 6) -> Case:
    """A case of it that allows offload, with links to hosts that are slow or fast, some of them of little memory."""
    rng = random.Random(f"offload {seed}")
    case = explored_case(seed, most_devices)
    # as fast as copies that take about as long as computing, and much slower or faster ones
    rates = {group.device.name: 10 ** rng.uniform(9, 12) for group in case.cluster.groups}
    room = room_bytes(case.graph) * 10 ** rng.uniform(-1.5, 0.5)
    groups = (
        replace(
            group,
            device=replace(group.device, host_bytes_per_s=rates[group.device.name]),
            host=Host(
                memory_bytes=rng.choice((0.0, room)),
                memory_bytes_per_s=10 ** rng.uniform(10, 12),
                links=rng.choice((0, 1)),
            ),
        )
        for group in case.cluster.groups
    )
    objective = replace(case.objective, allow=("offload",))
    return replace(case, cluster=replace(case.cluster, groups=tuple(groups)), objective=objective)


def partly_recomputed_case(seed: int, most_devices: int = 6) -> Case:
    """A case that allows some layers of a stage to be computed again; most ask for a policy, some allow offload."""
    rng = random.Random(f"partly {seed}")
    case = offloaded_case(seed, most_devices) if rng.random() < 0.3 else explored_case(seed, most_devices)
    fixed = {"recompute": rng.choice(("full", "full", "selective"))} if rng.random() < 0.7 else {}
    objective = replace(case.objective, allow=(*case.objective.allow, "recompute_layers"), fixed=fixed)
    return replace(case, objective=objective)


def with_memory(case: Case, memory_bytes: float) -> Case:
    """The case with so much memory on every device."""
    groups = (replace(g, device=replace(g.device, memory_bytes=memory_bytes)) for g in case.cluster.groups)
    return replace(case, cluster=replace(case.cluster, groups=tuple(groups)))


def narrowed(case: Case, seed: int, most: int, every: Callable[[Case], list[Chosen]]) -> tuple[Case, list[Chosen]]:
    """The case with as many degrees fixed, to those of some plan of it, as it takes for at most so many plans.

    Args:
        every: what the numbers allow in a case.

    Returns:
        The case, and what the numbers allow in it.
    """
    rng = random.Random(f"narrow {seed}")
    while len(chosen := every(case)) > most:
        some, fixed = rng.choice(chosen).given(), dict(case.objective.fixed)
        name = rng.choice(sorted(set(some) - set(fixed)))
        case = replace(case, objective=replace(case.objective, fixed={**fixed, name: some[name]}))
    return case, chosen
