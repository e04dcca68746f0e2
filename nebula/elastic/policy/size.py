"""How many nodes should a job have? As many as each still adds its share to the throughput. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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
    predicted: Mapping[int, float], *, now: int, measured: float, least_efficiency: float, least_gain: float = 0.03
) -> Advice:
    """The largest size whose nodes are each worth `least_efficiency` of one in the best smaller job.

    Args:
        predicted: number of nodes -> tokens per second; 0 or missing where nothing fits.
        now: nodes of the job.
        measured: its tokens per second; 0 while none are known. Predictions are scaled to it.
        least_gain: what a change has to bring to be worth its restart.

    Example:
        >>> advise({1: 100.0, 2: 190.0, 4: 240.0}, now=1, measured=0.0, least_efficiency=0.8).nodes
        2
    """
    scale = measured / predicted[now] if measured and predicted.get(now) else 1.0
    sizes, best = [], 0.0
    for nodes in sorted(predicted):
        rate = scale * predicted[nodes]
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
