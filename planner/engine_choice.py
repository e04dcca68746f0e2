"""Which engine's best plan is the answer, and the words about it: fleet's, unless the executor's is clearly faster.

Fleet has trained more, and more people know it. So where both are about as good its plan is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nebula.errors import BadInput, Infeasible
from nebula.plan.values import Plan, RunnerUp
from nebula.planner.explain import runner_up
from nebula.planner.search import INTERRUPTION, Answer, BeyondFleet
from nebula.units import format_seconds

WORTH = 0.02
"""By so much fleet's best plan has to take more for the executor's to be taken: less than predictions are off by."""

STOPPED = "the search was interrupted before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What came of the search of one engine's space.

    Attributes:
        answer: the best plan found; None where there is none.
        bound_s: no plan of it is faster; infinite where none fits, 0 where it was not searched.
        why: there is no answer, in words.
        error: that says so, where it is one.
    """

    answer: Answer | None = None
    bound_s: float = 0.0
    why: str = ""
    error: BadInput | Infeasible | None = None

    @property
    def step_s(self) -> float:
        """Of the best plan; infinite where there is none."""
        if self.answer is None or self.answer.plan.prediction is None:
            return math.inf
        return self.answer.plan.prediction.step_time_s

    @property
    def interrupted(self) -> bool:
        """Whether the search was ended by the user."""
        return self.answer is not None and self.answer.ended_by == INTERRUPTION


def chosen(fleet: Side, executor: Side) -> Answer:
    """The answer of the engine that wins.

    Args:
        fleet: what came of the search of what fleet runs.
        executor: the same of the executor.

    Raises:
        BadInput: neither search can be made.
        Infeasible: neither engine has a plan that fits.
    """
    if executor.answer is not None and fleet.step_s > (1.0 + WORTH) * executor.step_s:
        return _told(executor, fleet, f"The engine executor: {_of_fleet(fleet, executor.step_s)}.")
    if fleet.answer is not None:
        return _told(fleet, executor, f"The engine fleet: {_of_executor(executor, fleet.step_s)}.")
    raise neither(fleet, executor)


def _of_fleet(fleet: Side, executor_s: float) -> str:
    if fleet.answer is None:
        return fleet.why
    words = f"fleet's best plan, {_against(fleet, executor_s)}"
    if fleet.bound_s < fleet.step_s * (1.0 - 1e-9):
        words = words.replace("fleet's best plan", "the best plan of fleet that was looked at")
        words += f"; none takes less than {format_seconds(fleet.bound_s)}"
    return words


def _of_executor(executor: Side, fleet_s: float) -> str:
    if executor.answer is None:
        return executor.why
    words = f"the executor's best plan, {_against(executor, fleet_s)}"
    if executor.step_s < fleet_s:
        words += f", and is taken where fleet's takes {WORTH:.0%} more"
    return words


def _against(side: Side, other_s: float) -> str:
    assert side.answer is not None
    more = side.step_s / other_s - 1.0
    takes = f"takes {format_seconds(side.step_s)}, {abs(more):.1%} {'more' if more >= 0 else 'less'}"
    return f"{side.answer.plan.split}, {takes}"


def _told(winner: Side, other: Side, words: str) -> Answer:
    """The winner's answer with the words about the other engine, and the bound of what was searched."""
    answer = winner.answer
    assert answer is not None
    searched = bool(other.bound_s)
    bound_s = min(winner.bound_s, other.bound_s if searched else math.inf, winner.step_s)
    plan = replace(
        answer.plan,
        because=f"{words} {answer.plan.because}",
        runner_up=_second(answer.plan, other),
        bound_s=bound_s,
    )
    names = ("fleet runs and all that the executor runs", f"{_name(plan)} runs")
    ended = INTERRUPTION if winner.interrupted or other.interrupted else answer.ended_by
    note = f"The bound is that of all plans that {names[not searched]}."
    return replace(answer, plan=plan, bound_s=bound_s, notes=(note, *answer.notes), ended_by=ended)


def _name(plan: Plan) -> str:
    return "the executor" if plan.engine == "executor" else "fleet"


def _second(plan: Plan, other: Side) -> RunnerUp | None:
    """The second best plan, of whichever engine."""
    if other.answer is None or (plan.runner_up is not None and plan.runner_up.step_time_s < other.step_s):
        return plan.runner_up
    second = runner_up(plan, other.answer.plan)
    assert plan.prediction is not None
    if other.step_s < plan.prediction.step_time_s:
        return replace(second, lost_by=f"its engine, {_name(other.answer.plan)}, for less than {WORTH:.0%}")
    return second


def neither(fleet: Side, executor: Side) -> BadInput | Infeasible:
    """The error where no engine has a plan: of the degrees where the executor alone knows them, else fleet's."""
    if fleet.error is None or executor.error is None:
        found = fleet.error or executor.error
        assert found is not None
        return found
    if isinstance(fleet.error, BeyondFleet):
        return executor.error
    if isinstance(fleet.error, BadInput) or isinstance(executor.error, BadInput):
        return fleet.error
    return Infeasible(f"{fleet.error}; {executor.why} either")


def first_line(error: BadInput | Infeasible) -> str:
    """An error without the line and the caret that stand below it."""
    return str(error).partition("\n")[0]
