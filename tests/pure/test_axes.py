"""Values of a sweep as they are typed: commas, brackets, dots, and what is refused."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.errors import BadInput, UnknownKey
from nebula.plan.axes import MOST_COMBINATIONS, Axis, axes, combinations, split_values, whole_numbers


def test_every_value_meets_every_other():
    found = combinations(axes(["job.global_batch=8,16", "devices=4,8,...,32"]))
    assert len(found) == 8
    assert found[0] == (("job.global_batch", "8"), ("devices", "4"))
    assert found[1] == (("job.global_batch", "8"), ("devices", "8"))
    assert len(set(found)) == 8


def test_brackets_and_quotes_hold_commas():
    (axis,) = axes(["objective.exclude=[],[old],[old/1, old/2]"])
    assert axis == Axis(key="objective.exclude", values=("[]", "[old]", "[old/1, old/2]"))
    assert split_values("{a: [1, 2]},'x,y'") == ("{a: [1, 2]}", "'x,y'")


@given(st.lists(st.text("ab1. /-", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=6))
def test_plain_values_come_back_as_they_were(values):
    assert split_values(",".join(values)) == tuple(values)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("8", (8,)),
        ("8,16,...,1920", (8, 16, 32, 64, 128, 256, 512, 1024, 1920)),
        ("480,960,1440,...,2400", (480, 960, 1440, 1920, 2400)),
        ("1,3,…,27", (1, 3, 9, 27)),
    ],
)
def test_dots_go_on_by_factor_or_by_distance(text, numbers):
    assert whole_numbers(text, "sizes") == numbers


@given(st.integers(1, 50), st.integers(2, 5), st.integers(1, 10**6))
def test_dots_rise_to_the_last_number(first, factor, last):
    found = whole_numbers(f"{first},{first * factor},...,{last}", "sizes")
    assert found[-1] == last
    assert all(low < high for low, high in pairwise(found[:-1]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8,...,64", "two rising numbers must stand before the dots"),
        ("16,8,...,64", "two rising numbers"),
        ("8,16,...", "whole numbers from 1 on"),
        ("8,16,...,32,64", "whole numbers from 1 on"),
        ("8,sixteen", "whole numbers from 1 on"),
        ("0,8", "whole numbers from 1 on"),
        ("1,2,3,...,999999999", "more than"),
    ],
)
def test_what_is_no_row_of_numbers_is_refused(text, said):
    with pytest.raises(BadInput, match=said):
        whole_numbers(text, "sizes")


def test_mistakes_in_keys_name_the_closest():
    with pytest.raises(UnknownKey, match=r"unknown key 'devics'; did you mean 'devices'\?"):
        axes(["devics=8,16"])
    with pytest.raises(BadInput, match=r"job\.steps stands twice"):
        axes(["job.steps=1", "job.steps=2"])
    with pytest.raises(BadInput, match="write key=value,value"):
        axes(["job.steps"])


def test_too_many_combinations_print_the_equation():
    axis = Axis(key="job.steps", values=tuple(map(str, range(50))))
    assert len(combinations([axis])) == 50
    with pytest.raises(BadInput, match=f"50 × 50 = 2,500 combinations are more than {MOST_COMBINATIONS:,}"):
        combinations([axis, axis])
