"""Plans by money, energy or days where a search knows step times alone, and the front of time against money.

Of plans on as many devices the fastest is also the soonest, and to rounding the cheapest and the leanest; so the search
for the shortest step is asked for several numbers of nodes, halved from all and then between the neighbours of the
best. Numbers in between are left out, by this rule. by_aim.py searches the whole space of fleet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from nebula.cluster.places import node_name
from nebula.cluster.values import Cluster
from nebula.cost_model.economy import DAY_S, Outlook
from nebula.errors import BadInput, Infeasible
from nebula.plan.job import Objective
from nebula.plan.values import PRECISION_DTYPE, Job
from nebula.planner.pool import equal_devices
from nebula.planner.scale import AIM, VALUES, Question, check_known
from nebula.planner.search import INTERRUPTION, Answer
from nebula.units import format_seconds

ROUNDS = 2
"""How often the numbers of nodes between the neighbours of the best are halved."""

Searching = Callable[[Objective], Answer]
"""Finds the plan of the shortest step under an objective."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """The fastest plan on so many nodes.

    Attributes:
        nodes: offered.
        outlook: what the plan comes to.
    """

    nodes: int
    answer: Answer
    outlook: Outlook

    @property
    def step_s(self) -> float:
        """Of the plan."""
        assert self.answer.plan.prediction is not None
        return self.answer.plan.prediction.step_time_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Aimed:
    """What was found by an aim.

    Attributes:
        answer: the chosen plan, its reason in the words of the aim.
        tried: all that was tried and fits, by nodes, most first.
        front: of these, those that no other beats in both step time and money (or energy, where a price is unknown).
    """

    answer: Answer
    tried: tuple[Tried, ...]
    front: tuple[Tried, ...]


def wants_more(objective: Objective) -> bool:
    """Whether an objective asks for more than the shortest step."""
    return objective.minimise != AIM or bool(objective.deadline_s or objective.budget)


def aimed(question: Question, searching: Searching, order: Sequence[Sequence[str]] = ()) -> Aimed:
    """The best plan by the aim of an objective, within its deadline and budget.

    Args:
        question: what a plan is asked for.
        searching: finds the plan of the shortest step.
        order: names of nodes, those of one device type together, those that are given up last first; by default the
            nodes of the type that computes most, and no others.

    Raises:
        BadInput: what is minimised or limited is not known: a price, a board power, the tokens.
        Infeasible: nothing fits into memory, or into the limits; the text says what would.
    """
    objective = question.objective
    check_tokens(objective, question.job)
    attempts = _Attempts(question, searching, order)
    for nodes in attempts.numbers:
        attempts.attempt(nodes)
    for _ in range(ROUNDS):
        for nodes in _between(attempts.known, _best(attempts.known.values(), objective, within=False).nodes):
            attempts.attempt(nodes)
    tried = attempts.tried
    chosen = _best(tried, objective)
    because = f"{_reason(chosen, tried, objective)} {chosen.answer.plan.because}"
    told = f"Numbers of nodes that were tried: {', '.join(str(t.nodes) for t in tried)}; the bound is that of plans on "
    notes = (*chosen.answer.notes, f"{told}{counted(chosen.nodes)} or fewer.")
    ended = INTERRUPTION if attempts.interrupted else chosen.answer.ended_by
    plan = replace(chosen.answer.plan, because=because)
    answer = replace(chosen.answer, plan=plan, notes=notes, ended_by=ended)
    return Aimed(answer=answer, tried=tried, front=front(tried))


def halves(question: Question, searching: Searching) -> tuple[Tried, ...]:
    """The fastest plans on all nodes, on half of them and so on while one fits; arguments and errors as of aimed."""
    attempts = _Attempts(question, searching)
    for nodes in attempts.numbers:
        attempts.attempt(nodes)
        if nodes not in attempts.known:
            break
    return attempts.tried


def most_attempts(cluster: Cluster) -> int:
    """On how many numbers of a cluster's nodes `aimed` searches at most."""
    types = {group.device.name for group in cluster.groups}
    return len(_halved(sum(group.count for group in cluster.groups))) + len(types) - 1 + 2 * ROUNDS


