"""Quantities with units: what is read, what is refused with which hint, and how numbers are shown."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula import units
from nebula.errors import BadInput

READ = [
    (units.parse_bytes, "80GiB", 80 * 2**30),
    (units.parse_bytes, "80GB", 80e9),
    (units.parse_bytes, " 1.5 MiB ", 1.5 * 2**20),
    (units.parse_bytes, 512, 512.0),
    (units.parse_rate, "200Gb/s", 25e9),
    (units.parse_rate, "200Gbps", 25e9),
    (units.parse_rate, "300GB/s", 300e9),
    (units.parse_rate, "1GiB/s", 2.0**30),
    (units.parse_seconds, "5us", 5e-6),
    (units.parse_seconds, "5µs", 5e-6),
    (units.parse_seconds, "50ms", 0.05),
    (units.parse_seconds, "30d", 30 * 86400),
    (units.parse_quantity, "156e12", 156e12),
    (units.parse_quantity, "1.5k", 1500),
    (units.parse_quantity, "-2", -2),
]

REFUSED = [
    (units.parse_bytes, "80Gb", "'Gb'"),
    (units.parse_bytes, "80GB/s", "measures a rate"),
    (units.parse_bytes, "80gib", "did you mean GiB"),
    (units.parse_bytes, "much", "'much' is not a size"),
    (units.parse_rate, "300GB", "measures a size"),
    (units.parse_rate, "300gb/s", "GB/s or Gb/s"),
    (units.parse_rate, "300Gb", "there is no unit"),
    (units.parse_seconds, "5GB", "measures a size"),
    (units.parse_seconds, "5 parsecs", "'parsecs'"),
    (units.parse_quantity, "1e999", "finite"),
    (units.parse_quantity, "1e9999999999999999999", "finite"),
    (units.parse_quantity, True, "True"),
    (units.parse_quantity, "", "''"),
]


def test_examples_of_the_module():
    assert doctest.testmod(units).failed == 0


@pytest.mark.parametrize(("parse", "text", "value"), READ)
def test_reads(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(("parse", "text", "hint"), REFUSED)
def test_refuses_and_quotes_the_text_and_the_units(parse, text, hint):
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert hint in str(caught.value)
    assert repr(text) in str(caught.value)


@given(st.floats(0, 1e18))
def test_a_number_in_the_base_unit_is_itself(value):
    assert units.parse_bytes(value) == units.parse_rate(value) == units.parse_seconds(repr(value)) == value


@given(st.floats(1e-3, 1e15))
def test_a_rate_in_bits_is_an_eighth_of_one_in_bytes(value):
    assert units.parse_rate(f"{value!r}Gb/s") * 8 == pytest.approx(units.parse_rate(f"{value!r}GB/s"))


@given(st.floats(1, 1e16))
def test_a_size_that_is_shown_reads_back_within_half_a_percent(value):
    assert units.parse_bytes(units.format_bytes(value)) == pytest.approx(value, rel=0.006)


def test_shows_three_digits_and_no_thousand_of_a_unit():
    assert units.format_bytes(2**30 - 1) == "1 GiB"
    assert units.format_seconds(0.9996) == "1 s"
    assert units.format_rate(0) == "0 B/s"
    assert units.format_count(-1500) == "-1.5 k"
