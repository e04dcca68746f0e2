"""A plan that one host can run: fewer replicas, fewer micro-batches, and what that leaves unproved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd

from nebula.cluster.identity import cluster_hash
from nebula.cluster.values import Cluster
from nebula.errors import BadInput
from nebula.graph.identity import graph_hash
from nebula.graph.values import DistributedGraph
from nebula.plan.laws import shape
from nebula.plan.layout import uniform_stages
from nebula.plan.values import MadeFrom, Plan, Replica, Sharding, Stage

MOST_RANKS = 16
REPLICAS = 2
"""Of a stage that are kept where there are more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """A plan to rehearse.

    Attributes:
        plan: without prediction and reason, which were the whole plan's.
        left_out: what of the whole plan it does not show, a sentence each.
    """

    plan: Plan
    left_out: tuple[str, ...]


def folded(plan: Plan) -> Folded:
    """The plan with at most MOST_RANKS ranks and few micro-batches.

    Of a larger plan replicas go first, down to two, then to one; then ranks of tensor groups. Stages stay.

    Raises:
        BadInput: no folding brings it to that.
    """
    notes: list[str] = []
    small = _fewer_micro_batches(plan, notes)
    if small.world_size > MOST_RANKS and _foldable(small):
        small = _at_degrees(small, *_degrees(small), notes)
    if small.world_size > MOST_RANKS:
        raise BadInput(
            f"the plan has {plan.world_size} ranks, {small.world_size} when folded; a host rehearses at most "
            f"{MOST_RANKS}: plan for fewer devices, or with fewer stages"
        )
    bare = replace(small, prediction=None, because="", runner_up=None, bound_s=0.0)
    return Folded(plan=bare, left_out=tuple(notes))


def made_for(plan: Plan, graph: DistributedGraph, cluster: Cluster) -> Plan:
    """The plan in float32, for that model on that cluster."""
    origin = MadeFrom(
        model=graph.name, model_hash=graph_hash(graph), cluster=cluster.name, cluster_hash=cluster_hash(cluster)
    )
    return replace(plan, job=replace(plan.job, precision="fp32"), made_from=origin)


def alone(plan: Plan) -> Plan:
    """The same step on the first rank's device alone."""
    rows = plan.job.global_batch
    stage = Stage(
        layers=(0, plan.stages[-1].layers[1]),
        replicas=(Replica(ranks=(0,), tensor_shares=(1,), micro_batch_rows=rows),),
    )
    return replace(
        plan,
        stages=(stage,),
        micro_batches=1,
        schedule="1f1b",
        engine="serial",
        ranks=plan.ranks[:1],
        sequence_parallel=False,
    )


def _fewer_micro_batches(plan: Plan, notes: list[str]) -> Plan:
    """As many as fill the pipeline twice: from then on a schedule repeats."""
    enough = 2 * len(plan.homes)
    if plan.micro_batches <= 2 * enough:
        return plan
    notes.append(
        f"{plan.micro_batches} micro-batches were cut to {enough}, of which the steady state has its share: "
        "the bubble weighs more than in the whole step"
    )
    return _with_batch(replace(plan, micro_batches=enough))


def _foldable(plan: Plan) -> bool:
    """Whether stages and replicas are alike: degrees change for all together."""
    first = plan.stages[0]
    alike = all(shape(stage) == shape(first) for stage in plan.stages)
    kinds = {(len(r.ranks), r.micro_batch_rows) for stage in plan.stages for r in stage.replicas}
    return alike and len(kinds) == 1


def _degrees(plan: Plan) -> tuple[int, int]:
    """The data and tensor degrees at which a plan is small enough, or 1 and 1."""
    stage, room = plan.stages[0], MOST_RANKS // len(plan.homes)
    for data, tensor in ((REPLICAS, stage.tensor), (1, stage.tensor)):
        if data <= stage.data and data * tensor <= room:
            return data, tensor
    return 1, max((d for d in range(1, stage.tensor) if stage.tensor % d == 0 and d <= room), default=1)


def _at_degrees(plan: Plan, data: int, tensor: int, notes: list[str]) -> Plan:
    stages, first, homes = plan.stages, plan.stages[0], plan.homes
    sharded = first.sharding.stage if data > 1 else 0
    made = uniform_stages(
        boundaries=tuple(range(len(homes) + 1)),
        data=data,
        tensor=tensor,
        sharding=Sharding(stage=sharded, degree=data) if sharded else Sharding(),
        micro_batch_rows=first.replicas[0].micro_batch_rows,
    )
    places = {
        rank: plan.ranks[old]
        for small, held in zip(made, homes, strict=True)
        for one, other in zip(small.replicas, stages[held[0]].replicas, strict=False)
        for rank, old in zip(one.ranks, other.ranks, strict=False)
    }
    context, expert = gcd(first.context, tensor), gcd(first.expert, data * tensor)
    at = {index: small for small, held in zip(made, homes, strict=True) for index in held}
    kept = tuple(
        replace(whole, replicas=at[i].replicas, sharding=at[i].sharding, context=context, expert=expert)
        for i, whole in enumerate(stages)
    )
    notes.extend(_folding_notes(first, data, tensor, context, expert))
    sequence = plan.sequence_parallel and tensor > context
    ranks = tuple(places[rank] for rank in range(len(places)))
    return _with_batch(replace(plan, stages=kept, ranks=ranks, sequence_parallel=sequence))


def _folding_notes(stage: Stage, data: int, tensor: int, context: int, expert: int) -> Iterator[str]:
    if data < stage.data:
        ran = "one ran, so no gradient was summed" if data == 1 else f"{data} ran, and gradients were summed over them"
        yield f"of {stage.data} replicas {ran}; the simulator has all {stage.data}"
    if stage.sharding.stage and stage.sharding.degree > data:
        cut = "were not cut" if data == 1 else f"were cut in {data}"
        yield f"the states of the optimizer, sharding stage {stage.sharding.stage} over {stage.sharding.degree}, {cut}"
    for name, whole, small in (
        ("tensor", stage.tensor // stage.context, tensor // context),
        ("context", stage.context, context),
        ("expert", stage.expert, expert),
    ):
        if small < whole:
            yield f"{name} {whole} was cut to {small}: groups of {whole} did not run"


def _with_batch(plan: Plan) -> Plan:
    """The plan with the global batch that its rows and micro-batches come to."""
    rows = plan.micro_batches * sum(replica.micro_batch_rows for replica in plan.stages[0].replicas)
    return replace(plan, job=replace(plan.job, global_batch=rows))
