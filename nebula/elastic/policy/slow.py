"""Which node is slow? From the seconds of work that ranks tell, in which they wait for nobody. Pure.

All ranks of a synchronous training step together, so the time of a step says nothing of who is slow; a rank's own work
does. A node is compared with the median of the others, by the median of its last windows, so that a single spike, a
checkpoint or a garbage collection, accuses nobody.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a rank has worked so far in its generation."""

    steps: int
    work_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowness:
    """How much slower than the others is suspicious.

    Attributes:
        factor: of the work of a step.
        windows: that are looked at; more than half of them have to say so.
        window_steps: steps of a window.
        least_s: work of a step below which differences are noise.
    """

    factor: float = 1.5
    windows: int = 5
    window_steps: int = 4
    least_s: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What is known of the ranks' pace in a generation.

    Attributes:
        since: of each rank, where its current window began.
        recent_s: of each rank, seconds of work of a step in its last windows, the newest last.
        accused: nodes that were found slow already.
    """

    generation: int = 0
    since: Mapping[int, Pace] = field(default_factory=lambda: MappingProxyType({}))
    recent_s: Mapping[int, Sequence[float]] = field(default_factory=lambda: MappingProxyType({}))
    accused: frozenset[str] = frozenset()

    def told(self, generation: int, paces: Mapping[int, Pace], limits: Slowness) -> Scores:
        """The scores after some ranks have told their pace."""
        scores = self if generation == self.generation else Scores(generation=generation)
        since, recent_s = dict(scores.since), dict(scores.recent_s)
        for rank, pace in paces.items():
            begun = since.get(rank)
            if begun is None or pace.steps < begun.steps:
                since[rank] = pace
            elif (steps := pace.steps - begun.steps) >= limits.window_steps:
                since[rank] = pace
                step_s = (pace.work_s - begun.work_s) / steps
                recent_s[rank] = (*recent_s.get(rank, ()), step_s)[-limits.windows :]
        return replace(scores, since=since, recent_s=recent_s)

    def slow(self, nodes: Mapping[int, str], limits: Slowness) -> tuple[str, float] | None:
        """The slowest node that is slow and not accused yet, and by which factor; None: none, or not known yet.

        Args:
            nodes: where each rank runs; what others have told does not count.
        """
        whole = {rank: times for rank, times in self.recent_s.items() if rank in nodes and len(times) == limits.windows}
        known = {rank: median(times) for rank, times in whole.items()}
        if len(known) < len(nodes):
            return None
        by_node: dict[str, float] = {}
        for rank, work_s in known.items():
            by_node[nodes[rank]] = max(by_node.get(nodes[rank], 0.0), work_s)
        found = [(factor, node) for node, factor in factors(by_node, limits).items() if factor >= limits.factor]
        fresh = sorted((one for one in found if one[1] not in self.accused), reverse=True)
        return (fresh[0][1], fresh[0][0]) if fresh else None

    def accuse(self, node: str) -> Scores:
        """The scores with a node that is not named again in this generation."""
        return replace(self, accused=self.accused | {node})


def factors(by_node: Mapping[str, float], limits: Slowness) -> Mapping[str, float]:
    """How much longer each node's work takes than the median of the others'.

    It is 1 where there are no others, or hardly any work.

    Example:
        >>> factors({"a": 0.1, "b": 0.25, "c": 0.1}, Slowness())["b"]
        2.5
    """
    ordered = sorted(by_node.values())
    if len(ordered) < 2:
        return dict.fromkeys(by_node, 1.0)
    return {
        node: work_s / max(_median_but(ordered, work_s), limits.least_s) if work_s >= limits.least_s else 1.0
        for node, work_s in by_node.items()
    }


def _median_but(ordered: Sequence[float], one: float) -> float:
    """The median of sorted values without one of them.

    >>> _median_but([1.0, 2.0, 4.0], 4.0), _median_but([1.0, 2.0, 3.0, 4.0], 1.0)
    (1.5, 3.0)
    """
    left, at = len(ordered) - 1, bisect_left(ordered, one)
    low, high = ((left - 1) // 2, left // 2)
    return (ordered[low + (low >= at)] + ordered[high + (high >= at)]) / 2
