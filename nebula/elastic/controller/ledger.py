"""The account of a job from its journal, event by event: after a restart of the controller it is as before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nebula.elastic.controller.journal import Happened
from nebula.elastic.goodput import Account, Category, Moment
from nebula.elastic.goodput import account as begun
from nebula.elastic.policy.values import Phase

LATEST_FIRST = (
    Category.PRODUCTIVE,
    Category.STOPPING,
    Category.DETECTING,
    Category.RECOMPUTING,
    Category.STARTING,
    Category.RESTORING,
)
"""What the seconds before an event can have gone into, in this order back from it; an event names few of them."""
SAVING, LOST = Category.SAVING.value, "lost_steps"
"""Further keys of an event's `seconds`; the latter counts steps."""


def moment(event: Happened) -> Moment:
    """What an event says of the time."""
    took = event.seconds
    return Moment(
        at_s=event.wall_s,
        phase=Phase(event.phase or Phase.WAITING),
        generation=event.generation,
        stepping=event.stepping,
        share=event.share,
        afresh=event.afresh,
        before=tuple((category, took[category.value]) for category in LATEST_FIRST if category.value in took),
        saving_s=took.get(SAVING, 0.0),
        lost_steps=int(took.get(LOST, 0)),
    )


class Ledger:
    """Where the time of a job has gone."""

    def __init__(self, kept: Iterable[Happened] = ()) -> None:
        self._account: Account | None = None
        for event in kept:
            self.add(event)

    def add(self, event: Happened) -> None:
        """Counts the time up to an event; the first begins the account."""
        so_far = self._account or begun(event.wall_s, ())
        self._account = so_far.after(moment(event))

    def until(self, now_s: float, saving_s: float) -> Account:
        """The account up to now."""
        return (self._account or begun(now_s, ())).until(now_s, saving_s=saving_s)

    def settled(self) -> Mapping[Category, int]:
        """Nanoseconds of each category up to the last event; they only rise."""
        return self._account.spent_ns if self._account else dict.fromkeys(Category, 0)

    @property
    def doing(self) -> Category:
        """What the seconds go into now."""
        return self._account.doing if self._account else Category.WAITING
