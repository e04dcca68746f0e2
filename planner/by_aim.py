"""The best plan of the whole space by money, energy or days, within a deadline and a budget, and why it is.

One search compares all plans by the aim itself (scale.py), so that what it finds is the best of the space and not only
of some numbers of nodes. Beside it stand the fastest plans on all nodes, half of them and so on: the front of time
against money. Where the limits leave nothing, searches without them say what would do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Protocol

from nebula.errors import Infeasible
from nebula.plan.job import Objective
from nebula.plan.values import Plan, Prediction, RunnerUp
from nebula.planner.aims import SCORES, Aimed, Tried, beyond_limits, check_tokens, front, halves, within_limits
from nebula.planner.explain import TERMS
from nebula.planner.scale import AIM, AimScale, Question, Scaled
from nebula.planner.search import INTERRUPTION, Answer
from nebula.units import format_seconds

UNITS = {
    "step_time": (1.0, "s a step"),
    "cost": (1.0, "for a million tokens"),
    "energy": (3.6e6, "kWh for a million tokens"),
    "days": (1.0, "days to the token budget"),
}
"""In what each aim is told, and what one of it is."""

PROVED = 1e-9
"""A gap up to this is rounding."""


class Searching(Protocol):
    """Finds the best plan on a scale, by default that of step times, such as placed_answer.placed_search does."""

    def __call__(self, objective: Objective, *, scaled: Scaled | None = None) -> Answer:
        """The best plan under an objective that names no other aim and no limits."""


def best_by_aim(question: Question, searching: Searching) -> Aimed:
    """The best plan of the space by the aim of an objective, within its deadline and budget.

    Raises:
        BadInput: what is minimised or limited is not known: a price, a board power, the tokens.
        Infeasible: nothing fits into memory, or into the limits; the text says what would.
    """
    objective = question.objective
    check_tokens(objective, question.job)
    one = _ByAim(question, searching)
    best = one.best()
    others = () if best.answer.ended_by == INTERRUPTION else one.fastest()
    tried = tuple(sorted((best, *others), key=lambda t: (-t.nodes, t.step_s)))
    words = f"{_reason(best, others, objective)} {best.answer.plan.because}"
    # a plan's bound is one of step times, and plans that come to more may well have shorter ones
    bound_s = best.answer.bound_s if objective.minimise == AIM else 0.0
    plan = replace(best.answer.plan, because=words, runner_up=one.runner_up(best), bound_s=bound_s)
    ended = INTERRUPTION if any(t.answer.ended_by == INTERRUPTION for t in tried) else best.answer.ended_by
    notes = (*best.answer.notes, _proof(best, objective))
    return Aimed(answer=replace(best.answer, plan=plan, notes=notes, ended_by=ended), tried=tried, front=front(tried))


class _ByAim:
    """Searches by one aim; arguments as of best_by_aim."""

    def __init__(self, question: Question, searching: Searching) -> None:
        self._question, self._searching = question, searching
        self._objective = question.objective

    def best(self) -> Tried:
        """The best plan within the limits.

        Raises:
            Infeasible: there is none; the text says what would do.
        """
        try:
            return self._best_by(self._objective)
        except Infeasible:
            if not (self._objective.deadline_s or self._objective.budget):
                raise
        raise beyond_limits(list(self._without_limits()), self._objective)

    def fastest(self) -> tuple[Tried, ...]:
        """The fastest plans on all nodes, half of them and so on."""
        return halves(self._question, self._searching)

    def runner_up(self, best: Tried) -> RunnerUp | None:
        """The second best plan, and by how much it is behind in what is minimised."""
        others = [plan for plan in best.answer.candidates if plan.split != best.answer.plan.split]
        if not others:
            return None
        words, score = SCORES[self._objective.minimise]
        second = self._tried(replace(best.answer, plan=others[0]))
        lost_by = f"{score(second) / score(best) - 1.0:.2%} more {words}"
        return RunnerUp(split=others[0].split, step_time_s=second.step_s, lost_by=lost_by)

    def _best_by(self, objective: Objective) -> Tried:
        scaled = partial(AimScale, replace(self._question, objective=objective))
        return self._tried(self._searching(self._question.of_step_times, scaled=scaled))

    def _tried(self, answer: Answer) -> Tried:
        nodes = len({place.node for place in answer.plan.ranks})
        return Tried(nodes=nodes, answer=answer, outlook=self._question.outlook(answer.plan))

    def _without_limits(self) -> Iterator[Tried]:
        """The soonest and the cheapest plan, and each under the limit of the other where one keeps it."""
        wanted = self._objective
        yield self._best_by(replace(wanted, minimise="days", deadline_s=0.0, budget=0.0))
        if wanted.budget:
            yield self._best_by(replace(wanted, minimise="cost", deadline_s=0.0, budget=0.0))
            for minimise, deadline_s, budget in (("cost", wanted.deadline_s, 0.0), ("days", 0.0, wanted.budget)):
                with suppress(Infeasible):
                    yield self._best_by(replace(wanted, minimise=minimise, deadline_s=deadline_s, budget=budget))


def _reason(best: Tried, others: tuple[Tried, ...], objective: Objective) -> str:
    """What was minimised, and why another plan is faster but no better."""
    words, score = SCORES[objective.minimise]
    own = f"Least {words}{within_limits(objective)} on {_devices(best)}"
    fastest = min(others, key=lambda t: t.step_s, default=best)
    if fastest.answer.plan.split == best.answer.plan.split:
        return f"{own}, which is the fastest plan too."
    more = score(fastest) / score(best) - 1.0
    told = f"{own}; the fastest plan, on {_devices(fastest)}, takes {format_seconds(fastest.step_s)} a step"
    if more <= 0:
        return f"{told} and {-more:.1%} less {words}, beyond the limits."
    name, part = _more(best, fastest)
    because = f", because its devices spend {part:.1%} more time on {name}" if part > 0 else ""
    return f"{told} and {more:.1%} more {words}{because}."


def _more(best: Tried, other: Tried) -> tuple[str, float]:
    """The term on which the devices of another plan spend most more time together, over all time of the best plan's."""
    (own, own_ranks), (its, ranks) = _predicted(best.answer.plan), _predicted(other.answer.plan)
    name, more_s = max(
        ((name, ranks * of(its.parts) - own_ranks * of(own.parts)) for name, of in TERMS), key=lambda term: term[1]
    )
    return name, more_s / (own_ranks * own.step_time_s)


def _predicted(plan: Plan) -> tuple[Prediction, int]:
    assert plan.prediction is not None
    return plan.prediction, plan.world_size


def _devices(one: Tried) -> str:
    ranks = one.answer.plan.world_size
    return f"{ranks:,} device{'s' * (ranks != 1)} of {one.nodes} node{'s' * (one.nodes != 1)}"


def _proof(best: Tried, objective: Objective) -> str:
    """What no plan of the space beats, in the aim's own unit."""
    divisor, unit = UNITS[objective.minimise]
    value, gap = SCORES[objective.minimise][1](best) / divisor, best.answer.gap
    limits = within_limits(objective)
    if gap <= PROVED:
        return f"Proved: no plan of the space{limits} comes below its {value:.4g} {unit}."
    return f"No plan of the space{limits} comes below {value / (1.0 + gap):.4g} {unit}; this one's is {value:.4g}."
