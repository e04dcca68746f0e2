"""Frozen values (dataclasses and named tuples) to plain data and back, each key and type checked on the way back.

Only what a plan needs is known: dataclasses, named tuples, tuples, optional values, words of a list, text, numbers and
truth values.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from functools import lru_cache
from typing import Any

from nebula.errors import LARGEST, closest, shown

Keys = tuple[str | int, ...]


class Misfit(Exception):
    """Plain data does not fit a value.

    Attributes:
        way: keys and indices from the top to what does not fit.
        sentence: what is wrong and what to do.
    """

    def __init__(self, way: Keys, sentence: str) -> None:
        super().__init__(sentence)
        self.way = way
        self.sentence = sentence


def encode(value: Any) -> Any:
    """Mappings for dataclasses and named tuples, lists for tuples, the rest as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        named = getattr(value, "_fields", None)
        return {n: encode(getattr(value, n)) for n in named} if named else [encode(item) for item in value]
    return value


def decode(kind: Any, value: Any, way: Keys = ()) -> Any:
    """The value of type `kind` that encode made `value` of.

    Raises:
        Misfit: a key is unknown or missing, or something has another type.
    """
    origin, arms = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else decode(next(a for a in arms if a is not type(None)), value, way)
    if origin is tuple:
        return _tuple(arms, value, way)
    if origin is typing.Literal:
        if value not in arms:
            raise Misfit(way, f"this must be one of {', '.join(map(str, arms))}, not {shown(value)}")
        return value
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        return _record(kind, value, way)
    return _scalar(kind, value, way)


def _record(kind: Any, value: Any, way: Keys) -> Any:
    if not isinstance(value, dict):
        raise Misfit(way, f"this must be a mapping, not {shown(value)}")
    known = _keys(kind)
    for key in value:
        if key not in known:
            raise Misfit((*way, key), f"unknown key {shown(key)}; {closest(str(key), known)}")
    for key, (_, required) in known.items():
        if required and key not in value:
            raise Misfit(way, f"the key {key!r} is missing; add it")
    return kind(**{key: decode(known[key][0], item, (*way, key)) for key, item in value.items()})


def _tuple(arms: tuple[Any, ...], value: Any, way: Keys) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise Misfit(way, f"this must be a list, not {shown(value)}")
    if arms[-1] is Ellipsis:
        arms = (arms[0],) * len(value)
    if len(arms) != len(value):
        raise Misfit(way, f"this must be a list of {len(arms)}, not of {len(value)}")
    return tuple(decode(arm, item, (*way, i)) for i, (arm, item) in enumerate(zip(arms, value, strict=True)))


def _scalar(kind: Any, value: Any, way: Keys) -> Any:
    wanted = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
    fits = type(value) in ((int, float) if kind is float else (kind,))
    if not fits or (isinstance(value, int | float) and not abs(value) < _LARGEST[type(value)]):
        raise Misfit(way, f"this must be {wanted}, not {shown(value)}")
    if isinstance(value, str) and not value.isprintable():
        raise Misfit(way, f"this must be one line of printable text, not {shown(value)}")
    return float(value) if kind is float else value


_LARGEST = {int: LARGEST, float: math.inf, bool: 2}


@lru_cache(maxsize=64)
def _keys(kind: Any) -> dict[str, tuple[Any, bool]]:
    """For each key its type and whether it must be there."""
    hints = typing.get_type_hints(kind)
    if not dataclasses.is_dataclass(kind):
        return {name: (hints[name], name not in kind._field_defaults) for name in kind._fields}
    unset = dataclasses.MISSING
    return {
        f.name: (hints[f.name], f.default is unset and f.default_factory is unset) for f in dataclasses.fields(kind)
    }
