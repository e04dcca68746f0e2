"""How fast do messages go that pass the same links at the same time? Each as fast as fairness lets it.

Rates are max-min fair (Bertsekas and Gallager, Data Networks, 1992, section 6.5.2): no message can go faster without
taking from one that goes no faster than it. A collective over a ring is one message that passes a port as often as
the ring does, for all its links move at one pace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Flow:
    """A message on its way.

    Attributes:
        left_bytes: over each link that it uses.
        most_bytes_per_s: when nothing else is sent.
        ports: index of a port -> how often it passes.
    """

    left_bytes: float
    most_bytes_per_s: float
    ports: Mapping[int, int]
    rate: float = 0.0


class Network:
    """The messages under way, by number, in time.

    Args:
        ports: bytes per second through each port.
    """

    def __init__(self, ports: Sequence[float]) -> None:
        self._ports, self._flows, self._now = ports, dict[int, Flow](), 0.0

    def add(self, now: float, number: int, flow: Flow) -> None:
        """A message begins."""
        self._move_to(now)
        self._flows[number] = flow
        self._share()

    def remove(self, now: float, number: int) -> None:
        """A message has arrived."""
        self._move_to(now)
        del self._flows[number]
        self._share()

    def next_end(self) -> tuple[float, int] | None:
        """When the first message ends if none begins before, and which; of several the one with the least number."""
        ends = [(self._now + flow.left_bytes / flow.rate, number) for number, flow in self._flows.items()]
        return min(ends, default=None)

    def _move_to(self, now: float) -> None:
        for flow in self._flows.values():
            flow.left_bytes = max(0.0, flow.left_bytes - flow.rate * (now - self._now))
        self._now = now

    def _share(self) -> None:
        """Raises all rates together; who meets its own limit, or a port that is full, stays there."""
        rising = sorted(self._flows)
        free = list(self._ports)
        for flow in self._flows.values():
            flow.rate = 0.0
        while rising:
            passing: dict[int, int] = {}
            for number in rising:
                for port, times in self._flows[number].ports.items():
                    passing[port] = passing.get(port, 0) + times
            step = min(self._flows[n].most_bytes_per_s - self._flows[n].rate for n in rising)
            full = min(((free[port] / times, port) for port, times in passing.items()), default=(step, -1))
            step = min(step, full[0])
            for number in rising:
                flow = self._flows[number]
                flow.rate += step
                for port, times in flow.ports.items():
                    free[port] -= step * times
            stopped = {port for port in passing if free[port] <= 1e-9 * self._ports[port]}
            rising = [n for n in rising if not self._at_rest(self._flows[n], stopped)]

    @staticmethod
    def _at_rest(flow: Flow, stopped: set[int]) -> bool:
        return flow.rate >= flow.most_bytes_per_s * (1 - 1e-12) or not stopped.isdisjoint(flow.ports)
