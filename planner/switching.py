"""Which of several candidates to take in each of several phases, when going from one to another takes time.

A dynamic programme over phases and candidates. What a switch takes is worked out for those switches alone that might be
taken: the others are ruled out by what a switch takes at least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

Switch = Callable[[int, int, int], float]
"""Seconds from candidate `a` of phase `k` to candidate `b` of phase `k + 1`: called with k, a, b."""


class Course(NamedTuple):
    """A candidate for each phase.

    Attributes:
        seconds: of all phases and switches.
        switches: how many take time.
        chosen: index of the candidate of each phase.
    """

    seconds: float
    switches: int
    chosen: tuple[int, ...]


def best_course(own_s: Sequence[Sequence[float]], least_s: Switch, exact_s: Switch) -> Course:
    """The course that takes least; of equal ones that of fewer switches.

    The course under least_s is the best if all of its switches take that; where they take longer, the exact times are
    put in and the course is sought again. So exact_s is called once at most for each switch, and for few of them.

    Args:
        own_s: for each phase what each of its candidates takes; every phase has one.
        least_s: what a switch takes at least; 0 where there is nothing to do.
        exact_s: what it takes.

    Example:
        >>> two = [[1.0, 3.0], [3.0, 1.0]]
        >>> best_course(two, lambda k, a, b: 1.5 * (a != b), lambda k, a, b: 1.5 * (a != b)).chosen
        (0, 1)
        >>> best_course(two, lambda k, a, b: 0.0, lambda k, a, b: 2.5 * (a != b)).switches
        0
    """
    known: dict[tuple[int, int, int], float] = {}

    def switch_s(k: int, a: int, b: int) -> float:
        return known[k, a, b] if (k, a, b) in known else least_s(k, a, b)

    while True:
        course = _course(own_s, switch_s)
        steps = ((k, *pair) for k, pair in enumerate(pairwise(course.chosen)))
        unknown = [step for step in steps if step not in known]
        if not unknown:
            return course
        known |= {step: exact_s(*step) for step in unknown}


def _course(own_s: Sequence[Sequence[float]], switch_s: Switch) -> Course:
    """The best course when the time of every switch is known."""
    best = [Course(seconds, 0, (index,)) for index, seconds in enumerate(own_s[0])]
    for k, following in enumerate(own_s[1:]):
        best = [
            min(_extended(course, switch_s(k, course.chosen[-1], b), seconds, b) for course in best)
            for b, seconds in enumerate(following)
        ]
    return min(best)


def _extended(course: Course, switch_s: float, own_s: float, candidate: int) -> Course:
    return Course(course.seconds + switch_s + own_s, course.switches + (switch_s > 0), (*course.chosen, candidate))
