"""The course through phases: never worse than staying or than the best of each, and equal to trying every course."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.planner.switching import best_course

SECONDS = st.floats(0.0, 100.0)


@st.composite
def problems(draw):
    """Own seconds by phase and candidate, and what each switch takes at least and exactly; staying takes nothing."""
    phases, candidates = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    own_s = [[draw(SECONDS) for _ in range(candidates)] for _ in range(phases)]
    steps = [(k, a, b) for k in range(phases - 1) for a in range(candidates) for b in range(candidates) if a != b]
    least_s = draw(st.floats(0.0, 10.0))
    more_s = {step: draw(st.floats(0.0, 20.0)) for step in steps}
    return own_s, lambda k, a, b: least_s * (a != b), lambda k, a, b: (least_s + more_s[k, a, b]) if a != b else 0.0


def taken_s(own_s, exact_s, chosen):
    switching_s = sum(exact_s(k, a, b) for k, (a, b) in enumerate(pairwise(chosen)))
    return sum(each[index] for each, index in zip(own_s, chosen, strict=True)) + switching_s


@given(problems())
def test_no_course_takes_less(problem):
    own_s, least_s, exact_s = problem
    course = best_course(own_s, least_s, exact_s)
    every = [taken_s(own_s, exact_s, chosen) for chosen in product(*(range(len(each)) for each in own_s))]
    assert course.seconds == pytest.approx(min(every))
    assert course.seconds == pytest.approx(taken_s(own_s, exact_s, course.chosen))


@given(problems())
def test_it_is_never_worse_than_staying_or_than_the_best_of_each(problem):
    own_s, least_s, exact_s = problem
    course = best_course(own_s, least_s, exact_s)
    staying = min(taken_s(own_s, exact_s, (index,) * len(own_s)) for index in range(len(own_s[0])))
    each = tuple(min(range(len(one)), key=one.__getitem__) for one in own_s)
    assert course.seconds <= min(staying, taken_s(own_s, exact_s, each)) * (1 + 1e-12) + 1e-12


@given(problems())
def test_free_switches_bring_the_best_of_each_and_dear_ones_one_candidate(problem):
    own_s, _, _ = problem
    free = best_course(own_s, lambda *_: 0.0, lambda *_: 0.0)
    assert free.seconds == pytest.approx(sum(map(min, own_s)))
    dear = best_course(own_s, lambda k, a, b: 0.0, lambda k, a, b: 1e9 * (a != b))
    assert len(set(dear.chosen)) == 1
    assert dear.switches == 0


def test_switches_that_cannot_pay_are_never_worked_out():
    asked = []

    def exact_s(k, a, b):
        asked.append((k, a, b))
        return 5.0 * (a != b)

    own_s = [[1.0, 50.0, 60.0], [40.0, 2.0, 70.0]]
    assert best_course(own_s, lambda k, a, b: 4.0 * (a != b), exact_s).chosen == (0, 1)
    assert asked == [(0, 0, 1)]
