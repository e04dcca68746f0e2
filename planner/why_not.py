"""Why a plan has not the degrees that someone names: the first reason for which the alternative loses.

In this order: the degrees exclude each other; no split with them fits into memory; the best plan with them is slower.
What is not named is chosen by the search, so the alternative is the best of its kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nebula.errors import BadInput, Infeasible
from nebula.plan.degrees import degree_words, degrees_of
from nebula.plan.values import Plan, Prediction
from nebula.planner.contradiction import contradictions
from nebula.planner.explain import TERMS, deciding_term
from nebula.planner.fullest import fullest, too_full
from nebula.planner.infeasible import describe, leanest, remedies
from nebula.planner.setting import Setting
from nebula.planner.sites import AcrossWan
from nebula.units import format_seconds

ALIKE = 1e-9
"""Step times that differ by a smaller share are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyNot:
    """What became of an alternative.

    Attributes:
        degrees: that were named.
        outcome: `chosen` (the plan has them), `contradiction`, `refused` (by the planner), `memory`, `slower`, `equal`
            or `faster` (than a plan that the search did not choose).
        sentence: the answer.
        facts: further sentences: other contradictions, what the alternative saves, rules that kept it out before.
        remedies: single changes that would admit it, where it is no plan.
        rule: of nebula.planner.space.RULES, `value` or `sharding`, where one is broken.
        plans: the alternative, complete, where there is one.
        stage: of the fullest device, where memory is short, and `over_bytes` by how much.
        more_s: seconds of a step that the alternative takes more.
        term: that decided, and `term_more_s` by how many seconds it is larger.
    """

    degrees: Mapping[str, int | str]
    outcome: str
    sentence: str
    facts: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    rule: str = ""
    plans: tuple[Plan, ...] = ()
    stage: int = 0
    over_bytes: float = 0.0
    more_s: float = 0.0
    term: str = ""
    term_more_s: float = 0.0


def why_not(setting: Setting, plan: Plan, degrees: Mapping[str, int | str]) -> WhyNot:
    """The first reason for which the alternative with some degrees loses against a plan.

    Args:
        setting: in which the plan was made; degrees that its objective fixes hold unless they are named.
        plan: with its prediction.
        degrees: by a name of nebula.plan.job.FIXABLE.

    Raises:
        BadInput: a name or a value is none that a degree can have.
    """
    own = degrees_of(plan)
    if all(own[name] == value for name, value in degrees.items()):
        sentence = f"The plan itself has {degree_words(degrees)}: {plan.split}."
        return WhyNot(degrees=degrees, outcome="chosen", sentence=sentence, plans=(plan,))
    asked = setting.objective.fixed
    wanted = setting.fixing({**asked, **degrees})
    other = {name: value for name, value in asked.items() if degrees.get(name, value) != value}
    facts = (f"objective.fixed asks for {degree_words(other)}, which was set aside to look at this.",) if other else ()
    clash = contradictions(wanted, {**asked, **degrees})
    if clash:
        first, *rest = clash
        return WhyNot(
            degrees=degrees,
            outcome="contradiction",
            sentence=f"{_opened(first.sentence)}.",
            facts=(*facts, *(f"{_opened(each.sentence)}." for each in rest)),
            remedies=first.remedies,
            rule=first.rule,
        )
    return _searched(wanted, plan, degrees, (*facts, *_left_out(setting, degrees)))


def _searched(wanted: Setting, plan: Plan, degrees: Mapping[str, int | str], facts: tuple[str, ...]) -> WhyNot:
    try:
        answer = wanted.best()
    except AcrossWan as crossing:
        sentence = f"{_opened(str(crossing))}."
        return WhyNot(degrees=degrees, outcome="refused", rule="wan", sentence=sentence, facts=facts)
    except Infeasible as nothing:
        return _does_not_fit(wanted, degrees, facts, str(nothing))
    except BadInput as refused:
        return WhyNot(degrees=degrees, outcome="refused", rule="engine", sentence=f"{refused}.", facts=facts)
    return _compared(plan, answer.plan, degrees, facts)


