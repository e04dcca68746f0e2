"""A mix of jobs on one cluster: nodes lent as jobs come and go, or each job waiting for all nodes that it asked for.

Rigid: first come, first served, in gangs: the job at the head of the queue waits until as many nodes are free as it
may have at most, and keeps them to its end. Elastic: it begins as soon as its least can be had, by shrinking others if
need be, and grows into what is free; every change of size costs a pause. Work is in node-seconds: a job runs in
proportion to its nodes. No faults here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nebula.elastic.policy.values import Bounds
from nebula.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedJob:
    """A job of a mix: when it comes, how many nodes it may have, and its node-seconds."""

    at_s: float
    bounds: Bounds
    work_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Jobs that are drawn.

    Attributes:
        nodes: of the cluster.
        jobs: how many come.
        gap_s: mean time between two, exponential.
        sizes: bounds and how often they occur, relatively.
        length_median_s, length_sigma: of the log-normal time that a job would take on its most nodes.
        pause_s: that a change of size costs.
    """

    nodes: int
    jobs: int
    gap_s: float
    sizes: Sequence[tuple[Bounds, float]]
    length_median_s: float
    length_sigma: float
    pause_s: float

    def __post_init__(self) -> None:
        for bounds, _ in self.sizes:
            if bounds.most > self.nodes:
                raise BadInput(f"mix.sizes: a job of {bounds.most} nodes cannot wait for a cluster of {self.nodes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How a mix went; simulated.

    Attributes:
        span_s: from the first arrival to the end of the last job.
        use: share of the cluster's node-seconds in that span that was work.
        waits_s: of each job, from its arrival to its first node.
        turnarounds_s: of each job, from its arrival to its end.
        resizes: changes of size.
    """

    span_s: float
    use: float
    waits_s: tuple[float, ...]
    turnarounds_s: tuple[float, ...]
    resizes: int


@dataclass(slots=True, kw_only=True)
class _Job:
    """A job that has come: what is left of it, and its nodes."""

    job: MixedJob
    number: int
    left_s: float
    nodes: int = 0
    began_s: float = math.inf
    paused_until_s: float = 0.0
    counted_s: float = 0.0

    def advance(self, now_s: float) -> None:
        """Takes off what was done by now."""
        since_s = max(self.counted_s, self.paused_until_s)
        self.left_s = max(0.0, self.left_s - self.nodes * max(0.0, now_s - since_s))
        self.counted_s = now_s

    def end_s(self) -> float:
        """When it is done, if nothing changes."""
        if not self.nodes:
            return math.inf
        return max(self.counted_s, self.paused_until_s) + self.left_s / self.nodes

    def take(self, nodes: int, now_s: float, pause_s: float) -> bool:
        """Gets other nodes; whether that changes its size."""
        changed = self.nodes not in (0, nodes)
        if changed:
            self.paused_until_s = now_s + pause_s
        if nodes:
            self.began_s = min(self.began_s, now_s)
        self.nodes = nodes
        return changed


def drawn(mix: Mix, seed: int) -> Sequence[MixedJob]:
    """The jobs of a mix, in order; the same for the same seed."""
    rng = np.random.Generator(np.random.PCG64([seed, 2**32 - 1]))
    at_s = np.cumsum(rng.exponential(mix.gap_s, mix.jobs))
    weights = np.array([weight for _, weight in mix.sizes])
    chosen = rng.choice(len(mix.sizes), mix.jobs, p=weights / weights.sum())
    lengths = rng.lognormal(math.log(mix.length_median_s), mix.length_sigma, mix.jobs)
    sizes = [mix.sizes[number][0] for number in chosen]
    return [
        MixedJob(at_s=float(at), bounds=bounds, work_s=float(length) * bounds.most)
        for at, bounds, length in zip(at_s, sizes, lengths, strict=True)
    ]


def rigid(running: Sequence[int], sizes: Sequence[Bounds], nodes: int) -> Sequence[int]:
    """Nodes of each job in the order of arrival: those that run keep theirs, the head of the queue gets all or none."""
    lent, free = list(running), nodes - sum(running)
    for index, bounds in enumerate(sizes):
        if not lent[index]:
            if bounds.most > free:
                break
            lent[index] = bounds.most
            free -= bounds.most
    return lent


def backfilled(running: Sequence[int], sizes: Sequence[Bounds], nodes: int) -> Sequence[int]:
    """The same, but who comes later passes a head that does not fit, as far as nodes are free."""
    lent, free = list(running), nodes - sum(running)
    for index, bounds in enumerate(sizes):
        if not lent[index] and bounds.most <= free:
            lent[index] = bounds.most
            free -= bounds.most
    return lent


def elastic(running: Sequence[int], sizes: Sequence[Bounds], nodes: int) -> Sequence[int]:
    """Nodes of each job in the order of arrival: its least to each that runs or fits, then who came first grows.

    Example:
        >>> elastic([8, 0, 0, 0, 0], [Bounds(least=2, most=8)] * 5, 8)
        [2, 2, 2, 2, 0]
        >>> elastic([2, 2], [Bounds(least=2, most=8), Bounds(least=2, most=4)], 9)
        [7, 2]
    """
    lent, free = [0] * len(sizes), nodes
    for index in sorted(range(len(sizes)), key=lambda index: not running[index]):  # who runs is never sent back
        bounds = sizes[index]
        if bounds.least <= free:
            lent[index] = bounds.least
            free -= bounds.least
    for index, bounds in enumerate(sizes):
        if lent[index]:
            grown = bounds.usable(lent[index] + free)
            free -= grown - lent[index]
            lent[index] = grown
    return lent


Lend = Callable[[Sequence[int], Sequence[Bounds], int], Sequence[int]]
WAYS: Mapping[str, Lend] = {"rigid": rigid, "rigid, backfilled": backfilled, "elastic": elastic}
"""From the nodes that each job has, what each may have, and the nodes of the cluster: the nodes that each has then."""


def schedule(jobs: Sequence[MixedJob], nodes: int, pause_s: float, lend: Lend) -> Schedule:
    """Plays a mix through."""
    coming, here = list(reversed(jobs)), list[_Job]()
    ended: dict[int, tuple[float, float]] = {}
    now_s, resizes = 0.0, 0
    while coming or here:
        ends_s = min((one.end_s() for one in here), default=math.inf)
        now_s = min(ends_s, coming[-1].at_s if coming else math.inf)
        for one in here:
            one.advance(now_s)
        for one in [one for one in here if one.end_s() <= now_s]:
            here.remove(one)
            ended[one.number] = (one.began_s - one.job.at_s, now_s - one.job.at_s)
        while coming and coming[-1].at_s <= now_s:
            job = coming.pop()
            here.append(_Job(job=job, number=len(jobs) - len(coming) - 1, left_s=job.work_s, counted_s=now_s))
        lent = lend([one.nodes for one in here], [one.job.bounds for one in here], nodes)
        resizes += sum(one.take(count, now_s, pause_s) for one, count in zip(here, lent, strict=True))
    span_s = now_s - jobs[0].at_s
    return Schedule(
        span_s=span_s,
        use=sum(job.work_s for job in jobs) / (nodes * span_s),
        waits_s=tuple(ended[number][0] for number in range(len(jobs))),
        turnarounds_s=tuple(ended[number][1] for number in range(len(jobs))),
        resizes=resizes,
    )
