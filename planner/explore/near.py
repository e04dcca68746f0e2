"""The ways that differ from one way in a single degree: where a good way is, a better one is often near."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

from nebula.plan.values import Sharding
from nebula.planner.explore.space import Space
from nebula.planner.explore.ways import Inner, Outer, Way


def neighbours(way: Way, space: Space) -> Iterator[Way]:
    """Ways of the space with one degree doubled or halved, or with another policy, schedule or sharding.

    Where a change needs more or fewer stages to fill the devices, it is tried with as many as there is room for, too.
    """
    for inner in _inners(way.inner, space):
        yield from _fitting(inner, way.outer, space)
    for data, name in product((2 * way.outer.data, way.outer.data // 2), ("", "tensor", "context")):
        inner = way.inner
        if name:
            value = getattr(inner, name)
            inner = inner._replace(**{name: value // 2 if data > way.outer.data else 2 * value})
        if data and inner.width:
            yield from _fitting(inner, _shared(way.outer._replace(data=data)), space)
    yield from _fitting(way.inner, way.outer, space)
    m = way.micro_batches(space.job)
    for schedule, chunks in space.schedules(way.outer.pipeline, m):
        yield Way(way.inner, way.outer._replace(schedule=schedule, chunks=chunks))
    for data, sharding in space.replicas(way.inner):
        if data == way.outer.data:
            yield Way(way.inner, way.outer._replace(sharding=sharding))


def _inners(inner: Inner, space: Space) -> Iterator[Inner]:
    for name in ("tensor", "context", "expert", "rows"):
        value = getattr(inner, name)
        for other in (2 * value, value // 2):
            if other:
                yield inner._replace(**{name: other})
    for more, less in permutations(("tensor", "context"), 2):
        if getattr(inner, less) > 1:
            yield inner._replace(**{more: 2 * getattr(inner, more), less: getattr(inner, less) // 2})
    for policy, offload, layers in space.variants:
        if (policy == inner.recompute) + (offload == inner.offload) + (layers == inner.layers) >= 2:
            yield inner._replace(recompute=policy, offload=offload, layers=layers)


def _shared(outer: Outer) -> Outer:
    """With its states shared by all replicas, as before."""
    stage = outer.sharding.stage
    return outer._replace(sharding=Sharding(stage=stage, degree=outer.data) if stage and outer.data > 1 else Sharding())


def _fitting(inner: Inner, outer: Outer, space: Space) -> Iterator[Way]:
    """The way with its stages and with as many as there is room for, where it is one of the space."""
    inner = space.settled(inner)
    if not space.holds(inner) or (outer.data, outer.sharding) not in set(space.replicas(inner)):
        return
    m = space.job.global_batch // (outer.data * inner.rows)
    every = list(space.stage_counts(inner.width * outer.data))
    used = [i for i, count in enumerate(outer.stages) if count]
    alike = [stages for stages in every if [i for i, count in enumerate(stages) if count] == used]
    wanted = {outer.stages, *sorted(alike, key=sum)[-1:]} | {
        stages for stages in alike if sum(stages) in (2 * outer.pipeline, outer.pipeline // 2, outer.pipeline + 1)
    }
    for stages in wanted & set(every):
        known = set(space.schedules(sum(stages), m))
        chosen = (outer.schedule, outer.chunks) if (outer.schedule, outer.chunks) in known else None
        for schedule, chunks in [chosen] if chosen else sorted(known)[:1]:
            yield Way(inner, outer._replace(stages=stages, schedule=schedule, chunks=chunks))
