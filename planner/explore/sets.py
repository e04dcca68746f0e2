"""Sets of ways that a search has not opened yet, from all with some degrees down to one way; and how they are kept."""

from __future__ import annotations

from typing import NamedTuple

from nebula.planner.explore.sheet import Ranked
from nebula.planner.explore.waiting import Waiting
from nebula.planner.explore.ways import Inner, Way


class Base(NamedTuple):
    """All ways with these degrees, whatever their rows and policy."""

    inner: Inner


class Policy(NamedTuple):
    """All ways with these degrees and this policy, whatever their rows."""

    inner: Inner


class Several(NamedTuple):
    """Ways on all pools with so many replicas."""

    inner: Inner
    data: int


class Rest(NamedTuple):
    """Ways on one pool from the first on that is not placed, in the order of their bounds."""

    inner: Inner
    ranked: Ranked
    first: int


class Again(NamedTuple):
    """Ways on one pool that an earlier search ranked, but for those of lower bounds."""

    inner: Inner
    pool: int
    from_s: float


class PlacedWay(NamedTuple):
    """A way that is bounded by what its own deal takes on its own places."""

    way: Way


What = Base | Policy | Inner | Several | Rest | Again | Way | PlacedWay


class Node(NamedTuple):
    """A set of ways that is not opened yet, with its bound."""

    bound_s: float
    order: int
    what: What


def waiting_of(bound_s: float, what: What) -> Waiting:
    """A set of ways by what it takes to list it again."""
    if isinstance(what, Base | Policy):
        return Waiting("base" if isinstance(what, Base) else "policy", bound_s, what.inner)
    if isinstance(what, Inner):
        return Waiting("rows", bound_s, what)
    if isinstance(what, Several):
        return Waiting("mixed", bound_s, what.inner, data=what.data)
    if isinstance(what, Rest):
        return Waiting(
            "pool", bound_s, what.inner, pool=what.ranked.pool, from_s=float(what.ranked.bounds_s[what.first])
        )
    if isinstance(what, Again):
        return Waiting("pool", bound_s, what.inner, pool=what.pool, from_s=what.from_s)
    way = what.way if isinstance(what, PlacedWay) else what
    return Waiting("way", bound_s, way.inner, outer=way.outer)


def left_of(what: What) -> int:
    """How many ways are left out with it; those of sets that were not counted out count as one."""
    return len(what.ranked) - what.first if isinstance(what, Rest) else 1


def restored(waiting: Waiting) -> What:
    """What an earlier search had not looked at."""
    kind, inner = waiting.kind, waiting.inner
    if kind == "mixed":
        return Several(inner, waiting.data)
    if kind == "pool":
        return Again(inner, waiting.pool, waiting.from_s)
    if kind == "way":
        assert waiting.outer is not None
        return Way(inner, waiting.outer)
    whole: dict[str, What] = {"base": Base(inner), "policy": Policy(inner), "rows": inner}
    return whole[kind]