class _Attempts:
    """Searches on several numbers of nodes, until one is interrupted; arguments as of aimed."""

    def __init__(self, question: Question, searching: Searching, order: Sequence[Sequence[str]] = ()) -> None:
        self._question, self._searching = question, searching
        cluster, job, objective = question.cluster, question.job, question.objective
        self._others: tuple[str, ...] = ()
        if not order:
            pool = equal_devices(cluster, PRECISION_DTYPE[job.precision], objective.exclude)
            order = [list(dict.fromkeys(node_name(cluster, device) for device in pool.devices))]
            # with fewer nodes of the type another one might compute more in all
            self._others = tuple(group.name for group in cluster.groups if group.device.name != pool.device.name)
        self._names = [name for names in order for name in names]
        self._whole = list(accumulate(map(len, order)))
        self.known: dict[int, Tried] = {}
        self.interrupted = False

    @property
    def numbers(self) -> list[int]:
        """All nodes, half of them, and so on, and all of the first types; most first."""
        return sorted({*_halved(len(self._names)), *self._whole}, reverse=True)

    def attempt(self, nodes: int) -> None:
        """Tries so many nodes, of which too few for the model or for fixed degrees are no error."""
        if nodes in self.known or self.interrupted:
            return
        bare = self._question.of_step_times
        try:
            out = (*bare.exclude, *self._others, *self._names[nodes:])
            answer = self._searching(replace(bare, exclude=out))
        except (BadInput, Infeasible):
            if nodes == len(self._names):
                raise
            return
        except KeyboardInterrupt:
            if not self.known:
                raise
            self.interrupted = True
            return
        self.interrupted = answer.ended_by == INTERRUPTION
        ahead = self._question.outlook(answer.plan)
        check_known(self._question.objective, ahead.money.unknown, ahead.energy.unknown)
        self.known[nodes] = Tried(nodes=nodes, answer=answer, outlook=ahead)

    @property
    def tried(self) -> tuple[Tried, ...]:
        """What fits, most nodes first."""
        return tuple(self.known[nodes] for nodes in sorted(self.known, reverse=True))


def front(tried: Sequence[Tried]) -> tuple[Tried, ...]:
    """Those that no other beats both in step time and in money for a token (or energy, where a price is unknown)."""
    found, least = [], math.inf
    for one in sorted(tried, key=lambda t: (t.step_s, per_token(t.outlook))):
        if per_token(one.outlook) < least:
            found.append(one)
            least = per_token(one.outlook)
    return tuple(found)


def counted(nodes: int) -> str:
    """A number of nodes in words."""
    return f"{nodes} node{'s' * (nodes != 1)}"


def per_token(ahead: Outlook) -> float:
    """Money for a million tokens, or joules where a price is unknown."""
    return ahead.energy.per_million_tokens_j if ahead.money.unknown else ahead.money.per_million_tokens


