"""Is a node fit to train? From what it measured before it joined, and how fast it reaches others. Pure.

What a device is worth differs from cluster to cluster, so a node is compared with the median of the others, never with
a data sheet; bytes that come back wrong need no comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from nebula.elastic.policy.slow import Slowness
from nebula.units import format_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitness:
    """What a node measured of itself, of its slowest device.

    Attributes:
        flops: of matrix products in fp32; low clocks and other tenants lower it.
        copy_bytes_per_s: from the host to the device and back; a slow PCIe link lowers it.
        wrong_bytes: that came back other than they were sent.
    """

    flops: float
    copy_bytes_per_s: float
    wrong_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """A node that is not fit, by which factor it is slower, and why in a sentence."""

    node: str
    factor: float
    because: str


def unfit(measured: Mapping[str, Fitness], limits: Slowness) -> Iterator[Unfit]:
    """The nodes whose devices compute or copy more slowly than the others'; one alone is fit."""
    for node, own in measured.items():
        others = [other for name, other in measured.items() if name != node]
        if not others:
            return
        compute = _ratio(median(other.flops for other in others), own.flops)
        copying = _ratio(median(other.copy_bytes_per_s for other in others), own.copy_bytes_per_s)
        if compute >= limits.factor and compute >= copying:
            yield Unfit(
                node=node, factor=compute, because=f"{node} computes {compute:.1f} times as slowly as the others"
            )
        elif copying >= limits.factor:
            rate = format_rate(own.copy_bytes_per_s)
            because = f"{node} copies to its device {copying:.1f} times as slowly as the others, at {rate}"
            yield Unfit(node=node, factor=copying, because=because)


def slow_links(rates: Mapping[tuple[str, str], float], limits: Slowness) -> Iterator[Unfit]:
    """The nodes that are slow to and from most of those that they were tried with.

    A pair says that one of its two is slow, or the way between them; only who is slow in most of at least two pairs is
    named, and not who merely met such a one.

    Args:
        rates: bytes per second from a node to another.
    """
    if len(rates) < 3:
        return
    usual = median(rates.values())
    nodes = sorted({node for pair in rates for node in pair})
    slow = {pair for pair, rate in rates.items() if _ratio(usual, rate) >= limits.factor}
    share = {node: _share(node, slow, rates) for node in nodes}
    for node in nodes:
        own = [pair for pair in rates if node in pair]
        others = [share[other] for pair in own if pair in slow for other in pair if other != node]
        if len(own) >= 2 and share[node] > 0.5 and all(share[node] > other for other in others):
            rate = median(rates[pair] for pair in own)
            because = f"{node} reaches others at {format_rate(rate)}, where {format_rate(usual)} are usual"
            yield Unfit(node=node, factor=_ratio(usual, rate), because=because)


def _share(node: str, slow: set[tuple[str, str]], rates: Mapping[tuple[str, str], float]) -> float:
    """Of a node's pairs, those that are slow."""
    own = [pair for pair in rates if node in pair]
    return sum(pair in slow for pair in own) / len(own)


def _ratio(usual: float, own: float) -> float:
    return usual / own if own > 0 else float("inf") if usual > 0 else 1.0
