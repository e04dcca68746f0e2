"""Who watches a controller: told of events, steps and saves on its event loop, and must be quick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nebula.elastic.controller.journal import Happened


class Watch(Protocol):
    """Is told what happens."""

    def happened(self, event: Happened) -> None:
        """An event is in the journal."""

    def stepped(self, steps: int, step_s: float) -> None:
        """All ranks have done so many more steps, of about so many seconds each."""

    def saved(self, stall_s: float) -> None:
        """Saves have held steps up for so many seconds more."""

    def wrote(self, tier: str, nbytes: int) -> None:
        """So many more bytes of copies of the training lie in a tier: memory, disk."""


class Watches:
    """Several, or none."""

    def __init__(self, watches: Sequence[Watch] = ()) -> None:
        self._watches = tuple(watches)

    def happened(self, event: Happened) -> None:
        """See Watch."""
        for watch in self._watches:
            watch.happened(event)

    def stepped(self, steps: int, step_s: float) -> None:
        """See Watch."""
        for watch in self._watches:
            watch.stepped(steps, step_s)

    def saved(self, stall_s: float) -> None:
        """See Watch."""
        for watch in self._watches:
            watch.saved(stall_s)

    def wrote(self, tier: str, nbytes: int) -> None:
        """See Watch."""
        for watch in self._watches:
            watch.wrote(tier, nbytes)