def _does_not_fit(wanted: Setting, degrees: Mapping[str, int | str], facts: tuple[str, ...], nothing: str) -> WhyNot:
    """The stage and the bytes of the leanest split with the named degrees."""
    least = leanest(wanted.prices, wanted.limits)
    if least is None:
        return WhyNot(degrees=degrees, outcome="memory", rule="memory", sentence=f"{nothing}.", facts=facts)
    full = fullest(wanted, least.split)
    return WhyNot(
        degrees=degrees,
        outcome="memory",
        rule="memory",
        sentence=f"No split with {degree_words(degrees)} fits: of the leanest, {describe(least.split)}, "
        f"{full.sentence}.",
        facts=facts,
        remedies=tuple(remedies(wanted.prices, wanted.limits)),
        plans=(full.plan,),
        stage=full.stage,
        over_bytes=full.over_bytes,
    )


def _compared(plan: Plan, other: Plan, degrees: Mapping[str, int | str], facts: tuple[str, ...]) -> WhyNot:
    """The best plan with the named degrees against the plan."""
    won, lost = prediction_of(plan), prediction_of(other)
    more_s = lost.step_time_s - won.step_time_s
    outcome = "slower" if more_s > 0 else "faster"
    if abs(more_s) <= ALIKE * won.step_time_s:
        outcome = "equal"
    term, term_s = deciding_term(won.parts, lost.parts) if more_s > 0 else _saved(won, lost)
    return WhyNot(
        degrees=degrees,
        outcome=outcome,
        sentence=f"The best plan with {degree_words(degrees)}, {other.split}, takes "
        f"{format_seconds(lost.step_time_s)} a step, {_against(won, lost, outcome)}"
        + (f", because of {format_seconds(abs(term_s))} {'more' if term_s > 0 else 'less'} {term}." if term_s else "."),
        facts=(*facts, *_further(won, other, outcome)),
        plans=(other,),
        more_s=more_s,
        term=term,
        term_more_s=term_s,
    )


def _against(won: Prediction, lost: Prediction, outcome: str) -> str:
    own = format_seconds(won.step_time_s)
    if outcome == "equal":
        return f"as long as the {own} of the plan"
    more_s = lost.step_time_s - won.step_time_s
    words = f"{format_seconds(abs(more_s))} ({abs(more_s) / won.step_time_s:.1%})"
    return f"{words} {'more' if more_s > 0 else 'less'} than the {own} of the plan"


def _further(won: Prediction, other: Plan, outcome: str) -> tuple[str, ...]:
    """What the alternative saves, and what no plan of its kind can beat."""
    lost, facts = prediction_of(other), []
    term, less_s = _saved(won, lost)
    if outcome == "slower" and less_s < -ALIKE * won.step_time_s:
        facts.append(f"It saves {format_seconds(-less_s)} of {term}.")
    if outcome == "slower" and other.bound_s > won.step_time_s:
        facts.append(f"No plan with these degrees takes less than {format_seconds(other.bound_s)}.")
    if full := too_full(won):
        facts.append(f"The plan itself does not fit: {full}.")
    if outcome == "faster":
        facts.append("The plan is not the one that the search chooses; `nebula plan` finds that.")
    return tuple(facts)


def _saved(won: Prediction, lost: Prediction) -> tuple[str, float]:
    """The term of which the loser has less by most, and by how many seconds (negative)."""
    return min(((name, of(lost.parts) - of(won.parts)) for name, of in TERMS), key=lambda term: term[1])


def _left_out(setting: Setting, degrees: Mapping[str, int | str]) -> tuple[str, ...]:
    """What a search leaves out unless it is asked for: tensor groups that lie unevenly over nodes."""
    tensor, per_node = degrees.get("tensor", 1), setting.limits.devices_per_node
    if not isinstance(tensor, int) or per_node % tensor == 0 or "tensor" in setting.limits.fixed:
        return ()
    equation = f"{tensor} > {per_node}" if tensor > per_node else f"{per_node} % {tensor} = {per_node % tensor}"
    return (
        f"Unless it is fixed, a search leaves tensor {tensor} out, as its groups do not fit evenly into a node of "
        f"{per_node} devices ({equation}).",
    )


def prediction_of(plan: Plan) -> Prediction:
    """The prediction of a plan that has one."""
    assert plan.prediction is not None, "evaluate the plan first"
    return plan.prediction


def _opened(sentence: str) -> str:
    """With a capital letter."""
    return sentence[0].upper() + sentence[1:]
