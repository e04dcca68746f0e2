"""Degrees that cannot stand together: the smallest sets that exclude each other, with their equations.

Each equation is one of nebula.planner.fixed, so a contradiction reads as a search would refuse it. What to do is
computed: the nearest value of one degree, or the batch or devices, with which the set is a split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod

from nebula.plan.degrees import WORDS, degree_words
from nebula.planner.fixed import Fault, faults, least_data
from nebula.planner.setting import Setting

FARTHEST = 4096
"""Up to so far from the value that was asked for another one is looked for."""

MOST_SETS = 3
"""So many contradictions are told; degrees that contradict in more ways are wrong in the same places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """Degrees that are no split.

    Attributes:
        degrees: the set; without any of them the others could be a split.
        rule: of nebula.planner.space.RULES, or `value` or `sharding`.
        equation: that does not hold, with its numbers.
        remedies: single changes with which the set would be a split.
    """

    degrees: Mapping[str, int | str]
    rule: str
    equation: str
    remedies: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Which degrees contradict, and by what equation."""
        words = degree_words(self.degrees)
        if len(self.degrees) > 1:
            return f"{words} contradict: {self.equation}"
        return self.equation if self.equation.startswith(words) else f"{words} is impossible here: {self.equation}"


def contradictions(setting: Setting, degrees: Mapping[str, int | str]) -> tuple[Contradiction, ...]:
    """The smallest sets of degrees that are no split, the smallest first; none when all can stand together."""
    found: list[Contradiction] = []
    for size in range(1, len(degrees) + 1):
        for names in combinations(degrees, size):
            if any(each.degrees.keys() <= set(names) for each in found):
                continue
            some = {name: degrees[name] for name in names}
            fault = first_fault(setting, some)
            if fault:
                remedies = tuple(_remedies(setting, some, fault))
                found.append(Contradiction(degrees=some, rule=fault.rule, equation=fault.sentence, remedies=remedies))
                if len(found) == MOST_SETS:
                    return tuple(found)
    return tuple(found)


def first_fault(setting: Setting, degrees: Mapping[str, int | str]) -> Fault | None:
    """The first reason for which degrees are no split; None when they are one."""
    return next(faults(setting.prices, replace(setting.limits, fixed=degrees), setting.device_kind), None)


def _remedies(setting: Setting, degrees: Mapping[str, int | str], fault: Fault) -> Iterator[str]:
    for name in degrees:
        other = _nearest(setting, degrees, name)
        if other:
            yield f"{name}={other} would do"
    job = setting.prices.job
    data, rows = least_data(job, degrees), int(str(degrees.get("micro_batch_rows", 1)))
    if fault.rule == "batch":
        below, above = multiples(job.global_batch, data * rows)
        yield f"job.global_batch={f'{below} or {above}' if below else above} would do"
    if fault.rule == "devices":
        ranks = data * prod(int(str(degrees.get(name, 1))) for name in ("tensor", "pipeline"))
        yield f"{ranks:,} devices would do"


def multiples(number: int, factor: int) -> tuple[int, int]:
    """The multiples of a factor next to a number that is none; the lower one is 0 where the number is too small.

    Example:
        >>> multiples(1920, 512)
        (1536, 2048)
    """
    below = number // factor * factor
    return below, below + factor


def _nearest(setting: Setting, degrees: Mapping[str, int | str], name: str) -> int:
    """The value of one degree nearest to its own with which all are a split, the lower of two; 0 when there is none."""
    own = degrees[name]
    if name in WORDS or name == "sharding" or not isinstance(own, int):
        return 0
    for step in range(1, FARTHEST):
        for other in (own - step, own + step):
            if 1 <= other <= setting.limits.devices and not first_fault(setting, {**degrees, name: other}):
                return other
        if own - step < 1 and own + step > setting.limits.devices:
            break
    return 0
