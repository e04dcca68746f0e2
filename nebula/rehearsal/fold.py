"""A plan that one host can run: fewer replicas, fewer micro-batches, and what that leaves unproved."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nebula.cluster.identity import cluster_hash
from nebula.cluster.values import Cluster
from nebula.errors import BadInput
from nebula.graph.identity import graph_hash
from nebula.graph.values import DistributedGraph
from nebula.plan.laws import shape
from nebula.plan.layout import FLEET, order_of, uniform_stages
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

    Raises:
        BadInput: no folding brings it to that.
    """
    notes: list[str] = []
    small = _fewer_micro_batches(plan, notes)
    if plan.world_size > MOST_RANKS:
        small = _fewer_replicas(small, notes)
    if small.world_size > MOST_RANKS:
        raise BadInput(
            f"the plan has {plan.world_size} ranks, {small.world_size} where data is cut to {REPLICAS}; a host rehearses "
            f"at most {MOST_RANKS}: plan for fewer devices with the same pipeline, or a smaller tensor degree"
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
    enough = 2 * len(plan.stages)
    if plan.micro_batches <= 2 * enough:
        return plan
    notes.append(
        f"{plan.micro_batches} micro-batches were cut to {enough}, of which the steady state has its share: "
        "the bubble weighs more than in the whole step"
    )
    return _with_batch(replace(plan, micro_batches=enough))


def _fewer_replicas(plan: Plan, notes: list[str]) -> Plan:
    stages, first = plan.stages, plan.stages[0]
    order = order_of(stages) if len(plan.homes) == len(stages) else None
    if order is None or any(shape(stage) != shape(first) for stage in stages) or first.data <= REPLICAS:
        return plan
    sharding = Sharding(stage=first.sharding.stage, degree=REPLICAS) if first.sharding.stage else Sharding()
    made = uniform_stages(
        boundaries=(*(stage.layers[0] for stage in stages), stages[-1].layers[1]),
        data=REPLICAS,
        tensor=first.tensor,
        sharding=sharding,
        micro_batch_rows=first.replicas[0].micro_batch_rows,
        order=FLEET,
    )
    places = {
        rank: plan.ranks[old]
        for small, whole in zip(made, stages, strict=True)
        for one, other in zip(small.replicas, whole.replicas, strict=False)
        for rank, old in zip(one.ranks, other.ranks, strict=True)
    }
    kept = tuple(
        replace(small, recompute=whole.recompute, context=whole.context, expert=whole.expert)
        for small, whole in zip(made, stages, strict=True)
    )
    notes.append(
        f"of {first.data} replicas {REPLICAS} ran: gradients were summed over two of them, not over {first.data}"
        + (f", and states cut in two, not in {first.sharding.degree}" if first.sharding.degree > REPLICAS else "")
    )
    return _with_batch(replace(plan, stages=kept, ranks=tuple(places[rank] for rank in range(len(places)))))


def _with_batch(plan: Plan) -> Plan:
    """The plan with the global batch that its rows and micro-batches come to."""
    rows = plan.micro_batches * sum(replica.micro_batch_rows for replica in plan.stages[0].replicas)
    return replace(plan, job=replace(plan.job, global_batch=rows))
