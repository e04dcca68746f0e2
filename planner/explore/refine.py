"""A better plan beside the best ones of the explored space: by single changes that the space does not have.

Each change is priced as the cost model prices the whole plan; one that is faster and fits is kept, until none is or so
many have been tried. The bound of an answer holds for the space without such changes, and the answer says so.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from nebula.cluster.values import Cluster
from nebula.cost_model.by_stage import ByStage
from nebula.cost_model.eager import paddle_execution
from nebula.cost_model.executed import plan_memory, predict_priced
from nebula.cost_model.step import StepPricing
from nebula.errors import BadInput
from nebula.graph.values import DistributedGraph
from nebula.plan.job import RECOMPUTE, Objective
from nebula.plan.values import Job, Plan
from nebula.planner.explain import deciding_term, runner_up
from nebula.planner.explore.changes import Fixed, changes
from nebula.planner.search import INTERRUPTION, Answer
from nebula.units import format_seconds

STARTS = 3
"""Plans of an answer that are refined."""

TRIES = 3000
"""Changes that are priced at most."""

WORTH = 1e-6
"""By what share a change has to be faster."""


class Climb(NamedTuple):
    """Where a climb came to.

    Attributes:
        plan: the best one, without its prediction.
        step_s: of it.
        steps: by kind how many changes were kept.
        tried: changes that were priced.
        ended: whether no change was left that is faster.
    """

    plan: Plan
    step_s: float
    steps: Counter[str]
    tried: int
    ended: bool


def refine(
    answer: Answer,
    graph: DistributedGraph,
    cluster: Cluster,
    objective: Objective | None = None,
    *,
    tries: int = TRIES,
    clock: Callable[[], float] = time.perf_counter,
    enough: Callable[[], bool] = lambda: False,
) -> Answer:
    """The answer of an exploration with the best of its plans refined; the same plan where nothing is faster.

    Args:
        answer: what was found in the explored space.
        graph: the model.
        cluster: what it was found for.
        objective: degrees that are fixed stay.
        tries: changes that are priced at most, shared by the plans that are refined.
        clock: seconds, for the time that the answer reports.
        enough: asked before each change whether to stop.
    """
    began_s, fixed = clock(), (objective or Objective()).fixed
    at, reached, ended = pricing_of(graph, cluster, answer.plan.job), dict[int, Climb](), answer.ended_by
    try:
        for number, start in enumerate(answer.candidates[:STARTS]):
            left = tries - sum(climb.tried for climb in reached.values())
            for climb in climbing(at, start, fixed, left, enough):
                reached[number] = climb
    except KeyboardInterrupt:
        ended = INTERRUPTION
    climbs = list(reached.values())
    refined = replace(
        answer,
        priced=answer.priced + sum(climb.tried for climb in climbs),
        seconds=answer.seconds + clock() - began_s,
        ended_by=ended,
    )
    found = min(climbs, key=lambda climb: climb.step_s, default=None)
    assert answer.plan.prediction is not None
    if found is None or found.step_s >= answer.plan.prediction.step_time_s:
        return replace(refined, notes=(_nothing(climbs), *answer.notes))
    return _better(refined, replace(found.plan, prediction=predict_priced(at, found.plan)), found)


def pricing_of(graph: DistributedGraph, cluster: Cluster, job: Job) -> ByStage:
    """What prices plans whose stages differ, under every policy."""
    return ByStage(
        {policy: StepPricing(graph, cluster, paddle_execution(job, cluster, policy)) for policy in RECOMPUTE}
    )


def climbing(
    at: ByStage, start: Plan, fixed: Fixed, tries: int, enough: Callable[[], bool] = lambda: False
) -> Iterator[Climb]:
    """From a plan to better ones, by the first change that is faster again and again: where it is after each, and last.

    Args:
        at: prices plans.
        start: a plan that fits.
        fixed: degrees that stay.
        tries: changes that are priced at most.
        enough: asked before each whether to stop.
    """
    best, best_s, steps, tried = start, at.step(start).step_s, Counter[str](), 0
    seen, better = {_shape(start)}, True
    while better:
        better = False
        for kind, changed in changes(best, fixed):
            shape = _shape(changed)
            if shape in seen:
                continue
            if tried >= tries or enough():
                yield Climb(best, best_s, steps.copy(), tried, ended=False)
                return
            seen.add(shape)
            tried += 1
            step_s = step_seconds(at, changed, best_s * (1.0 - WORTH))
            if math.isfinite(step_s):
                best, best_s, better = changed, step_s, True
                steps[kind] += 1
                yield Climb(best, best_s, steps.copy(), tried, ended=False)
                break
    yield Climb(best, best_s, steps, tried, ended=True)


def step_seconds(at: ByStage, plan: Plan, to_beat_s: float) -> float:
    """What a step takes; infinite where it is no faster than what is to beat, does not fit or cannot be cut so."""
    with suppress(BadInput):
        step_s = at.step(plan).step_s
        if step_s < to_beat_s and all(held.share <= 1.0 for held in plan_memory(at, plan)):
            return step_s
    return math.inf


def _shape(plan: Plan) -> tuple[object, ...]:
    """What tells apart the plans that changes lead to."""
    return tuple((stage.layers[1], stage.recompute_words, stage.data) for stage in plan.stages)


def _better(answer: Answer, best: Plan, climb: Climb) -> Answer:
    """The answer with a better plan, and what its bound says of it."""
    before = answer.plan
    assert best.prediction is not None
    assert before.prediction is not None
    was_s, is_s = before.prediction.step_time_s, best.prediction.step_time_s
    name, less_s = deciding_term(best.prediction.parts, before.prediction.parts)
    kept = ", ".join(_counted(count, WORDS[kind]) for kind, count in climb.steps.items())
    because = (
        f"Refined ({kept}), a step takes {format_seconds(was_s - is_s)} less than that of the best plan found "
        f"without, {1.0 - is_s / was_s:.2%}; it has {format_seconds(less_s)} less {name}."
    )
    stopped = "" if climb.ended else " Not all changes of it were tried."
    return outside(answer, best, because, "without refinement", stopped)


def outside(answer: Answer, best: Plan, because: str, within: str, more: str = "") -> Answer:
    """The answer with a faster plan that is not of the explored space, and what the bound says of it.

    Args:
        answer: of the explored space.
        best: with its prediction.
        because: why it is faster.
        within: which plans the bound covers.
        more: a sentence for the note.
    """
    assert best.prediction is not None
    is_s = best.prediction.step_time_s
    if is_s < answer.bound_s:
        proof = "this plan is faster, and nothing is proved of it"
    else:
        proof = f"this plan is {is_s / answer.bound_s - 1.0:.1%} above it"
    note = f"The bound of {format_seconds(answer.bound_s)} covers the plans {within}: {proof}.{more}"
    # what bounds the explored space bounds no plan outside of it
    best = replace(best, because=because, runner_up=runner_up(best, answer.plan), bound_s=0.0)
    return replace(
        answer,
        plan=best,
        candidates=(replace(best, because="", runner_up=None), *answer.candidates),
        bound_s=min(answer.bound_s, is_s),
        notes=(note, *answer.notes),
    )


WORDS = {
    "layers": "layer moved to a neighbour stage",
    "recompute": "recompute policy changed",
    "tensor": "tensor degree changed",
    "layers far apart": "layer moved to a stage further on",
}
"""What one change of each kind is called."""


def _counted(count: int, words: str) -> str:
    """`a layer moved to a neighbour stage`, `3 times a layer moved to a neighbour stage`."""
    return f"a {words}" if count == 1 else f"{count} times a {words}"


def _nothing(climbs: list[Climb]) -> str:
    tried = sum(climb.tried for climb in climbs)
    ended = "" if all(climb.ended for climb in climbs) else ", and more are left"
    return f"Refining the best {len(climbs)} plans found nothing faster: {tried} changes were priced{ended}."
