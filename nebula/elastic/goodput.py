"""Where does the time of a job go? Progress, and what kept it from making any; the parts sum to wall time exactly.

A job's events tell when it begins to do something else, and what the seconds just before went into, where that is
known only afterwards: the last step before a hang, say. Pure: it counts whole nanoseconds, so that nothing is lost to
rounding, and what a simulation tells is counted like what a controller has written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from nebula.elastic.policy.values import Phase


class Category(str, Enum):
    """What a second of a job can go into.

    Attributes:
        PRODUCTIVE: new steps, at the rate of all wanted nodes.
        DEGRADED: the rate that is missing while steps are done on fewer nodes than wanted, or wait for a slow one.
        SAVING: steps held up by checkpoints and copies.
        RECOMPUTING: steps that were done before and lost.
        DETECTING: from the last step that all ranks did to the report that one failed.
        STOPPING: from there until all workers of the generation have ended.
        WAITING: for nodes, or a pause after failures in a row.
        STARTING: finding a plan, starting processes, meeting, and the first step.
        RESTORING: reading the state that is taken up.
    """

    PRODUCTIVE = "productive"
    DEGRADED = "degraded"
    SAVING = "saving"
    RECOMPUTING = "recomputing"
    DETECTING = "detecting"
    STOPPING = "stopping"
    WAITING = "waiting"
    STARTING = "starting"
    RESTORING = "restoring"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Something happened to a job.

    Attributes:
        at_s: on a clock that does not run back; where it does, no time has passed.
        phase: from now on.
        generation: from now on; a new one starts.
        stepping: steps are done from now on that were not done before; also while a generation ends at a step.
        share: of the full rate at which steps are done from now on, 0 to 1: the nodes that train of those wanted.
        afresh: nobody is left who can go on: the generation begins anew.
        before: what the seconds before this moment went into, the latest first; the others went into what was done.
        saving_s: by which saves held up steps since the moment before.
        lost_steps: that have to be done again, as is known now.
    """

    at_s: float
    phase: Phase
    generation: int = 0
    stepping: bool = False
    share: float = 1.0
    afresh: bool = False
    before: Sequence[tuple[Category, float]] = ()
    saving_s: float = 0.0
    lost_steps: int = 0


_BEGINS_WITH = {
    Phase.WAITING: Category.WAITING,
    Phase.STOPPING: Category.STOPPING,
    Phase.RUNNING: Category.STARTING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The time of a job up to a moment.

    Attributes:
        began_ns, at_ns: since 1970, or of whichever clock the moments have.
        spent_ns: of each category; together at_ns - began_ns.
        doing: what the seconds that follow go into.
    """

    began_ns: int
    at_ns: int
    spent_ns: Mapping[Category, int] = field(default_factory=lambda: MappingProxyType(dict.fromkeys(Category, 0)))
    doing: Category = Category.WAITING
    phase: Phase = Phase.WAITING
    share: float = 1.0
    generation: int = 0
    lost_steps: int = 0

    @property
    def over(self) -> bool:
        """Whether no seconds follow."""
        return self.phase.over

    @property
    def wall_ns(self) -> int:
        """From the beginning to the end, or to now."""
        return self.at_ns - self.began_ns

    @property
    def wall_s(self) -> float:
        """The same in seconds."""
        return self.wall_ns / 1e9

    @property
    def goodput(self) -> float:
        """The share of the time that was progress at the full rate; 1 before any time has passed."""
        return self.spent_ns[Category.PRODUCTIVE] / self.wall_ns if self.wall_ns else 1.0

    def seconds(self) -> Mapping[Category, float]:
        """Of each category."""
        return {category: spent / 1e9 for category, spent in self.spent_ns.items()}

    def after(self, moment: Moment) -> Account:
        """The account with what went before a moment, and what follows it."""
        doing = self._next(moment)
        return replace(
            self._up_to(_ns(moment.at_s), moment),
            doing=doing,
            phase=self.phase if self.over else moment.phase,
            share=min(1.0, max(0.0, moment.share)),
            generation=max(self.generation, moment.generation),
            lost_steps=self.lost_steps + moment.lost_steps,
        )

    def until(self, now_s: float, *, saving_s: float = 0.0) -> Account:
        """The account up to now, as if what is done went on; a later moment may know better."""
        return self._up_to(_ns(now_s), Moment(at_s=now_s, phase=Phase.RUNNING, saving_s=saving_s))

    def _up_to(self, at_ns: int, moment: Moment) -> Account:
        """Spends the time until then."""
        left = 0 if self.over else max(0, at_ns - self.at_ns)
        spent, end_ns = dict(self.spent_ns), self.at_ns + left
        for category, seconds in moment.before:
            part = min(left, max(0, _ns(seconds)))
            spent[category] += part
            left -= part
        if self.doing is Category.PRODUCTIVE:
            saving = min(left, max(0, _ns(moment.saving_s)))
            full = round((left - saving) * self.share)
            spent[Category.SAVING] += saving
            spent[Category.DEGRADED] += left - saving - full
            left = full
        spent[self.doing] += left
        return replace(self, at_ns=end_ns, spent_ns=MappingProxyType(spent))

    def _next(self, moment: Moment) -> Category:
        if moment.stepping:
            return Category.PRODUCTIVE
        if moment.phase is Phase.RUNNING and (moment.afresh or moment.generation > self.generation):
            return Category.STARTING
        return self.doing if moment.phase is self.phase else _BEGINS_WITH.get(moment.phase, self.doing)


def account(began_s: float, moments: Sequence[Moment]) -> Account:
    """The account of a job that began then, after all that happened to it.

    Example:
        >>> run = [Moment(at_s=10.0, phase=Phase.RUNNING, generation=1),
        ...        Moment(at_s=12.0, phase=Phase.RUNNING, generation=1, stepping=True),
        ...        Moment(at_s=20.0, phase=Phase.STOPPING, before=((Category.DETECTING, 3.0),))]
        >>> spent = account(0.0, run).seconds()
        >>> spent[Category.WAITING], spent[Category.STARTING], spent[Category.PRODUCTIVE], spent[Category.DETECTING]
        (10.0, 2.0, 5.0, 3.0)
    """
    began_ns = _ns(began_s)
    so_far = Account(began_ns=began_ns, at_ns=began_ns)
    for moment in moments:
        so_far = so_far.after(moment)
    return so_far


def seconds_between_failures(assumed_s: float, so_far: Account, failures: int) -> float:
    """Mean seconds between failures of a job; what was assumed counts like one failure that was seen.

    While it waits for nodes nothing of it can fail. The account is that of the whole job, whoever has led it, as its
    count of failures is.

    Example:
        >>> run = account(0.0, [Moment(at_s=100.0, phase=Phase.RUNNING, generation=1)]).until(700.0)
        >>> seconds_between_failures(3600.0, run, 0), seconds_between_failures(3600.0, run, 2)
        (4200.0, 1400.0)
    """
    exposed_s = so_far.wall_s - so_far.spent_ns[Category.WAITING] / 1e9
    return (assumed_s + exposed_s) / (1 + failures)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