def _halved(nodes: int) -> list[int]:
    found = [nodes]
    while found[-1] > 1:
        found.append(-(-found[-1] // 2))
    return found


def _between(known: dict[int, Tried], best: int) -> list[int]:
    """Numbers of nodes half way from the best to the next that was tried on either side."""
    numbers = sorted(known)
    at = numbers.index(best)
    beside = [numbers[i] for i in (at - 1, at + 1) if 0 <= i < len(numbers)]
    return [middle for other in beside if (middle := (best + other) // 2) not in known]


def within_limits(objective: Objective) -> str:
    """The limits of an objective in words, with a blank before them; empty where it has none."""
    limits = [name for name, given in (("deadline", objective.deadline_s), ("budget", objective.budget)) if given]
    return f" within the {' and '.join(limits)}" if limits else ""


SCORES: dict[str, tuple[str, Callable[[Tried], float]]] = {
    "step_time": ("step time", lambda t: t.step_s),
    "cost": ("money for a token", lambda t: VALUES["cost"](t.outlook)),
    "energy": ("energy for a token", lambda t: VALUES["energy"](t.outlook)),
    "days": ("days to the token budget", lambda t: VALUES["days"](t.outlook)),
}
"""What each aim minimises, in words, and its value."""


def _best(tried: Iterable[Tried], objective: Objective, *, within: bool = True) -> Tried:
    every = list(tried)
    score = SCORES[objective.minimise][1]
    allowed = [t for t in every if not within or _late(t, objective) <= 0 >= _dear(t, objective)]
    if not allowed:
        raise beyond_limits(every, objective)
    return min(allowed, key=lambda t: (score(t), t.nodes))


def _late(one: Tried, objective: Objective) -> float:
    """Seconds behind the deadline; negative before it."""
    return one.outlook.days.with_failures * DAY_S - objective.deadline_s if objective.deadline_s else -1.0


def _dear(one: Tried, objective: Objective) -> float:
    """Money beyond the budget."""
    return one.outlook.money.budget - objective.budget if objective.budget else -1.0


def beyond_limits(tried: Sequence[Tried], objective: Objective) -> Infeasible:
    """Which limit contradicts, alone or with the other, and what would do."""
    soonest = min(tried, key=lambda t: t.outlook.days.with_failures)
    cheapest = min(tried, key=lambda t: t.outlook.money.budget)
    days, money = soonest.outlook.days.with_failures, cheapest.outlook.money.budget
    if objective.deadline_s and _late(soonest, objective) > 0:
        return Infeasible(
            f"objective.limits.deadline: the soonest plan, on {counted(soonest.nodes)}, takes {days:.3g} days, more "
            f"than {objective.deadline_s / DAY_S:.3g}; deadline={math.ceil(days)}d would do"
        )
    if objective.budget and _dear(cheapest, objective) > 0:
        return Infeasible(
            f"objective.limits.budget: the cheapest plan, on {counted(cheapest.nodes)}, costs {money:,.0f}, more than "
            f"{objective.budget:,.0f}; budget={math.ceil(money)} would do"
        )
    timely = min((t for t in tried if _late(t, objective) <= 0), key=lambda t: t.outlook.money.budget)
    affordable = min((t for t in tried if _dear(t, objective) <= 0), key=lambda t: t.outlook.days.with_failures)
    return Infeasible(
        f"objective.limits: deadline and budget contradict: what ends in time costs {timely.outlook.money.budget:,.0f} "
        f"or more, what is within the budget takes {affordable.outlook.days.with_failures:.3g} days or more; "
        f"budget={math.ceil(timely.outlook.money.budget)} or "
        f"deadline={math.ceil(affordable.outlook.days.with_failures)}d would do"
    )


def check_tokens(objective: Objective, job: Job) -> None:
    """Refuses what asks for days or for the money of a whole training without a token budget.

    Raises:
        BadInput: it does.
    """
    asked = {
        "objective.minimise=days": objective.minimise == "days",
        "objective.limits.deadline": bool(objective.deadline_s),
        "objective.limits.budget": bool(objective.budget),
    }
    for name, wanted in asked.items():
        if wanted and not job.tokens:
            raise BadInput(f"{name} needs to know how many tokens are trained on: give job.tokens, such as 300e9")


def _reason(chosen: Tried, tried: Sequence[Tried], objective: Objective) -> str:
    """Why so many nodes, in a sentence."""
    words, score = SCORES[objective.minimise]
    others = [t for t in tried if t is not chosen]
    if not others:
        return f"Least {words}: nothing else fits."
    next_best = min(others, key=score)
    more = score(next_best) / score(chosen) - 1.0
    takes = "takes" if next_best.nodes == 1 else "take"
    told = f"{counted(next_best.nodes)} {takes} {abs(more):.1%} {'more' if more >= 0 else 'less'}"
    least = f"Least {words}{within_limits(objective)} on {counted(chosen.nodes)}"
    return f"{least}; {told}, {format_seconds(next_best.step_s)} a step."
