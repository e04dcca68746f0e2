"""From which copies in memory can a job go on? Pure.

A step can be taken up when, of one generation, every rank's `alone` copy of it is there, on its own node or on the
neighbour that kept it, and at least one copy of what nodes hold in common. Whether the common ones make up the whole is
seen by the node that puts them together; where they do not, training goes on from the disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A file that a node holds; `ranks` has the generation that wrote it."""

    node: str
    name: str
    generation: int
    ranks: int
    step: int
    rank: int
    alone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Restorable:
    """A step that can be taken up, and one copy of everything that is there of it."""

    generation: int
    step: int
    copies: tuple[Copy, ...]

    def ranks_by_node(self) -> Mapping[str, AbstractSet[int]]:
        """The ranks both of whose files are on a node, of each node that has some.

        What a neighbour keeps of a lost node is `alone`: what that rank held in common with others is elsewhere.
        """
        alone, common = (
            {(copy.node, copy.rank) for copy in self.copies if copy.alone == kind} for kind in (True, False)
        )
        found: dict[str, set[int]] = {}
        for node, rank in alone & common:
            found.setdefault(node, set()).add(rank)
        return found


def newest(copies: Iterable[Copy], untrusted: AbstractSet[tuple[int, int]] = frozenset()) -> Restorable | None:
    """The newest step of the newest generation that can be taken up.

    Args:
        untrusted: generations and steps whose copies turned out not to make up the training.
    """
    groups: dict[tuple[int, int], list[Copy]] = {}
    for copy in copies:
        if (copy.generation, copy.step) not in untrusted:
            groups.setdefault((copy.generation, copy.step), []).append(copy)
    for generation, step in sorted(groups, reverse=True):
        found = groups[generation, step]
        ranks = {copy.rank for copy in found if copy.alone}
        if len(ranks) == found[0].ranks:
            return Restorable(generation=generation, step=step, copies=tuple(_once(found)))
    return None


def _once(copies: Iterable[Copy]) -> Iterable[Copy]:
    """Each file once; one on the node that wrote it before one that a neighbour kept."""
    kept: Mapping[tuple[int, bool], Copy] = {}
    ordered = sorted(copies, key=lambda copy: (copy.rank, copy.alone, not copy.name.startswith("own/"), copy.node))
    kept = {(copy.rank, copy.alone): copy for copy in reversed(ordered)}
    return sorted(kept.values(), key=lambda copy: (copy.rank, copy.alone))
