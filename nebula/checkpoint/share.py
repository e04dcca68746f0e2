"""Which rank writes what: of a piece that several ranks hold, one writes it, so that their files grow evenly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nebula.checkpoint.boxes import Box, Shape, overlap


class Copy(NamedTuple):
    """A piece that a rank holds.

    Attributes:
        key: of the tensor.
        elements: of the whole tensor.
        item_bytes: of one element.
    """

    key: str
    box: Box
    elements: int
    item_bytes: int

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.box.elements * self.item_bytes

    @property
    def plain(self) -> tuple[str, Shape, Shape, int, int]:
        """As ranks tell each other."""
        return self.key, self.box.offset, self.box.shape, self.elements, self.item_bytes

    @classmethod
    def told(cls, plain: tuple[str, Shape, Shape, int, int]) -> Copy:
        """From what another rank has told.

        >>> piece = Copy("w", Box((0,), (4,)), 8, 2)
        >>> Copy.told(piece.plain) == piece
        True
        """
        key, offset, shape, elements, item_bytes = plain
        return cls(key, Box(offset, shape), elements, item_bytes)


def writers(held: Sequence[Sequence[Copy]]) -> dict[tuple[str, Box], int]:
    """The rank that writes each piece; a piece that others make up is written by nobody.

    Every rank works this out alike: the largest pieces first, each to the holder with the fewest bytes so far.

    Args:
        held: of each rank.

    Example:
        >>> row = Box((0,), (4,))
        >>> writers([[Copy("a", row, 4, 4), Copy("b", row, 4, 4)], [Copy("a", row, 4, 4), Copy("b", row, 4, 4)]])
        {('a', Box(offset=(0,), shape=(4,))): 0, ('b', Box(offset=(0,), shape=(4,))): 1}
    """
    holders: dict[Copy, list[int]] = {}
    for rank, copies in enumerate(held):
        for copy in copies:
            holders.setdefault(copy, []).append(rank)
    load = [0] * len(held)
    chosen = {}
    for copy in sorted(_needed(holders), key=lambda one: (-one.bytes, one.key, one.box.offset)):
        writer = min(holders[copy], key=lambda rank: (load[rank], rank))
        load[writer] += copy.bytes
        chosen[copy.key, copy.box] = writer
    return chosen


def _needed(copies: Iterable[Copy]) -> list[Copy]:
    """Copies that hold every element once, also where replicas of unlike tensor degrees cut a tensor unlike."""
    by_key: dict[str, list[Copy]] = {}
    for copy in copies:
        by_key.setdefault(copy.key, []).append(copy)
    needed = []
    for same in by_key.values():
        more = sum(copy.box.elements for copy in same) > same[0].elements
        needed += _apart(same) if more else same
    return needed


def _apart(copies: Sequence[Copy]) -> list[Copy]:
    """The largest copies that overlap no other: all of one replica, whose cuts are equal."""
    taken: list[Copy] = []
    for copy in sorted(copies, key=lambda one: (-one.box.elements, one.box.offset)):
        if all(overlap(copy.box, other.box) is None for other in taken):
            taken.append(copy)
    return taken
