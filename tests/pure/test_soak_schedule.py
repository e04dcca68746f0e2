"""What a soak does depends on its seed alone, and leaves no kind of fault out."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2]))
from nebula.elastic.chaos.values import Kind
from tests.soak.schedule import blows


def first(seed, count):
    return list(itertools.islice(blows(seed), count))


@given(st.integers(0, 10**9))
def test_a_seed_replays_its_schedule_and_of_so_many_as_there_are_kinds_each_is_another(seed):
    found = first(seed, 3 * len(Kind))
    assert found == first(seed, 3 * len(Kind))
    for begin in range(0, len(found), len(Kind)):
        assert {one.fault.kind for one in found[begin : begin + len(Kind)]} == set(Kind)


def test_another_seed_is_another_schedule_and_some_faults_come_at_once():
    assert first(1, 20) != first(2, 20)
    at_once = [one.at_once for one in first(1, 400)]
    assert 60 < sum(at_once) < 140
    assert all(one.words for one in first(1, 100))
