"""Whether the degrees that a user fixed are ways of the explored space at all, before anything is searched.

Each impossible one is refused with its equation, as nebula.planner.fixed does for what fleet runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nebula.errors import BadInput
from nebula.graph.values import DistributedGraph
from nebula.planner.explore.extent import EVERYTHING
from nebula.planner.explore.space import Space
from nebula.planner.explore.ways import FOLDED, MOST_CHUNKS, PLAIN

EXPLORED = ("1f1b", "zb-h1", "interleaved", "zb-v", "dualpipe-v")
"""Schedules that are tried."""

UNFOLDED = dict(FOLDED)
"""Virtual stages on a device of schedules that fix them."""


def check_asked(space: Space, graph: DistributedGraph) -> None:
    """Refuses fixed degrees of which no way can be made.

    Raises:
        BadInput: the first equation that does not hold, with its numbers.
    """
    for sentence in faults(space, graph):
        raise BadInput(f"objective.fixed: {sentence}")


def faults(space: Space, graph: DistributedGraph) -> Iterator[str]:
    """What is impossible about the fixed degrees; each is worked out as if those before it did not hold."""
    if space.fixed.get("engine") == "fleet":
        yield "engine fleet: what is explored is for the engine executor"
    yield from _experts(space, graph)
    yield from _sequence(space, graph)
    yield from _schedule(space)
    yield from _beyond_extent(space)


def _experts(space: Space, graph: DistributedGraph) -> Iterator[str]:
    asked = _number(space, "expert")
    if asked > 1 and space.experts == 1:
        yield f"expert {asked}: {graph.name} has no experts"
    elif space.experts % asked:
        yield f"experts {space.experts} % expert {asked} = {space.experts % asked}"
    names = [name for name in ("tensor", "context", "data") if name in space.fixed]
    ranks = 1
    for name in names:
        ranks *= _number(space, name)
    if len(names) == 3 and ranks % asked:
        product = " × ".join(f"{name} {_number(space, name)}" for name in names)
        yield f"({product}) % expert {asked} = {ranks % asked}: the ranks of a stage share its experts"


def _sequence(space: Space, graph: DistributedGraph) -> Iterator[str]:
    context, tensor = _number(space, "context"), space.fixed.get("tensor")
    if context > 1 and space.tokens % context:
        yield f"tokens {space.tokens} of a row of {graph.name} % context {context} = {space.tokens % context}"
    if space.fixed.get("sequence") == 1 and tensor == 1:
        yield "sequence 1 needs tensor from 2 on: a tensor group shares the sequence"
    if space.fixed.get("exchange", "ring") != "ring" and space.fixed.get("context") == 1:
        yield f"exchange {space.fixed['exchange']} needs context from 2 on: the ranks of it share the sequence"


def _schedule(space: Space) -> Iterator[str]:
    schedule, chunks, pipeline = (
        space.fixed.get("schedule"),
        space.fixed.get("virtual_stages"),
        _number(space, "pipeline"),
    )
    if schedule is not None and schedule not in EXPLORED:
        yield f"schedule {schedule} is not explored; take one of {', '.join(EXPLORED)}"
    if schedule not in (None, "1f1b") and space.fixed.get("pipeline") == 1:
        yield f"schedule {schedule} needs pipeline from 2 on"
    if chunks is None:
        return
    least = {**dict(PLAIN), **UNFOLDED, "interleaved": 2}.get(str(schedule), 1)
    most = MOST_CHUNKS if schedule in (None, "interleaved") else least
    if not least <= _number(space, "virtual_stages") <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        yield f"virtual_stages {chunks}: a device holds {wanted}" + f" under {schedule}" * (schedule is not None)
    if pipeline * _number(space, "virtual_stages") > space.layers:
        product = f"pipeline {pipeline} × virtual_stages {chunks} = {pipeline * _number(space, 'virtual_stages')}"
        yield f"{product} > {space.layers} layers; each stage holds at least one"


def _beyond_extent(space: Space) -> Iterator[str]:
    """What the cost model knows and the extent leaves out."""
    extent, fixed = space.extent, space.fixed
    known = {
        "sharding": fixed.get("sharding", 0) in extent.shardings,
        "schedule": not extent.schedules or fixed.get("schedule", "1f1b") in extent.schedules,
        "offload": not extent.offloads or fixed.get("offload", "none") in extent.offloads,
        "sequence": extent.sequence or fixed.get("sequence", 0) == 0,
        "context": extent.context or _number(space, "context") == 1,
        "expert": extent.expert or _number(space, "expert") == 1,
    }
    for name, held in known.items():
        if not held and name in fixed:
            yield f"{name} {fixed[name]}: no engine runs that here; look at it with `nebula plan --explore`"
    if extent is EVERYTHING:
        return
    every = replace(space, extent=EVERYTHING)
    if any(True for _ in every.inners()) and not any(True for _ in space.inners()):
        yield "no engine runs these degrees together; look at them with `nebula plan --explore`"


def _number(space: Space, name: str) -> int:
    return int(str(space.fixed.get(name, 1)))
