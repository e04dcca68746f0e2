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

    Of a larger plan replicas go first, down to two, then to one; then ranks of tensor groups. Stages stay. Where stages
    are unlike, replicas go by alike parts: those of each stage that train the same rows.

    Raises:
        BadInput: no folding brings it to that.
    """
    notes: list[str] = []
    small = _fewer_micro_batches(plan, notes)
    if small.world_size > MOST_RANKS:
        small = _narrower(small, notes)
    if small.world_size > MOST_RANKS:
        raise BadInput(
            f"the plan has {plan.world_size} ranks, {small.world_size} when folded; a host rehearses at most "
            f"{MOST_RANKS}: plan for fewer devices, or with fewer stages"
        )
    bare = replace(small, prediction=None, because="", runner_up=None, bound_s=0.0)
    return Folded(plan=bare, left_out=tuple(notes))


def parts_of(plan: Plan) -> int:
    """Into how many parts the replicas of every stage fall that are alike and never meet at a border."""
    most = gcd(*(len(stage.replicas) for stage in plan.stages))
    return max(n for n in range(1, most + 1) if most % n == 0 and all(_repeats(stage, n) for stage in plan.stages))


def at_parts(plan: Plan, parts: int, whole: int, tensor: int = 1) -> Plan:
    """The plan with so many of its `whole` parts, and a `tensor`-th of the ranks of each replica."""
    stages = tuple(_cut(stage, len(stage.replicas) // whole * parts, tensor) for stage in plan.stages)
    kept = sorted({rank for stage in stages for rank in stage.ranks})
    number = {old: new for new, old in enumerate(kept)}
    renumbered = tuple(
        replace(s, replicas=tuple(replace(r, ranks=tuple(map(number.__getitem__, r.ranks))) for r in s.replicas))
        for s in stages
    )
    sequence = plan.sequence_parallel and any(stage.tensor > stage.context for stage in stages)
    ranks = tuple(plan.ranks[old] for old in kept)
    return _with_batch(replace(plan, stages=renumbered, ranks=ranks, sequence_parallel=sequence))


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


def _narrower(plan: Plan, notes: list[str]) -> Plan:
    """The plan at the most parts and ranks of a replica that are few enough, or at the fewest there are."""
    whole = parts_of(plan)
    width = gcd(*(len(replica.ranks) for stage in plan.stages for replica in stage.replicas))
    ways = [(parts, 1) for parts in (REPLICAS, 1) if parts <= whole]
    ways += [(1, by) for by in range(2, width + 1) if width % by == 0]
    for parts, tensor in ways:
        small = at_parts(plan, parts, whole, tensor)
        if small.world_size <= MOST_RANKS:
            break
    notes.extend(dict.fromkeys(_folding_notes(plan, small, parts, whole)))
    return small


def _repeats(stage: Stage, parts: int) -> bool:
    """Whether the replicas of a stage are the same ones so many times over."""
    kinds = [(len(replica.ranks), replica.micro_batch_rows) for replica in stage.replicas]
    return kinds == kinds[: len(kinds) // parts] * parts


def _cut(stage: Stage, count: int, tensor: int) -> Stage:
    """The first replicas of a stage, each with the first ranks of its own."""
    replicas = tuple(
        replace(
            replica,
            ranks=replica.ranks[: len(replica.ranks) // tensor],
            tensor_shares=replica.tensor_shares[: len(replica.ranks) // tensor],
        )
        for replica in stage.replicas[:count]
    )
    level, degree = stage.sharding.stage, stage.sharding.degree
    degree = count if degree >= count else gcd(degree, count)
    return replace(
        stage,
        replicas=replicas,
        sharding=Sharding(stage=level, degree=degree) if level and degree > 1 else Sharding(),
        context=gcd(stage.context, len(replicas[0].ranks)),
        expert=gcd(stage.expert, sum(len(replica.ranks) for replica in replicas)),
    )


def _folding_notes(plan: Plan, small: Plan, parts: int, whole: int) -> Iterator[str]:
    if parts < whole:
        single = all(len(stage.replicas) == whole for stage in plan.stages)
        what = f"{whole} replicas" if single else f"{whole} alike parts of the replicas of every stage"
        ran = f"{parts} ran, and gradients were summed over them"
        if parts == 1:
            ran = "one ran, so " + ("no gradient was summed" if single else "gradients were summed within it alone")
        yield f"of {what} {ran}; the simulator has all {whole}"
    for large, little in zip(plan.stages, small.stages, strict=True):
        level, before, after = large.sharding.stage, large.sharding.degree, little.sharding.degree
        if level and after < before:
            cut = "were not cut" if after == 1 else f"were cut in {after}"
            yield f"the states of the optimizer, sharding stage {level} over {before}, {cut}"
        for name, before, after in (
            ("tensor", large.tensor // large.context, little.tensor // little.context),
            ("context", large.context, little.context),
            ("expert", large.expert, little.expert),
        ):
            if after < before:
                yield f"{name} {before} was cut to {after}: groups of {before} did not run"


def _with_batch(plan: Plan) -> Plan:
    """The plan with the global batch that its rows and micro-batches come to."""
    rows = plan.micro_batches * sum(replica.micro_batch_rows for replica in plan.stages[0].replicas)
    return replace(plan, job=replace(plan.job, global_batch=rows))
