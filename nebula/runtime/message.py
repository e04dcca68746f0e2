"""Plain values as bytes that ranks send each other: JSON, and after it the bytes of arrays. To read them runs no code.

Numbers, texts, lists, tuples, mappings and arrays come back as what they were; named tuples as tuples.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nebula.errors import RunFailed

Array = npt.NDArray[Any]
_LENGTH = struct.Struct("!Q")
_KINDS = "biufc"
"""Kinds of dtypes whose bytes are all there is to them."""


def packed(value: Any) -> bytes:
    """A value as bytes.

    Raises:
        TypeError: it is no plain value; a mistake of ours.

    Example:
        >>> unpacked(packed({7: (1, "two", None), "x": np.arange(3)}))
        {7: (1, 'two', None), 'x': array([0, 1, 2])}
    """
    arrays: list[Array] = []
    text = json.dumps(_plain(value, arrays)).encode()
    return joined([text, *(np.ascontiguousarray(array).tobytes() for array in arrays)])


def unpacked(message: bytes) -> Any:
    """The value of such bytes.

    Raises:
        RunFailed: they are none.
    """
    try:
        text, *arrays = parted(message)
        return _value(json.loads(text), iter(arrays))
    except (ValueError, TypeError, KeyError, StopIteration) as error:
        raise RunFailed(f"{len(message)} bytes that a rank sent are no message: {error}") from None


def joined(parts: Sequence[bytes]) -> bytes:
    """Several in one."""
    return b"".join(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))


def parted(message: bytes) -> list[bytes]:
    """What `joined` has put together.

    Raises:
        RunFailed: it has not.

    Example:
        >>> parted(joined([b"one", b"", b"two"]))
        [b'one', b'', b'two']
    """
    parts, at = [], 0
    while at < len(message):
        begin = at + _LENGTH.size
        length = _LENGTH.unpack(message[at:begin])[0] if begin <= len(message) else len(message)
        at = begin + length
        if at > len(message):
            raise RunFailed(f"{len(message)} bytes that a rank sent end in the middle")
        parts.append(message[begin:at])
    return parts


def _plain(value: Any, arrays: list[Array]) -> Any:
    """As JSON has it; arrays are put aside."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _KINDS:
            raise TypeError(f"an array of {value.dtype} is no plain value")
        arrays.append(value)
        return {"array": [value.dtype.str, list(value.shape)]}
    if isinstance(value, list):
        return [_plain(one, arrays) for one in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(one, arrays) for one in value]}
    if isinstance(value, dict):
        return {"dict": [[_plain(key, arrays), _plain(one, arrays)] for key, one in value.items()]}
    raise TypeError(f"a {type(value).__name__} is no plain value")


def _value(plain: Any, arrays: Iterator[bytes]) -> Any:
    """What `_plain` has made so."""
    if isinstance(plain, list):
        return [_value(one, arrays) for one in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, what),) = plain.items()
    if kind == "tuple":
        return tuple(_value(one, arrays) for one in what)
    if kind == "dict":
        return {_value(key, arrays): _value(one, arrays) for key, one in what}
    if kind != "array":
        raise ValueError(f"{kind} is no kind of value")
    dtype = np.dtype(what[0])
    if dtype.kind not in _KINDS:
        raise ValueError(f"no arrays of {dtype} are sent")
    return np.frombuffer(next(arrays), dtype).reshape(what[1]).copy()
