"""What the interpreter hands to the numpy version of an operator: one call on one rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from nebula.graph.interpret_ranks import Array

Arrays = tuple[Array, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One application of an operator on one rank.

    Attributes:
        inputs: its inputs.
        shapes: local shape of each output.
        dtypes: dtype name of each output.
        attributes: its attributes.
        place: the rank's coordinate along the axis that the attribute `located_axis` names, else 0.
    """

    inputs: Arrays
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    attributes: Mapping[str, object]
    place: int = 0

    def number(self, name: str, default: float = 0.0) -> float:
        """A number among the attributes."""
        value = self.attributes.get(name, default)
        assert isinstance(value, int | float), f"{name}={value!r}"
        return value

    def integer(self, name: str, default: int = 0) -> int:
        """An integer among the attributes."""
        return int(self.number(name, default))

    def integers(self, name: str) -> tuple[int, ...]:
        """Integers among the attributes; empty when missing."""
        value = self.attributes.get(name, ())
        return tuple(int(v) for v in value) if isinstance(value, tuple | list) else (int(str(value)),)

    def flag(self, name: str) -> bool:
        """A flag among the attributes, false when missing."""
        return bool(self.attributes.get(name, False))

    def argument(self, name: str, order: tuple[str, ...]) -> Array | None:
        """The input of that name where some of the arguments in `order` may be absent."""
        absent = self.attributes.get("absent", ())
        assert isinstance(absent, tuple | list)
        given = [argument for argument in order if argument not in absent][: len(self.inputs)]
        return self.inputs[given.index(name)] if name in given else None


Function = Callable[[Call], Arrays]


def numpy_dtype(name: str) -> type[np.generic]:
    """The dtype that the interpreter computes in: every float in double precision."""
    if name.startswith(("float", "bfloat")):
        return np.float64
    if name == "bool":
        return np.bool_
    return np.int64
