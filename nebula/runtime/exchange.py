"""What the ranks of a plan tell each other outside of a step: small plain values."""

from __future__ import annotations

from typing import TypeVar

import paddle

T = TypeVar("T")


def from_all(value: T, ranks: int) -> list[T]:
    """A value of every rank, on every rank; all call it at the same point."""
    if ranks == 1:
        return [value]
    values: list[T] = []
    paddle.distributed.all_gather_object(values, value)
    return values
