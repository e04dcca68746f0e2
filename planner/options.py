"""A plan together with the way to it, and how such options are compared: by the steps they get done in a given time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nebula.plan.values import Plan
from nebula.planner.moves import Moves
from nebula.planner.survivors import Survivors
from nebula.units import format_bytes, format_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A plan and the way to it.

    Attributes:
        plan: with its prediction.
        moves: what travels, and for how long.
        horizon_s: the time over which it is judged.
    """

    plan: Plan
    moves: Moves
    horizon_s: float

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return step_s(self.plan)

    @property
    def effective_step_s(self) -> float:
        """The horizon over the steps done in it, moving included; infinite where moving takes all of it."""
        rest = 1.0 - self.moves.seconds / self.horizon_s
        return self.step_s / rest if rest > 0 else math.inf

    @property
    def rank(self) -> tuple[float, float, int]:
        """Order of options: by steps done; among equals less is moved, by fewer ranks."""
        return (float(f"{self.effective_step_s:.9g}"), self.moves.total_bytes, self.plan.world_size)


def step_s(plan: Plan) -> float:
    """Seconds of a step of a plan that is priced."""
    assert plan.prediction is not None
    return plan.prediction.step_time_s


def fits(plan: Plan) -> bool:
    """Whether every stage of a plan that is priced is within its memory."""
    assert plan.prediction is not None
    return all(held.share <= 1.0 for held in plan.prediction.memory)


def least_moving(options: Sequence[Option]) -> Option:
    """The option that is reached soonest; of equal ones the fastest."""
    return min(options, key=lambda option: (option.moves.seconds, option.step_s))


def break_even_steps(fast: Option, near: Option) -> float:
    """After how many steps the time of a longer way is won back by shorter steps; infinite if it never is.

    n steps of both take as long: moving + n step = moving' + n step'.
    """
    later_s, gain_s = fast.moves.seconds - near.moves.seconds, near.step_s - fast.step_s
    if later_s <= 0:
        return 0.0
    return later_s / gain_s if gain_s > 0 else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Replanned:
    """What to do now.

    Attributes:
        plan: the new plan, with prediction and reason; where nothing is to be done the old one as it was.
        options: what was priced, best first; the first is the plan.
        step_before_s: of the old plan on the cluster that it runs on.
        lost: nodes of the old plan that are not there any more.
        survivors: for each stage of the old plan what is left of it, and where.
        looked: how far: `kept` (nothing was to be done), `near`, `tensor` (all of the old tensor degree) or `all`.
        seconds: how long it took.
    """

    plan: Plan
    options: tuple[Option, ...]
    step_before_s: float
    lost: tuple[str, ...]
    survivors: tuple[Survivors, ...]
    looked: str
    seconds: float

    @property
    def moves(self) -> Moves:
        """The way from the old plan to the new one."""
        return self.options[0].moves

    @property
    def least_moving(self) -> Option:
        """The option that is reached soonest."""
        return least_moving(self.options)

    @property
    def break_even_steps(self) -> float:
        """After how many steps the plan is ahead of the one that is reached soonest; 0 where it is as soon."""
        return break_even_steps(self.options[0], self.least_moving)


def reason(options: Sequence[Option], before: Plan, step_before_s: float, lost: tuple[str, ...], offered: int) -> str:
    """Why the first option is the one to take, in one sentence.

    Args:
        options: best first.
        before: the plan that ran.
        step_before_s: its step time.
        lost: nodes that are gone.
        offered: devices that might be used.
    """
    best, soonest = options[0], least_moving(options)
    text = f"{_lost_words(lost, before)}: {best.plan.split} takes {format_seconds(best.step_s)} a step"
    text += f" (before: {format_seconds(step_before_s)}) and {move_words(best.moves)}"
    steps = break_even_steps(best, soonest)
    if 0 < steps < math.inf:
        words = f"{math.ceil(steps):,} step{'s' if steps > 1 else ''}"
        text += f"; {soonest.plan.split}, which is reached soonest, {move_words(soonest.moves)} and takes "
        text += f"{format_seconds(soonest.step_s)} a step, so that it falls behind after {words}"
    elif len(options) > 1:
        text += ", and no other plan that was weighed is reached sooner"
    idle = offered - best.plan.world_size
    return text + (f"; {idle:,} of {offered:,} devices stay unused." if idle else ".")


def _lost_words(lost: tuple[str, ...], before: Plan) -> str:
    if not lost:
        return "The cluster changed"
    gone = set(lost)
    ranks = sum(place.node in gone for place in before.ranks)
    names = ", ".join(lost[:4]) + (f" and {len(lost) - 4} more nodes" if len(lost) > 4 else "")
    return f"{names} {'is' if len(lost) == 1 else 'are'} lost with {ranks:,} of {before.world_size:,} ranks"


def move_words(moves: Moves) -> str:
    """What travels and for how long: `moves 1.2 TiB in 3 s`."""
    if not moves.total_bytes:
        return "moves nothing"
    text = f"moves {format_bytes(moves.total_bytes)} in {format_seconds(moves.seconds)}"
    if moves.rolls_back:
        text += f", from the last checkpoint, because {format_bytes(moves.lost_bytes)} survive on no device"
    return text
