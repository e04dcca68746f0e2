"""Every plan of the space of `nebula plan --explore`, by loops over whole numbers, each priced by itself.

Written from docs/explore.md and the legality table; of the planner nothing is imported.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise, product
from math import inf, lcm
from typing import NamedTuple

from nebula.cluster.topology import HostShare, host_share
from nebula.cluster.values import Cluster
from nebula.cost_model.by_stage import ByStage
from nebula.cost_model.eager import paddle_execution
from nebula.cost_model.executed import plan_memory
from nebula.cost_model.step import StepPricing
from nebula.errors import BadInput
from nebula.graph.local_block import local_block
from nebula.graph.rows import block_with_rows
from nebula.graph.values import Block, DistributedGraph
from nebula.plan.schedule import device_of
from nebula.plan.values import Job, Plan, RankPlace, Replica, Sharding, Stage, StageMemory
from tests.pure.brute_cases import Case, with_memory
from tests.pure.naive_fleet import MADE_FROM, compositions, usable_nodes

POLICIES = ("none", "selective", "full")
OFFLOADS = ("none", "optimizer", "activations", "both")


class Way(NamedTuple):
    """What is decided about a plan, the deal of its layers apart; `stages` says how many lie on each type of device."""

    tensor: int
    context: int
    expert: int
    rows: int
    recompute: str
    data: int
    stages: tuple[int, ...]
    schedule: str
    chunks: int
    sharding: int
    offload: str = "none"
    fewest: bool = False
    whole: bool = False

    @property
    def cuts_sequence(self) -> bool:
        """Whether tensor groups share the sequence."""
        return self.tensor > 1 and not self.whole

    def given(self) -> dict[str, int | str]:
        """By the names that `objective.fixed` takes."""
        return {
            "data": self.data,
            "tensor": self.tensor,
            "pipeline": sum(self.stages),
            "sharding": self.sharding,
            "sharding_degree": self.data if self.sharding else 1,
            "recompute": self.recompute,
            "micro_batch_rows": self.rows,
            "schedule": self.schedule,
            "offload": self.offload,
            "sequence": int(self.cuts_sequence),
            "context": self.context,
            "expert": self.expert,
            "virtual_stages": self.chunks,
        }


class Offer(NamedTuple):
    """The devices of each type that may be used, slower nodes last, and how many the smallest node has."""

    places: tuple[tuple[RankPlace, ...], ...]
    per_node: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Devices of each type."""
        return tuple(len(places) for places in self.places)


def offer(cluster: Cluster, left_out: tuple[str, ...]) -> Offer:
    """All types in the order of the cluster."""
    found: dict[str, list[tuple[float, RankPlace]]] = {}
    nodes = list(usable_nodes(cluster, left_out))
    for group, name, slow in nodes:
        found.setdefault(group.device.name, []).extend(
            (slow, RankPlace(name, device)) for device in range(group.devices_per_node)
        )
    ordered = [sorted(places, key=lambda pair: pair[0]) for places in found.values()]
    return Offer(
        tuple(tuple(place for _, place in places) for places in ordered),
        min(group.devices_per_node for group, _, _ in nodes),
    )


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def every_way(
    graph: DistributedGraph, offered: Offer, job: Job, fixed: Mapping[str, object], allowed: Sequence[str]
) -> Iterator[Way]:
    """What numbers allow, and a user who fixed some of them."""
    contexts = [2**i for i in range(12) if i == 0 or graph.tokens_per_row / 2**i >= 512]
    for tensor in divisors(offered.per_node):
        for context in contexts:
            for expert in divisors(experts_of(graph)):
                for data in divisors(job.global_batch):
                    group = tensor * context * data
                    for stages in every_stages(group, offered.sizes, len(graph.layers)):
                        for rows in range(1, 9):
                            if group % expert or job.global_batch % (data * rows):
                                continue
                            m = job.global_batch // (data * rows)
                            for schedule, chunks in every_schedule(sum(stages), m, len(graph.layers)):
                                for recompute, offload, fewest in every_variant(allowed):
                                    for sharding in (0, 1, 2, 3) if data > 1 else (0,):
                                        way = Way(
                                            tensor,
                                            context,
                                            expert,
                                            rows,
                                            recompute,
                                            data,
                                            stages,
                                            schedule,
                                            chunks,
                                            sharding,
                                            offload,
                                            fewest,
                                        )
                                        for one in (way, way._replace(whole=True))[: 2 if tensor > 1 else 1]:
                                            if all(one.given()[name] == value for name, value in fixed.items()):
                                                yield one


