"""Who trains together at the moment, and how members learn of changes.

Members have numbers that are given once; one that fails and comes back is another member. Every change gives a new
epoch, a number that rises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Who trains together.

    Attributes:
        epoch: rises with every change.
        addresses: `HOST:PORT` of each member by its number, in the order of the numbers.
        fresh: members that have no state yet.
    """

    epoch: int
    addresses: dict[int, str]
    fresh: frozenset[int] = frozenset()

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of all members, ascending."""
        return tuple(sorted(self.addresses))

    @property
    def settled(self) -> tuple[int, ...]:
        """Those with a state, ascending."""
        return tuple(number for number in self.numbers if number not in self.fresh)


class Roll(Protocol):
    """Knows who is a member; called by one thread."""

    def now(self) -> Members:
        """The newest members that are known of here; costs next to nothing."""

    def wait(self, epoch: int) -> None:
        """Returns once that epoch, or a later one, is known of here."""

    def broken(self, epoch: int, why: str) -> None:
        """Says that members of an epoch do not reach each other; another epoch follows."""

    def settled(self, epoch: int) -> None:
        """Says that all members of an epoch have the state, so that none of them is fresh any longer."""
