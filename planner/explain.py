"""Why a plan won, in words: the term that beats the second best, how far the bound is, and why devices stay unused."""

from __future__ import annotations

from collections.abc import Callable

from nebula.plan.values import Plan, Prediction, RunnerUp, StepParts
from nebula.units import format_seconds

TERMS: tuple[tuple[str, Callable[[StepParts], float]], ...] = (
    ("compute", lambda p: p.compute_s),
    ("recomputation", lambda p: p.recompute_s),
    ("tensor communication", lambda p: p.tensor_communication_s),
    ("pipeline communication", lambda p: p.pipeline_communication_s),
    ("data communication", lambda p: p.data_communication_s),
    ("pipeline bubble", lambda p: p.bubble_s),
    ("optimizer", lambda p: p.optimizer_s),
)


def runner_up(best: Plan, second: Plan) -> RunnerUp:
    """The second best plan with the term that beat it."""
    won, lost = _prediction(best), _prediction(second)
    name, more_s = deciding_term(won.parts, lost.parts)
    lost_by = f"{format_seconds(more_s)} more {name}" if more_s > 0 else "nothing that the model tells apart"
    return RunnerUp(split=second.split, step_time_s=lost.step_time_s, lost_by=lost_by)


def deciding_term(won: StepParts, lost: StepParts) -> tuple[str, float]:
    """The term by which the loser is most behind, and by how many seconds."""
    name, more_s = max(((name, of(lost) - of(won)) for name, of in TERMS), key=lambda term: term[1])
    return name, more_s


def largest_term(parts: StepParts) -> tuple[str, float]:
    """The largest term apart from compute, and its share of the step."""
    name, seconds = max(((name, of(parts)) for name, of in TERMS if name != "compute"), key=lambda term: term[1])
    return name, seconds / parts.total_s


def reason(best: Plan, second: RunnerUp | None, offered: int) -> str:
    """Why the plan won, in one sentence."""
    parts = _prediction(best).parts
    cost, share = largest_term(parts)
    compute = parts.compute_s / parts.total_s
    text = f"It spends {compute:.0%} of a step computing and {share:.0%} on {cost}, its largest other term"
    if second is not None:
        text += f"; the runner-up, {second.split}, takes {format_seconds(second.step_time_s)}: {second.lost_by}"
    if best.world_size < offered:
        text += f"; {offered - best.world_size} of {offered} devices stay unused, because no split over more is faster"
    return text + "."


def _prediction(plan: Plan) -> Prediction:
    assert plan.prediction is not None
    return plan.prediction
