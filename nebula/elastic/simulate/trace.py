"""When which node fails: drawn from rates, the same for the same seed, whatever mechanisms then meet the faults.

Each node is a renewal process of its own: it works for a time that is drawn, fails, is away while it is repaired and
begins anew. A numpy generator of a named algorithm (PCG64) makes the draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nebula.elastic.simulate.values import Fault, Kind, Rates, Scenario

LASTING = (Kind.NODE, Kind.SLOW)


def trace(scenario: Scenario, job: int) -> Sequence[Fault]:
    """The faults of one of a scenario's jobs until its deadline, in order."""
    if scenario.faults:
        return sorted(scenario.faults, key=_order)
    rng = np.random.Generator(np.random.PCG64([scenario.seed, job]))
    return drawn(scenario.rates, scenario.nodes, scenario.deadline_s, rng)


def drawn(rates: Rates, nodes: int, until_s: float, rng: np.random.Generator) -> Sequence[Fault]:
    """The faults of so many nodes, in order; at most a few for each node and MTBF in memory."""
    found: list[Fault] = []
    at_s = _lives(rates, nodes, rng)
    alive = np.flatnonzero(at_s < until_s)
    while alive.size:
        kinds = rng.choice(len(Kind), alive.size, p=_shares(rates))
        repairs = rng.lognormal(math.log(rates.repair_median_s), rates.repair_sigma, alive.size)
        factors = rng.uniform(*rates.slow_factor, alive.size)
        for node, number, repair_s, factor in zip(alive, kinds, repairs, factors, strict=True):
            kind = list(Kind)[number]
            found.append(
                Fault(
                    at_s=float(at_s[node]),
                    node=int(node),
                    kind=kind,
                    repair_s=float(repair_s) if kind in LASTING else 0.0,
                    factor=float(factor) if kind is Kind.SLOW else 1.0,
                )
            )
            at_s[node] += found[-1].repair_s
        at_s[alive] += _lives(rates, alive.size, rng)
        alive = alive[at_s[alive] < until_s]
    return sorted(found, key=_order)


def _lives(rates: Rates, count: int, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How long nodes work until they fail, mean `mtbf_s` for those that are not young."""
    scale = rates.mtbf_s / math.gamma(1 + 1 / rates.shape)
    grown = scale * rng.weibull(rates.shape, count)
    young = rng.random(count) < rates.infant_share
    return np.where(young, rng.exponential(rates.infant_mtbf_s or 1.0, count), grown)


def _shares(rates: Rates) -> list[float]:
    given = [rates.kinds.get(kind, 0.0) for kind in Kind]
    return [share / sum(given) for share in given]


def _order(fault: Fault) -> tuple[float, int]:
    return (fault.at_s, fault.node)
