"""How many nodes should a job have? As many as each still adds its share to the throughput. Pure.

Asked again and again, it remembers what sizes were measured to do, which then counts instead of what was predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from types import MappingProxyType

NONE: Mapping[int, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A number of nodes that a job may have.

    Attributes:
        tokens_per_s: expected there; 0 where no plan fits.
        efficiency: tokens per second and node over the best of the smaller sizes and this one.
    """

    nodes: int
    tokens_per_s: float
    efficiency: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to do.

    Attributes:
        nodes: as many as the job should have.
        because: in a sentence.
    """

    nodes: int
    because: str
    sizes: tuple[Size, ...]


def advise(
    predicted: Mapping[int, float],
    *,
    now: int,
    measured: float,
    least_efficiency: float,
    least_gain: float = 0.03,
    known: Mapping[int, float] = NONE,
) -> Advice:
    """The largest size whose nodes are each worth `least_efficiency` of one in the best smaller job.

    Args:
        predicted: number of nodes -> tokens per second; 0 or missing where nothing fits.
        now: nodes of the job.
        measured: its tokens per second; 0 while none are known. Predictions are scaled to it.
        least_gain: what a change has to bring to be worth its restart.
        known: what sizes were measured to do, this one among them; empty: only what `measured` says is known.

    Example:
        >>> advise({1: 100.0, 2: 190.0, 4: 240.0}, now=1, measured=0.0, least_efficiency=0.8).nodes
        2
    """
    rates = expected(predicted, known or ({now: measured} if measured else {}))
    sizes, best = [], 0.0
    for nodes, rate in rates.items():
        best = max(best, rate / nodes)
        sizes.append(Size(nodes=nodes, tokens_per_s=rate, efficiency=rate / nodes / best if best else 0.0))
    by_nodes = {size.nodes: size for size in sizes}
    fitting = [size for size in sizes if size.tokens_per_s > 0]
    if not fitting:
        return Advice(nodes=now, because=f"{now} nodes stay: no size has a plan that fits", sizes=tuple(sizes))
    worth = [size for size in fitting if size.efficiency >= least_efficiency] or fitting[:1]
    chosen = max(worth, key=lambda size: size.tokens_per_s)
    here = by_nodes.get(now)
    if here is not None and here in worth and chosen.tokens_per_s < (1 + least_gain) * here.tokens_per_s:
        chosen = here
    return Advice(nodes=chosen.nodes, because=_because(chosen, here, now, least_efficiency), sizes=tuple(sizes))


def expected(predicted: Mapping[int, float], known: Mapping[int, float]) -> dict[int, float]:
    """Tokens per second of each size: as measured where it is known, else its prediction times what was measured of it.

    That factor is the same whichever size the job has now, so that two sizes are compared alike from both.

    Example:
        >>> expected({1: 100.0, 2: 200.0, 4: 400.0}, {1: 50.0, 2: 80.0})
        {1: 50.0, 2: 80.0, 4: 180.0}
    """
    ratios = [rate / predicted[nodes] for nodes, rate in known.items() if predicted.get(nodes)]
    scale = fmean(ratios) if ratios else 1.0
    return {nodes: known.get(nodes, scale * predicted[nodes]) for nodes in sorted(predicted)}


@dataclass(slots=True, kw_only=True)
class Sizes:
    """Advice again and again.

    A job is judged once it has trained in one generation from one look to the next, so that neither its start nor a
    failure counts. What a size did then is known from there on, so that a job does not go back and forth.

    Attributes:
        predicted: number of nodes -> tokens per second.
        known: the same as it was measured.
    """

    predicted: Mapping[int, float]
    least_efficiency: float
    known: dict[int, float] = field(default_factory=dict)
    _generation: int = 0

    def look(self, *, generation: int, now: int, most: int, measured: float) -> Advice | None:
        """What to do; None where nothing can be said yet, or what was asked for has not come yet.

        Args:
            generation: that trains; 0: none does.
            now, measured: nodes that train, and their tokens per second.
            most: nodes that the job may have.
        """
        before, self._generation = self._generation, generation
        if not generation or generation != before or not measured:
            return None
        self.known[now] = measured
        if now > most:
            return None
        return self.advice(now=now, measured=measured)

    def advice(self, *, now: int, measured: float) -> Advice:
        """What to do by what is known."""
        return advise(
            self.predicted, now=now, measured=measured, least_efficiency=self.least_efficiency, known=self.known
        )


def _because(chosen: Size, here: Size | None, now: int, least_efficiency: float) -> str:
    if chosen.nodes == now:
        return f"{_nodes(now)} stay: no other size does enough more with nodes worth {least_efficiency:.0%} each"
    told = f"{_nodes(chosen.nodes)} instead of {now}"
    if here is None or not here.tokens_per_s:
        return f"{told}, for which no plan fits"
    change = chosen.tokens_per_s / here.tokens_per_s - 1
    if chosen.nodes > now:
        return f"{told} do {change:+.0%}, each worth {chosen.efficiency:.0%} of a node of the best smaller job"
    return (
        f"{told}: of {now} each is worth {here.efficiency:.0%}, below the {least_efficiency:.0%} asked for; "
        f"throughput changes by {change:+.0%}"
    )


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"
