"""Why a plan won, in words: the term that beats the second best, how far the bound is, and why devices stay unused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    ("copying to the host and back", lambda p: p.offload_s),
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


def reason(ranked: Sequence[Plan], offered: int, *, by_devices: bool = False) -> str:
    """Why the first of several plans won, in one sentence.

    Args:
        ranked: plans, the best first.
        offered: devices that might have been used.
        by_devices: plans are not compared by their step times alone, so that others may have shorter ones.
    """
    if by_devices:
        ranked, offered = ranked[:1], ranked[0].world_size
    best, parts = ranked[0], _prediction(ranked[0]).parts
    text = f"{parts.compute_s / parts.total_s:.0%} of a step is computing"
    other = next((plan for plan in ranked[1:] if _degrees(plan) != _degrees(best)), None)
    if other is None:
        cost, share = largest_term(parts)
        text += f", the largest other term {cost} with {share:.0%}"
    else:
        lost = _prediction(other)
        name, more_s = deciding_term(parts, lost.parts)
        text += f"; the best split with other degrees, {other.split}, takes {format_seconds(lost.step_time_s)} "
        text += f"because of {format_seconds(more_s)} more {name}"
    if best.world_size < offered:
        text += f"; {offered - best.world_size} of {offered} devices stay unused, because no split over more is faster"
    return text + "."


def _degrees(plan: Plan) -> tuple[int, int, int]:
    return plan.stages[0].data, plan.stages[0].tensor, len(plan.stages)


def _prediction(plan: Plan) -> Prediction:
    assert plan.prediction is not None
    return plan.prediction
