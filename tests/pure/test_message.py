"""Values that ranks send each other come back as what they were, and bytes that are no message run no code."""

from __future__ import annotations

import pickle
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.errors import RunFailed
from nebula.runtime.message import joined, packed, parted, unpacked

keys = st.integers() | st.text(max_size=5) | st.tuples(st.integers(), st.text(max_size=3))
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_plain_values_come_back_as_what_they_were(value):
    back = unpacked(packed(value))
    assert back == value
    assert repr(back) == repr(value)  # of the same types all the way down


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
def test_arrays_come_back_with_their_bits(dtype, shape):
    array = (np.arange(6) % 2).astype(dtype)[: int(np.prod(shape))].reshape(shape)
    back = unpacked(packed({3: [array, (array.T, 1.5)]}))[3]
    for one, other in ((back[0], array), (back[1][0], array.T)):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)
    back[0][...] = 1  # it may be written to


class Named(NamedTuple):
    name: str
    size: int


def test_named_tuples_come_as_tuples_and_numbers_of_numpy_as_numbers():
    assert unpacked(packed(Named("w", np.int64(3)))) == ("w", 3)


def test_what_is_no_plain_value_is_not_sent():
    for value in (object(), {1, 2}, b"bytes", np.array([object()])):
        with pytest.raises(TypeError, match="is no plain value"):
            packed(value)


class Opens:
    """What a pickle would do to its reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_is_no_message_and_does_nothing(tmp_path):
    hostile = pickle.dumps(Opens(str(tmp_path / "opened")))
    for message in (hostile, joined([hostile]), joined([b"[]", hostile])[:-1]):
        with pytest.raises(RunFailed):
            unpacked(message)
    assert list(tmp_path.iterdir()) == []
    told = joined([b'{"array": ["|O", [1]]}', b"\0" * 8])
    with pytest.raises(RunFailed, match="no arrays of object are sent"):
        unpacked(told)


@given(st.binary(max_size=60) | st.lists(st.binary(max_size=20), max_size=4).map(joined))
def test_any_bytes_are_a_value_or_refused(message):
    with suppress(RunFailed):
        unpacked(message)


@given(st.lists(st.binary(max_size=9), max_size=5))
def test_parts_come_back(parts):
    assert parted(joined(parts)) == parts
