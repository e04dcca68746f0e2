"""Times many small cases fairly: in rounds that go through all of them, so that a slow moment of the machine hits each
case once, and the median over the rounds forgets it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Agree = Callable[[list[int]], list[int]]
"""Makes ranks that communicate take the same numbers; alone, the identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much time goes into a figure.

    Attributes:
        rounds: samples of each case.
        sample_s: a sample repeats a case until about this long.
        largest_s: cases are made about this long at most.
        budget_s: of all samples of one call; on a slow or busy machine fewer rounds are made, FEWEST_ROUNDS at least.
    """

    rounds: int
    sample_s: float
    largest_s: float
    budget_s: float


FULL = Effort(rounds=9, sample_s=4e-3, largest_s=0.03, budget_s=15.0)
QUICK = Effort(rounds=3, sample_s=2e-3, largest_s=0.008, budget_s=4.0)

MOST_REPEATS, FEWEST_ROUNDS = 1000, 3


def alone(numbers: list[int]) -> list[int]:
    """No rank to agree with."""
    return numbers


def medians(
    cases: Sequence[Callable[[int], None]], seconds: Callable[[], float], effort: Effort, agree: Agree = alone
) -> list[float]:
    """Median seconds of one execution of each case.

    Args:
        cases: each runs its work as often as it is told.
        seconds: the time at which all work issued so far is done.
    """

    def took(case: Callable[[int], None], repeats: int) -> float:
        start = seconds()
        case(repeats)
        return (seconds() - start) / repeats

    for case in cases:
        case(2)  # caches, threads and the allocator
    once = [max(1e-9, took(case, 1)) for case in cases]
    repeats = [min(MOST_REPEATS, max(1, math.ceil(effort.sample_s / s))) for s in once]
    round_s = sum(s * n for s, n in zip(once, repeats, strict=True))
    affordable = max(FEWEST_ROUNDS, int(effort.budget_s / round_s))
    rounds, *repeats = agree([min(effort.rounds, affordable), *repeats])
    samples = [[took(case, n) for case, n in zip(cases, repeats, strict=True)] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*samples, strict=True)]
