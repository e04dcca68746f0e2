"""A plan explained: why it won, what came near it and by which term it lost, how far the bound is, what was left out.

Everything is a value with its sentence, so that text and JSON say the same. Alternatives are those that the search
priced in full: the best two of the space, and further ones between which others may lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nebula.plan.values import Plan
from nebula.planner.explain import deciding_term
from nebula.planner.rejected import Rejection, rejections
from nebula.planner.search import Answer
from nebula.planner.setting import Setting
from nebula.planner.why_not import ALIKE, prediction_of
from nebula.units import format_seconds

NEAREST = 5
"""So many alternatives are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A plan that was priced and not chosen.

    Attributes:
        plan: with its prediction.
        more_s: seconds of a step that it takes more.
        term: by which it is most behind, and `term_more_s` by how many seconds.
        sentence: all of that.
    """

    plan: Plan
    more_s: float
    term: str
    term_more_s: float
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A plan and why it is that one.

    Attributes:
        plan: with its prediction and the bound of the search.
        because: why it won; a hand-written plan may have no reason.
        better: sentences about a plan that the search finds and that is faster; none for the search's own.
        bound: how far no plan can be below it, in a sentence.
        alternatives: the nearest by step time, the nearest first.
        rejections: by rule, most first.
        notes: of the search.
    """

    plan: Plan
    because: str
    better: tuple[str, ...]
    bound: str
    alternatives: tuple[Alternative, ...]
    rejections: tuple[Rejection, ...]
    notes: tuple[str, ...]


def explanation(setting: Setting, answer: Answer, plan: Plan) -> Explanation:
    """Explains a plan by what a search found.

    Args:
        setting: in which the search took place.
        answer: of the search.
        plan: the one found, or another with its prediction.
    """
    if same_decision(plan, answer.plan):
        plan = answer.plan
    plan = replace(plan, bound_s=answer.bound_s)
    return Explanation(
        plan=plan,
        because=plan.because,
        better=_better(plan, answer.plan),
        bound=_bound_sentence(plan),
        alternatives=nearest(plan, answer.candidates),
        rejections=rejections(setting, answer),
        notes=answer.notes,
    )


def nearest(plan: Plan, candidates: Sequence[Plan], most: int = NEAREST) -> tuple[Alternative, ...]:
    """The other plans by step time, the nearest to the plan first."""
    others = [other for other in candidates if not same_decision(other, plan)]
    own_s = prediction_of(plan).step_time_s
    others.sort(key=lambda other: abs(prediction_of(other).step_time_s - own_s))
    return tuple(alternative(plan, other) for other in others[:most])


def alternative(plan: Plan, other: Plan) -> Alternative:
    """Another plan against the plan, with the term that decides between them."""
    own, its = prediction_of(plan), prediction_of(other)
    more_s = its.step_time_s - own.step_time_s
    if more_s < 0:
        term, less_s = deciding_term(its.parts, own.parts)
        term_s = -less_s
    else:
        term, term_s = deciding_term(own.parts, its.parts)
    return Alternative(
        plan=other, more_s=more_s, term=term, term_more_s=term_s, sentence=_told(own.step_time_s, more_s, term, term_s)
    )


def same_decision(one: Plan, other: Plan) -> bool:
    """Whether two plans decide the same, whatever was said about them."""
    return (one.stages, one.ranks, one.schedule) == (other.stages, other.ranks, other.schedule)


def _told(own_s: float, more_s: float, term: str, term_s: float) -> str:
    if abs(more_s) <= ALIKE * own_s:
        return "takes as long; fewer ranks, less sharding, then less recomputation are preferred"
    than = "more" if more_s > 0 else "less"
    words = f"takes {format_seconds(abs(more_s))} ({abs(more_s) / own_s:.1%}) {than}"
    return f"{words}, because of {format_seconds(abs(term_s))} {than} {term}" if term_s * more_s > 0 else words


def _better(plan: Plan, best: Plan) -> tuple[str, ...]:
    own_s, its_s = prediction_of(plan).step_time_s, prediction_of(best).step_time_s
    if own_s - its_s <= ALIKE * own_s:
        return ()
    return (f"The search finds a faster plan, {best.split}: {alternative(plan, best).sentence}.",)


def _bound_sentence(plan: Plan) -> str:
    own_s = prediction_of(plan).step_time_s
    gap = own_s / plan.bound_s - 1.0
    words = f"No plan of this space takes less than {format_seconds(plan.bound_s)}"
    return f"{words}; this one takes {gap:.1%} more." if gap > 5e-4 else f"{words}, and this one takes no more."
