"""Which plan for each phase of a training whose batch and sequence length change, and when switching pays for itself.

Each phase is searched for its own best plan, and for the best of those whose rows divide the batches of all phases. Of
what is found the course through the phases that takes least is chosen: going on with a plan takes nothing, switching
takes a restart and the time in which weights and optimizer states move. Other courses are not looked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from nebula.cluster.places import exclude
from nebula.cluster.values import Cluster
from nebula.errors import BadInput, Infeasible
from nebula.graph.values import DistributedGraph
from nebula.plan.conditions import Conditions
from nebula.plan.job import Objective, Phase
from nebula.plan.values import Job, Plan
from nebula.planner.aims import wants_more
from nebula.planner.kept_plan import descended
from nebula.planner.legs import Leg, Phased, Switch, total_s
from nebula.planner.moves import Left, Moves, plan_sizes
from nebula.planner.options import move_words, step_s
from nebula.planner.search import Told
from nebula.planner.stretch import Stretch, way_of
from nebula.planner.switching import best_course
from nebula.units import format_seconds

STARTS = 3
"""Plans of different degrees from which one plan for all phases is looked for."""

Graphs = Callable[[int | None], DistributedGraph]
"""The model at a sequence length; None: its own."""


def plan_phases(
    phases: Sequence[Phase],
    graph_at: Graphs,
    cluster: Cluster,
    job: Job,
    objective: Objective | None = None,
    conditions: Conditions | None = None,
    *,
    on_progress: Told = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Phased:
    """The plans for phases that follow each other, and when to switch.

    Args:
        phases: in order.
        graph_at: the model at a sequence length.
        cluster: what may be used.
        job: precision, optimizer and memory to fill; batch and tokens are those of the phases.
        objective: fixed degrees and nodes to leave out.
        conditions: what a restart takes, and under which failures days are counted.
        on_progress: called each time a candidate has been priced.
        clock: seconds, for the time that planning reports.

    Raises:
        BadInput: an aim other than time, a phase shorter than a step, or weights that depend on the sequence length.
        Infeasible: nothing fits in a phase.
    """
    objective, under, began_s = objective or Objective(), conditions or Conditions(), clock()
    if wants_more(objective):
        raise BadInput("phases are planned for the shortest training: leave out objective.minimise and limits")
    stretches = _stretches(phases, graph_at, cluster, job, objective, under, on_progress)
    courses = _Courses(phases, stretches, objective, under)
    legs, one_plan, each_best = courses.best(), courses.one_plan(), courses.each_best()
    if math.isinf(total_s(legs)):
        raise Infeasible("failures undo more than is trained, so that no plan ends: see the run file's `reliability`")
    return Phased(
        legs=legs,
        one_plan=one_plan,
        each_best=each_best,
        least_s=sum(stretch.least_s for stretch in courses.stretches),
        because=_reason(legs, one_plan, each_best, courses),
        interrupted=tuple(k for k, stretch in enumerate(stretches, 1) if stretch.answer.ended_by),
        seconds=clock() - began_s,
    )


def _stretches(
    phases: Sequence[Phase],
    graph_at: Graphs,
    cluster: Cluster,
    job: Job,
    objective: Objective,
    conditions: Conditions,
    on_progress: Told,
) -> list[Stretch]:
    graphs = {phase.seq_len: graph_at(phase.seq_len) for phase in phases}
    _check_weights(list(graphs.values()))
    batches = tuple(dict.fromkeys(phase.global_batch for phase in phases))
    found: dict[Phase, Stretch] = {}
    for number, phase in enumerate(phases, 1):
        if phase not in found:
            found[phase] = Stretch(
                f"phase {number}",
                graphs[phase.seq_len],
                cluster,
                replace(job, global_batch=phase.global_batch, tokens=phase.tokens, steps=0),
                objective,
                batches,
                conditions,
                on_progress,
            )
    return [found[phase] for phase in phases]


def _check_weights(graphs: Sequence[DistributedGraph]) -> None:
    """Weights go from phase to phase only where they are the same."""
    first = graphs[0]
    for other in graphs[1:]:
        if (other.parameter_count, other.layers) != (first.parameter_count, first.layers):
            raise BadInput(
                f"{first.name} has {first.parameter_count:,} parameters at {first.tokens_per_row:,} tokens a row and "
                f"{other.parameter_count:,} at {other.tokens_per_row:,}: such phases cannot follow each other"
            )


class _Courses:
    """What was found for all phases, and the ways through it."""

    def __init__(
        self, phases: Sequence[Phase], stretches: Sequence[Stretch], objective: Objective, under: Conditions
    ) -> None:
        self.phases, self.stretches, self.restart_s = phases, stretches, under.reliability.restart_s
        self.reliability, self.cluster = under.reliability, exclude(stretches[0].cluster, objective.exclude)
        plans = {way_of(plan): plan for stretch in stretches for plan in stretch.offered()}
        plans |= {way_of(plan): plan for plan in self._kept(plans.values(), objective.fixed)}
        served = {stretch: stretch.tried(plans.values()) for stretch in dict.fromkeys(stretches)}
        every = [served[stretch] for stretch in stretches]
        numbers = {way: number for number, way in enumerate(dict.fromkeys(way for tried in every for way in tried))}
        # ways are long, so they go by number from here on
        self.tried = [{numbers[way]: one for way, one in tried.items()} for tried in every]
        self.sizes = plan_sizes(stretches[0].chains, stretches[0].answer.plan)
        self._left: dict[int, Left] = {}

    def _kept(self, plans: Iterable[Plan], fixed: Mapping[str, int | str]) -> Iterator[Plan]:
        """Plans that serve in all phases, the best that are found from each of a few different ones."""
        batch = math.gcd(*(stretch.job.global_batch for stretch in self.stretches))
        # who holds most serves least often
        strictest = sorted(self.stretches, key=lambda stretch: -stretch.graph.tokens_per_row)

        def taken_s(plan: Plan) -> float:
            seconds = 0.0
            for stretch in strictest:
                one = stretch.adapted(plan)
                if isinstance(one, str):
                    return math.inf
                seconds += one.seconds
            return seconds

        serving = [(seconds, plan) for plan in plans if (seconds := taken_s(plan)) < math.inf]
        starts: dict[tuple[int, int, int], Plan] = {}
        for _, plan in sorted(serving, key=lambda pair: pair[0]):
            starts.setdefault((plan.stages[0].data, plan.stages[0].tensor, len(plan.stages)), plan)
        for plan in list(starts.values())[:STARTS]:
            yield descended(plan, taken_s, fixed, batch)

    def best(self) -> tuple[Leg, ...]:
        """The course that takes least."""
        ways = [list(tried) for tried in self.tried]
        own_s = [[tried[way].seconds for way in each] for tried, each in zip(self.tried, ways, strict=True)]

        def least_s(k: int, a: int, b: int) -> float:
            return self.restart_s * (ways[k][a] != ways[k + 1][b])

        def exact_s(k: int, a: int, b: int) -> float:
            return self._switch(ways[k][a], ways[k + 1][b], k).seconds

        course = best_course(own_s, least_s, exact_s)
        return self._legs([ways[k][index] for k, index in enumerate(course.chosen)])

    def one_plan(self) -> tuple[Leg, ...]:
        """The course of no switch that takes least; empty where no plan serves all phases."""
        common = [way for way in self.tried[0] if all(way in tried for tried in self.tried)]
        if not common:
            return ()
        best = min(common, key=lambda way: sum(tried[way].seconds for tried in self.tried))
        return self._legs([best] * len(self.tried))

    def each_best(self) -> tuple[Leg, ...]:
        """The best plan of each phase."""
        return self._legs([min(tried, key=lambda way: tried[way].seconds) for tried in self.tried])

    def _legs(self, ways: Sequence[int]) -> tuple[Leg, ...]:
        found: list[Leg] = []
        for k, (way, stretch) in enumerate(zip(ways, self.stretches, strict=True)):
            one = self.tried[k][way]
            found.append(
                Leg(
                    phase=self.phases[k],
                    plan=one.plan,
                    outlook=one.outlook,
                    steps=stretch.job.tokens / stretch.step_tokens,
                    switch=self._switch(ways[k - 1], way, k - 1) if k else Switch(),
                )
            )
        return tuple(found)

    def _switch(self, before: int, after: int, k: int) -> Switch:
        """From a plan of phase k to one of the next."""
        if before == after:
            return Switch()
        old, new = self.tried[k][before].plan, self.tried[k + 1][after].plan
        if before not in self._left:
            self._left[before] = Left(old, self.cluster, self.sizes, self.reliability)
        moved = self._left[before].moves(new)
        return Switch(moves=moved, restart_s=self.restart_s, because=self._pays(old, new, moved, k + 1))

    def _pays(self, old: Plan, new: Plan, moved: Moves, k: int) -> str:
        """Why the plan of the phase before is left, in a sentence."""
        stretch = self.stretches[k]
        kept = stretch.adapted(old)
        text = f"Before phase {k + 1}: {move_words(moved)} and restarts in {format_seconds(self.restart_s)}; "
        text += f"a step takes {format_seconds(step_s(new))}, and the plan before "
        if isinstance(kept, str):
            return f"{text}cannot go on: {kept}."
        return f"{text}would take {step_s(kept.plan) / step_s(new) - 1.0:.2%} more."


def _reason(legs: Sequence[Leg], one_plan: Sequence[Leg], each_best: Sequence[Leg], courses: _Courses) -> str:
    """Why these plans, in a sentence."""
    switched = [number for number, leg in enumerate(legs, 1) if leg.switch.because]
    switching_s, taken_s = sum(leg.switch.seconds for leg in legs), total_s(legs)
    if not switched:
        if way_of(each_best[0].plan) == way_of(legs[0].plan) and not any(leg.switch.because for leg in each_best):
            return "One plan is the best of every phase."
        saved_s = taken_s - sum(leg.seconds for leg in each_best)
        cost_s = sum(leg.switch.seconds for leg in each_best)
        return (
            f"One plan for all phases: each phase's own best would train {format_seconds(saved_s)} less, "
            f"and switching to them take {format_seconds(cost_s)}."
        )
    names = " and ".join(map(str, switched))
    text = f"Switching before phase{'s' * (len(switched) > 1)} {names} takes {format_seconds(switching_s)}"
    if not one_plan:
        return f"{text}; no plan that was found serves all phases: {_why_not_one(courses)}."
    saved_s = total_s(one_plan) - taken_s
    return f"{text} and shortens training by {format_seconds(saved_s)} ({saved_s / total_s(one_plan):.1%}) in all."


def _why_not_one(courses: _Courses) -> str:
    """What keeps the best plan of the longest phase from serving in another."""
    stretches = courses.stretches
    longest = max(stretches, key=lambda stretch: stretch.least_s)
    plan = longest.answer.plan
    for stretch in stretches:
        if isinstance(why := stretch.adapted(plan), str):
            return f"that of {longest.name} cannot train {stretch.name}: {why}"
    return f"those that are legal in all of {len(stretches)} do not fit"
