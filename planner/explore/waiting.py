"""What an exploration has not looked at when it ends, as plain values from which a later one of the same goes on."""

from __future__ import annotations

from typing import NamedTuple

from nebula.planner.explore.ways import Inner, Outer


class Waiting(NamedTuple):
    """A set of ways that was not opened, or a way that was not priced.

    Attributes:
        kind: `base`, `policy` and `rows`: all ways with those degrees of the inner half, its policy and rows as they
            are named; `mixed`: those on all pools with so many replicas; `pool`: those on one pool; `way`: one way.
        bound_s: none of them is faster.
        data: replicas, of `mixed`.
        pool: of `pool`, whose ways that are bounded below from_s have been looked at.
        outer: of `way`.
    """

    kind: str
    bound_s: float
    inner: Inner
    data: int = 0
    pool: int = 0
    from_s: float = 0.0
    outer: Outer | None = None


class Frontier(NamedTuple):
    """All that waits.

    Attributes:
        opened: how many sets and ways have been looked at, 1 at least; 0 where the sets were not listed yet.
        sets: that have not; none when the search is complete.
    """

    opened: int = 0
    sets: tuple[Waiting, ...] = ()
