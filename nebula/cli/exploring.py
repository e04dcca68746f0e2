"""What `nebula plan --explore` does: searches for so long, for any aim, and keeps what was found for another time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nebula.cli.search_bar import SearchBar
from nebula.errors import BadInput

if TYPE_CHECKING:
    from nebula.cli.resuming import Found
    from nebula.cli.subject import Subject
    from nebula.plan.job import Objective
    from nebula.planner.aims import Tried
    from nebula.planner.explore.search import Explored
    from nebula.planner.search import Answer, Progress

BASELINES = 1.5
"""The baselines of a mixed cluster are over after so many times the patience."""


class Watch:
    """Ends a search when its time is over, and shows how far it is meanwhile.

    Args:
        patience_s: from now on.
        bar: that is drawn.
        clock: seconds.
    """

    def __init__(self, patience_s: float, bar: SearchBar, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience_s, self.bar, self.clock, self.began_s = patience_s, bar, clock, clock()
        self._shown: Progress | None = None

    def show(self, progress: Progress) -> None:
        """A way has been priced."""
        self._shown = progress
        self.bar(progress)

    def late(self, gap: float, share: float = 1.0) -> bool:
        """Whether the time, or a share of it, is over; the bound has risen since a way was priced."""
        if self._shown:
            self.bar(replace(self._shown, bound_s=self._shown.best_s / (1.0 + gap)))
        return self.clock() - self.began_s > share * self.patience_s


Settle = Callable[["Answer"], "Answer"]
"""Looks at an answer again."""


def unchanged(answer: Answer) -> Answer:
    """The answer as it is."""
    return answer


def refined(subject: Subject, patience_s: float) -> Settle:
    """Refines answers by changes that the explored space does not have, each for so many seconds at most."""
    from nebula.planner.explore.refine import refine

    def settle(answer: Answer) -> Answer:
        run, until_s = subject.run, time.monotonic() + patience_s
        asked = (subject.graph, run.cluster, run.objective)
        return refine(answer, *asked, enough=lambda: time.monotonic() > until_s)

    return settle


def explored_plans(
    subject: Subject, patience_s: float, resume: Path | None = None, settle: Settle = unchanged
) -> tuple[Answer, tuple[Tried, ...]]:
    """Searches beyond what engines can run yet, for so many seconds at most; a terminal sees how far it is.

    Args:
        patience_s: for all that is searched together.
        resume: a file of what was found before, which is written anew.
        settle: what is done with the answer before it is set beside the baselines of a mixed cluster.

    Returns:
        The answer, and the plans on other numbers of nodes that were weighed, where the objective asks for that.

    Raises:
        BadInput: the file is of another model, cluster or job, or an option does not go with the aim.
        Infeasible: nothing was found that fits.
    """
    from nebula.planner.aims import wants_more

    bar = SearchBar()
    try:
        if not wants_more(subject.run.objective):
            return _fastest(subject, patience_s, resume, bar, settle), ()
        if resume:
            raise BadInput("--resume goes on with a search for the shortest step: leave out minimise and limits, or it")
        if settle is not unchanged:
            raise BadInput("--refine looks for a shorter step: leave out minimise and limits, or it")
        return _aimed(subject, patience_s, bar)
    finally:
        bar.clear()


def _fastest(subject: Subject, patience_s: float, resume: Path | None, bar: SearchBar, settle: Settle) -> Answer:
    """The plan of the shortest step, beside what people do without a planner on a mixed cluster."""
    from nebula.cli.resuming import Found, found_before, goes_on, keep
    from nebula.planner.search import INTERRUPTION
    from nebula.planner.type_order import in_best_order

    run, watch = subject.run, Watch(patience_s, bar)
    before = found_before(resume, subject) if resume else Found()
    answer = goes_on(_explored(subject, run.objective, watch, before), before)
    if resume:
        keep(resume, subject, answer, before)
    if answer.ended_by == INTERRUPTION:
        return answer
    asked = (subject.graph, run.cluster, run.job, run.objective)
    try:
        answer = in_best_order(answer, *asked, on_progress=watch.show, enough=watch.late)
        if answer.ended_by == INTERRUPTION:
            return answer
        return _beside(subject, answer, settle, lambda gap: watch.late(gap, BASELINES))
    except KeyboardInterrupt:
        return answer


def _beside(subject: Subject, answer: Answer, settle: Settle, enough: Callable[[float], bool]) -> Answer:
    """The answer settled and, on a mixed cluster, set beside what people do without a planner."""
    from nebula.planner.explore.baselines import alone, as_slowest, is_mixed, told
    from nebula.planner.explore.joint import joint
    from nebula.planner.search import INTERRUPTION

    run = subject.run
    if not is_mixed(run.cluster):
        return settle(answer)
    asked = (subject.graph, run.cluster, run.job, run.objective)
    slow = as_slowest(*asked, enough)
    answer = settle(joint(answer, slow.plans, subject.graph, run.cluster, run.objective))
    if answer.ended_by == INTERRUPTION:
        return answer
    return replace(answer, notes=(*told(answer, (alone(*asked, enough)[0], slow)), *answer.notes))


def _aimed(subject: Subject, patience_s: float, bar: SearchBar) -> tuple[Answer, tuple[Tried, ...]]:
    """The plan by another aim, or under limits: several numbers of nodes are explored."""
    from nebula.cli.resuming import Found
    from nebula.cli.subject import with_front
    from nebula.planner.aims import aimed, most_attempts
    from nebula.planner.giving_up import given_up, order_words
    from nebula.planner.type_order import in_best_order

    run = subject.run
    order = given_up(run.cluster, run.job, run.objective)
    share_s = patience_s / most_attempts(run.cluster)

    def fastest(objective: Objective) -> Answer:
        watch, asked = Watch(share_s, bar), (subject.graph, run.cluster, run.job, objective)
        found = _explored(subject, objective, watch, Found())
        return in_best_order(found, *asked, on_progress=watch.show, enough=watch.late)

    found = aimed(subject.question, fastest, order)
    answer = replace(found.answer, notes=(*found.answer.notes, *order_words(order, run.cluster)))
    return with_front(replace(found, answer=answer))


def _explored(subject: Subject, objective: Objective, watch: Watch, before: Found) -> Explored:
    from nebula.planner.explore.search import explore

    run = subject.run
    asked = (subject.graph, run.cluster, run.job, objective)
    return explore(*asked, on_progress=watch.show, enough=watch.late, known=before.ways, frontier=before.frontier)
