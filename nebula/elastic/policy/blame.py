"""Of ranks that stand still together, which one do the others wait for? Pure.

A rank that hangs holds up all others of a synchronous training, and each of them may be the first that is found silent:
so all ranks of all nodes are asked before one is blamed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nebula.runtime.progress import Section

WAITING = frozenset({Section.BACKWARD, Section.UPDATE, Section.COLLECTIVE, Section.CHECKPOINT, Section.END})
"""Sections in which a rank may only be waiting for others."""
TOLD = frozenset({Section.LOAD, Section.CHECKPOINT, Section.PAUSE})
"""Sections of which a rank says again and again that it goes on, since nobody knows how long they take."""
SILENT_S = 1.6
"""Silence of which no agent speaks sooner (nebula.elastic.agent.hang)."""
STILL = 0.5
"""Who has been silent for less than this share of the longest silence was going on meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A rank that has said nothing for a while.

    Attributes:
        silent_s: for how long.
        frozen: its process is stopped by a signal.
        parked: its main thread sleeps until another thread wakes it, as one that waits in a collective does.
        busy: its main thread waits for nobody at this moment: it computes, or sleeps for a while of its own.
    """

    rank: int
    step: int
    section: Section
    silent_s: float
    frozen: bool = False
    parked: bool = False
    busy: bool = False

    @property
    def cause(self) -> str:
        """As after 'rank 1 on a'."""
        state = " and is stopped by a signal" if self.frozen else ""
        return (
            f"made no progress for {self.silent_s:.1f} s in {self.section.name.lower()} of step {self.step + 1}{state}"
        )


def culprit(silent: Iterable[Silence]) -> Silence:
    """Of ranks, some of which are silent, the one that the others wait for.

    A process that is stopped comes first, then one that cannot be waiting, by its section or by what its main thread
    does, then the one that is least far and has been silent for longest. A rank that was going on is not to blame.
    """
    told = list(silent)
    longest_s = max(one.silent_s for one in told)
    still = [one for one in told if one.silent_s >= STILL * longest_s]
    return min(still, key=_innocence)


def waits_for_told(blamed: Silence, told: Iterable[Silence]) -> bool:
    """Whether one that may be waiting can wait for a rank that says itself that what it does goes on.

    Who waits for another in the middle of a forward is known by its main thread alone.
    """
    goes_on = any(one.section in TOLD and one.silent_s < STILL * blamed.silent_s for one in told)
    return goes_on and (blamed.section in WAITING or blamed.parked) and not blamed.frozen


def _innocence(one: Silence) -> tuple[bool, bool, bool, int, Section, float]:
    return not one.frozen, one.section in WAITING, one.parked, one.step, one.section, -one.silent_s
