"""Single changes of a plan that the explored space does not have: stages that differ in more than their layers.

A layer moved across one border (or along several), another recompute policy for one stage, for the first or for the
last ones, twice or half the tensor degree on one device of the pipeline. What a plan's job asks for stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

from nebula.plan.job import RECOMPUTE
from nebula.plan.values import Plan, Replica, Sharding, Stage
from nebula.planner.deals import carried, moved

Fixed = Mapping[str, object]
"""Degrees that the user decided, by a name of FIXABLE."""


def changes(plan: Plan, fixed: Fixed) -> Iterator[tuple[str, Plan]]:
    """Every single change of a plan with the kind it is of: the plan's prediction and words are those of before."""
    for kind, change in KINDS.items():
        for changed in change(plan, fixed):
            yield kind, changed


def moved_layers(plan: Plan, fixed: Fixed) -> Iterator[Plan]:
    """A layer across one border."""
    del fixed
    for boundaries in moved(_boundaries(plan)).tolist():
        yield _dealt(plan, tuple(boundaries))


def carried_layers(plan: Plan, fixed: Fixed) -> Iterator[Plan]:
    """A layer from one stage to another, the borders between them moved together."""
    del fixed
    for boundaries in carried(_boundaries(plan)).tolist():
        yield _dealt(plan, tuple(boundaries))


def recomputed_stages(plan: Plan, fixed: Fixed) -> Iterator[Plan]:
    """Another policy for the last stages, for the first ones, for one alone."""
    if "recompute" in fixed:
        return
    count = len(plan.stages)
    spans = [(first, count) for first in range(count)] + [(0, end) for end in range(1, count)]
    spans += [(index, index + 1) for index in range(count)]
    for (first, end), policy in ((span, policy) for span in dict.fromkeys(spans) for policy in RECOMPUTE):
        held = [
            replace(s, recompute=policy, recompute_layers=0) if first <= i < end else s
            for i, s in enumerate(plan.stages)
        ]
        if tuple(held) != plan.stages:
            yield replace(plan, stages=tuple(held))


def other_tensor_degrees(plan: Plan, fixed: Fixed) -> Iterator[Plan]:
    """Twice or half the tensor degree on one device of the pipeline, with half or twice the replicas.

    A replica has twice or half the rows then, so that the stage works on as many as before.
    """
    if {"tensor", "data", "micro_batch_rows", "sharding_degree"} & set(fixed):
        return
    for own in plan.homes:
        for reshaped in (_widened(plan.stages[own[0]]), _narrowed(plan.stages[own[0]])):
            if reshaped:
                held = [_with(s, reshaped) if i in own else s for i, s in enumerate(plan.stages)]
                yield replace(plan, stages=tuple(held))


KINDS: dict[str, Callable[[Plan, Fixed], Iterator[Plan]]] = {
    "layers": moved_layers,
    "recompute": recomputed_stages,
    "tensor": other_tensor_degrees,
    "layers far apart": carried_layers,
}
"""The kinds of changes in the order in which they are tried."""


def _boundaries(plan: Plan) -> tuple[int, ...]:
    return (0, *(stage.layers[1] for stage in plan.stages))


def _dealt(plan: Plan, boundaries: tuple[int, ...]) -> Plan:
    runs = pairwise(boundaries)
    return replace(plan, stages=tuple(_holding(s, run) for s, run in zip(plan.stages, runs, strict=True)))


def _holding(stage: Stage, layers: tuple[int, int]) -> Stage:
    """The stage with other layers; of those it computes again as many as before, if it has as many."""
    return replace(stage, layers=layers, recompute_layers=min(stage.recompute_layers, layers[1] - layers[0]))


def _widened(stage: Stage) -> tuple[Replica, ...]:
    """Pairs of replicas as one; none where they do not pair, or ranks of a replica share a sequence."""
    if stage.context > 1 or stage.data % 2:
        return ()
    pairs = zip(stage.replicas[::2], stage.replicas[1::2], strict=True)
    return tuple(_replica(a.ranks + b.ranks, a.micro_batch_rows + b.micro_batch_rows) for a, b in pairs)


def _narrowed(stage: Stage) -> tuple[Replica, ...]:
    """Each replica as two; none where ranks or rows do not halve, or ranks of a replica share a sequence."""
    if stage.context > 1 or any(len(r.ranks) % 2 or r.micro_batch_rows % 2 for r in stage.replicas):
        return ()
    halves = ((r, slice(0, len(r.ranks) // 2), slice(len(r.ranks) // 2, None)) for r in stage.replicas)
    return tuple(_replica(r.ranks[half], r.micro_batch_rows // 2) for r, *both in halves for half in both)


def _replica(ranks: tuple[int, ...], rows: int) -> Replica:
    return Replica(ranks=ranks, tensor_shares=(1,) * len(ranks), micro_batch_rows=rows)


def _with(stage: Stage, replicas: tuple[Replica, ...]) -> Stage:
    """The stage on other replicas, states shared by all of them where they were."""
    shared = stage.sharding.stage and len(replicas) > 1
    sharding = Sharding(stage=stage.sharding.stage, degree=len(replicas)) if shared else Sharding()
    return replace(stage, replicas=replicas, sharding=sharding)
