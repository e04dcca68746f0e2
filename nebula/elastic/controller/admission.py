"""Who is fit to train, as far as nodes were tried before they joined: their devices, and their ways to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nebula.elastic.policy.fitness import Fitness, Unfit, slow_links, unfit
from nebula.elastic.policy.slow import Slowness
from nebula.elastic.protocol import control_pb2 as wire

PEERS = 3
"""With how many others a node is tried."""


class Admission:
    """What is known of nodes that were tried."""

    def __init__(self, limits: Slowness) -> None:
        self._limits = limits
        self._measured: dict[str, Fitness] = {}
        self._rates: dict[tuple[str, str], float] = {}
        self._named: set[str] = set()

    def joined(self, hello: wire.Hello) -> Iterator[Unfit]:
        """A node has come, with what it measured; who is not fit, as is seen now."""
        if not hello.HasField("fitness"):
            return
        told = hello.fitness
        self._named.discard(hello.node)
        self._measured[hello.node] = Fitness(flops=told.flops, copy_bytes_per_s=told.copy_bytes_per_s)
        yield from self._once(unfit(self._measured, self._limits))

    def peers(self, node: str, addresses: Mapping[str, str]) -> list[wire.Source]:
        """With whom a node is to be tried: those that were tried themselves, the least often first."""
        if node not in self._measured:
            return []
        others = [other for other in self._measured if other != node and other in addresses]
        others.sort(key=lambda other: (sum(other in pair for pair in self._rates), other))
        return [wire.Source(node=other, address=addresses[other]) for other in others[:PEERS]]

    def probed(self, node: str, probed: wire.Probed) -> Iterator[Unfit]:
        """A node has tried its ways to others; who is not fit, as is seen now."""
        self._rates |= {(node, rate.node): rate.bytes_per_s for rate in probed.rates}
        yield from self._once(slow_links(self._rates, self._limits))

    def left(self, node: str) -> None:
        """What was measured of a node says nothing of it when it comes back."""
        self._measured.pop(node, None)
        self._rates = {pair: rate for pair, rate in self._rates.items() if node not in pair}

    def _once(self, found: Iterator[Unfit]) -> Iterator[Unfit]:
        for one in found:
            if one.node not in self._named:
                self._named.add(one.node)
                yield one
