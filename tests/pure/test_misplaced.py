"""What the bench of replicas calls lost or done twice: any step from the first to the last that is not there once."""

from hypothesis import given
from hypothesis import strategies as st

from tests.bench.replicas import misplaced


def test_a_step_that_is_missing_there_twice_or_out_of_order_counts():
    assert [misplaced(steps) for steps in ([], [1, 2, 3], [2, 3], [1, 3], [1, 2, 2, 3], [1, 3, 2])] == [
        0,
        0,
        1,
        1,
        1,
        1,
    ]


@given(st.lists(st.integers(1, 9), max_size=9))
def test_nothing_is_misplaced_in_a_whole_range_alone(steps):
    assert (misplaced(steps) == 0) == (steps == list(range(1, len(steps) + 1)))