def every_variant(allowed: Sequence[str]) -> Iterator[tuple[str, str, bool]]:
    """Policies, what is offloaded, and whether as few layers as fit are computed again."""
    offloads = OFFLOADS if "offload" in allowed else OFFLOADS[:1]
    for policy, offload in product(POLICIES, offloads):
        yield policy, offload, False
        if "recompute_layers" in allowed and policy != "none" and offload not in ("activations", "both"):
            yield policy, offload, True


def every_stages(group: int, sizes: tuple[int, ...], layers: int) -> Iterator[tuple[int, ...]]:
    """Stages of so many ranks on one type alone, or on several as many as each has room for."""
    room = tuple(min(size // group, layers) for size in sizes)
    for index, most in enumerate(room):
        for count in range(1, most + 1):
            yield tuple(count if i == index else 0 for i in range(len(sizes)))
    if sum(count > 0 for count in room) > 1 and sum(room) <= layers:
        yield room


def every_schedule(stages: int, micro_batches: int, layers: int) -> Iterator[tuple[str, int]]:
    """Schedules with the virtual stages on a device."""
    if stages == 1:
        yield "1f1b", 1
        return
    if micro_batches < stages:
        return
    yield "1f1b", 1
    yield "zb-h1", 1
    for chunks in range(2, 9):
        if stages * chunks <= layers:
            yield "interleaved", chunks
    if 2 * stages <= layers and micro_batches >= 2 * stages:
        yield "zb-v", 2
        yield "dualpipe-v", 2


def first_again(stage: Stage, count: int) -> Stage:
    """The stage with the first layers computed again."""
    size = stage.layers[1] - stage.layers[0]
    if not count:
        return replace(stage, recompute="none")
    return replace(stage, recompute_layers=count if count < size else 0)


def experts_of(graph: DistributedGraph) -> int:
    """Experts of a layer."""
    counts = [1]
    for block in graph.blocks:
        counts += [block.tensor(op.inputs[1]).shape[0] for op in block.operators if op.kind == "grouped_matmul"]
    return max(counts)


CUTS: dict[tuple[Block, ...], tuple[dict[tuple[int, ...], Block], ...]] = {}
"""Local blocks, by the blocks that they are cut from: they depend on neither device, job nor policy."""


def fastest_host(cluster: Cluster, device: str) -> HostShare:
    """The most that a device of a type has of its host in any node."""
    shares = [host_share(group) for group in cluster.groups if group.device.name == device]
    return HostShare(*map(max, zip(*shares, strict=True)))


class Prices:
    """Prices plans of one case one by one; what does not depend on the plan is kept."""

    def __init__(self, case: Case) -> None:
        graph, cluster = case.graph, case.cluster
        self.graph, self.job, self.offered = graph, case.job, offer(cluster, case.objective.exclude)
        healthy = replace(cluster, groups=tuple(replace(group, slow=()) for group in cluster.groups))
        self.pricings, self.healthy = (
            {policy: StepPricing(graph, on, paddle_execution(case.job, on, policy)) for policy in POLICIES}
            for on in (cluster, healthy)
        )
        self.unlike = ByStage(self.pricings)
        cuts = CUTS.setdefault(graph.blocks, ({}, {}))
        for pricing in (*self.pricings.values(), *self.healthy.values()):
            pricing._blocks, pricing._undealt = cuts
        self._groups = cluster.groups
        for pricing in self.healthy.values():
            # deals are weighed as on the hosts of a type that are fastest
            pricing.fabric._hosts = [fastest_host(cluster, group.device.name) for group in cluster.groups]
        self._layers: dict[tuple[object, ...], list[float]] = {}
        self._memory = {group.device.name: group.device.memory_bytes for group in cluster.groups}
        self._type = {group.name: group.device.name for group in cluster.groups}

    def step_s(self, plan: Plan) -> float:
        """Seconds of a step.

        Raises:
            BadInput: a degree does not divide what it has to cut.
        """
        return self.unlike.step(plan).step_s

    def fits(self, plan: Plan) -> bool:
        """Whether every device holds no more than the job may fill of it."""
        return all(self._fits(plan, stage, held) for stage, held in self._held(plan))

    def _held(self, plan: Plan) -> list[tuple[Stage, StageMemory]]:
        return list(zip(plan.stages, plan_memory(self.unlike, plan), strict=True))

    def _fits(self, plan: Plan, stage: Stage, held: StageMemory) -> bool:
        return held.total_bytes <= self.job.memory_fraction * self._room(
            plan, stage.ranks
        ) and held.host_bytes <= self.job.memory_fraction * self._host_room(plan, stage.ranks)

    def with_fewest(self, plan: Plan) -> Plan:
        """The plan with as few layers computed again as fit: on a device the same number of each virtual stage.

        All of them on a device that holds too much whatever is computed again.
        """
        for ranks in dict.fromkeys(stage.ranks for stage in plan.stages):
            sizes = [s.layers[1] - s.layers[0] for s in plan.stages if s.ranks == ranks]
            for count in range(max(sizes) + 1):
                tried = replace(
                    plan, stages=tuple(first_again(s, count) if s.ranks == ranks else s for s in plan.stages)
                )
                if all(self._fits(tried, stage, held) for stage, held in self._held(tried) if stage.ranks == ranks):
                    plan = tried
                    break
        return plan

    def _room(self, plan: Plan, ranks: tuple[int, ...]) -> float:
        names = {plan.ranks[rank].node.rpartition("/")[0] for rank in ranks}
        return min(self._memory[self._type[name]] for name in names)

    def _host_room(self, plan: Plan, ranks: tuple[int, ...]) -> float:
        """The share that each device has of its host's memory, where that is known."""
        names = {plan.ranks[rank].node.rpartition("/")[0] for rank in ranks}
        known = [g for g in self._groups if g.name in names and g.host.memory_bytes]
        return min((g.host.memory_bytes / g.devices_per_node for g in known), default=inf)

    def deal(self, way: Way) -> tuple[int, ...]:
        """The layers of each virtual stage.

        Of all deals those whose slowest virtual stage takes least, of these those whose last one holds most, and of
        these the same again for the virtual stages before it.

        Raises:
            BadInput: a degree does not divide what it has to cut.
        """
        pools = [pool for pool, count in enumerate(way.stages) for _ in range(count)]
        homes = [device_of(way.schedule, s, len(pools), way.chunks) for s in range(len(pools) * way.chunks)]
        seconds = [self.layer_seconds(way, pools[home]) for home in homes]
        taken = {}
        for counts in compositions(len(self.graph.layers), len(homes)):
            ends = [sum(counts[:i]) for i in range(len(counts) + 1)]
            taken[counts] = [sum(own[a:b]) for own, (a, b) in zip(seconds, pairwise(ends), strict=True)]
        for last in reversed(range(len(homes))):
            least = min(max(times[: last + 1]) for times in taken.values())
            taken = {c: times for c, times in taken.items() if max(times[: last + 1]) <= least * (1 + 1e-9)}
            most = max(counts[last] for counts in taken)
            taken = {counts: times for counts, times in taken.items() if counts[last] == most}
        return next(iter(taken))

    def layer_seconds(self, way: Way, pool: int) -> list[float]:
        """Both passes of every layer on the best devices of a type, all healthy, without any traffic of data."""
        key = (way[:5], way.offload, way.whole, pool)
        if key not in self._layers:
            width = way.tensor * way.context
            alone = way._replace(data=lcm(width, way.expert) // width, schedule="1f1b", chunks=1, sharding=0)
            alone = alone._replace(stages=tuple(int(i == pool) for i in range(len(way.stages))))
            pricing = self.healthy[way.recompute]
            found = {}
            for index in set(self.graph.layers):
                layer = self.graph.layers.index(index)
                plan = self.plan(alone, (1,))
                one = replace(plan, stages=(replace(plan.stages[0], layers=(layer, layer + 1)),), micro_batches=1)
                offered, size = self.offered.places[pool], one.world_size
                starts = range(0, max(1, len(offered) - size + 1), size)
                times = [pricing.layer(replace(one, ranks=offered[start : start + size])) for start in starts]
                found[index] = min(t.forward_s for t in times) + min(t.backward_s for t in times)
            self._layers[key] = [found[index] for index in self.graph.layers]
        return self._layers[key]

    def plan(self, way: Way, layers: tuple[int, ...]) -> Plan:
        """The plan with its ranks numbered pipeline, data, context, tensor from the outside in."""
        width, devices = way.tensor * way.context, sum(way.stages)
        places = [
            place
            for count, offered in zip(way.stages, self.offered.places, strict=True)
            for place in offered[: count * way.data * width]
        ]
        stages, first = [], 0
        for index, count in enumerate(layers):
            home = device_of(way.schedule, index, devices, way.chunks)
            starts = [(home * way.data + replica) * width for replica in range(way.data)]
            stages.append(
                Stage(
                    layers=(first, first + count),
                    replicas=tuple(
                        Replica(
                            ranks=tuple(range(start, start + width)),
                            tensor_shares=(1,) * width,
                            micro_batch_rows=way.rows,
                        )
                        for start in starts
                    ),
                    context=way.context,
                    expert=way.expert,
                    sharding=Sharding(stage=way.sharding, degree=way.data if way.sharding else 1),
                    recompute=way.recompute,
                    offload=way.offload,
                )
            )
            first += count
        return Plan(
            stages=tuple(stages),
            micro_batches=self.job.global_batch // (way.data * way.rows),
            schedule=way.schedule,
            engine="executor",
            ranks=tuple(places),
            job=self.job,
            made_from=MADE_FROM,
            sequence_parallel=way.cuts_sequence,
        )


class Found(NamedTuple):
    """A plan and its step time."""

    plan: Plan
    step_s: float


def binding(case: Case, ways: list[Way], seed: int) -> Case:
    """The case with devices that one of the ways fills as it is, and does not where all layers are computed again."""
    prices, rng = Prices(case), random.Random(f"binding {seed}")
    for way in rng.sample(ways, len(ways)):
        every, none = (way._replace(recompute=policy, fewest=False) for policy in ("full", "none"))
        with suppress(BadInput):
            plans = [prices.plan(each, prices.deal(each)) for each in (every, none)]
            least, most = (max(m.total_bytes for m in plan_memory(prices.unlike, plan)) for plan in plans)
            if least < 0.999 * most:
                return with_memory(case, rng.uniform(least, most) / case.job.memory_fraction)
    return case


def every_way_of(case: Case) -> list[Way]:
    """What the numbers of a case allow."""
    offered = offer(case.cluster, case.objective.exclude)
    every = every_way(case.graph, offered, case.job, case.objective.fixed, case.objective.allow)
    if case.objective.fixed.get("sequence") == 0:
        return list(every)
    # sequences stay whole only where no number of rows lets them be cut
    rows = [r for r in range(1, 9) if case.objective.fixed.get("micro_batch_rows", r) == r]
    cut: dict[tuple[int, int, int], bool] = {}
    found = []
    for way in every:
        if way.whole and way[:3] not in cut:
            cut[way[:3]] = any(cuts_sequence(case.graph, way, r) for r in rows if case.job.global_batch % r == 0)
        if not way.whole or not cut[way[:3]]:
            found.append(way)
    return found


def cuts_sequence(graph: DistributedGraph, way: Way, rows: int) -> bool:
    """Whether the sequence of every layer can be cut by the degrees of a way."""
    try:
        for block in graph.blocks:
            local_block(
                block_with_rows(block, rows),
                tensor=way.tensor,
                splits=graph.splits,
                sequence=True,
                context=way.context,
                how="gather",
                expert=way.expert,
            )
    except BadInput:
        return False
    return True


def every_plan(prices: Prices, ways: list[Way]) -> list[Found]:
    """All plans of those ways that the model can be cut for, fitting or not, fastest first."""
    found = []
    for way in ways:
        try:
            plan = prices.plan(way, prices.deal(way))
            if way.fewest:
                plan = prices.with_fewest(plan)
            found.append(Found(plan, prices.step_s(plan)))
        except BadInput:
            # a degree does not divide what it has to cut
            continue
    return sorted(found, key=lambda each: each.step_s)
