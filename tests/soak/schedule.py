"""What a soak does to a job, drawn from a seed alone: every kind of fault again and again, in ever another order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from nebula.elastic.chaos.values import FAIR, Fault, Kind, Weather

NODES = ("a", "b")
AT_ONCE = 0.25
"""Share of faults that come before the job has got over the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """A fault and when it comes.

    Attributes:
        at_once: `pause_s` runs from the fault before, not from the first steps after it.
    """

    fault: Fault
    pause_s: float
    at_once: bool

    @property
    def words(self) -> str:
        """For people."""
        fault, weather = self.fault, self.fault.weather
        told = [fault.kind.value] if fault.kind.of_the_job else [fault.kind.value, f"on {fault.node}"]
        told += [f"for {fault.seconds:.1f} s"] if fault.seconds else []
        told += [f"delay {weather.delay_s:.2f} s, {weather.bytes_per_s / 1e3:.0f} kB/s, loss {weather.loss:.2f}"] * (
            fault.kind is Kind.LINK
        )
        told += ["out"] * (not weather.out) + ["in"] * (not weather.into)
        return " ".join(told) + (" (at once)" if self.at_once else "")


def blows(seed: int) -> Iterator[Blow]:
    """Without an end; of so many as there are kinds each is another one."""
    rng = random.Random(seed)
    while True:
        for kind in rng.sample(list(Kind), len(Kind)):
            at_once = rng.random() < AT_ONCE
            pause_s = rng.uniform(0.1, 2.0) if at_once else rng.uniform(0.5, 5.0)
            yield Blow(fault=_fault(kind, rng), pause_s=pause_s, at_once=at_once)


def _fault(kind: Kind, rng: random.Random) -> Fault:
    longest_s = {
        Kind.SLOW: 6.0,
        Kind.FREEZE: 6.0,
        Kind.LINE: 6.0,
        Kind.LINK: 8.0,
        Kind.PARTITION: 9.0,
        Kind.CERTIFICATE: 8.0,
        Kind.DISK: 10.0,
    }.get(kind, 0.0)
    seconds = rng.uniform(0.2, longest_s) if longest_s else 0.0
    node = "any" if kind.of_the_job else rng.choice(NODES)
    return Fault(kind=kind, node=node, at_s=0.0, seconds=seconds, weather=_weather(kind, rng))


def _weather(kind: Kind, rng: random.Random) -> Weather:
    if kind is Kind.PARTITION:
        out, into = rng.choice([(False, False), (False, True), (True, False)])
        return Weather(out=out, into=into)
    if kind is Kind.LINK:
        return Weather(
            delay_s=rng.uniform(0.01, 0.3), bytes_per_s=rng.uniform(30e3, 1e6), loss=rng.choice([0.0, 0.02, 0.1])
        )
    return FAIR
