"""Measures one device; products and whole steps in the same rounds, so that a slow moment hits both alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from nebula.profiling.measurements import Move, Product, Reference
from nebula.profiling.moves import copy_rate, moves, sizes, smallest_kernel_s
from nebula.profiling.products import products, scale_of
from nebula.profiling.reference import kernel_seconds, references
from nebula.profiling.timing import Effort, medians

Row = TypeVar("Row", Product, Move, Reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTimes:
    """What was measured of a device; see Measurements."""

    kernel_s: float
    copy_bytes_per_s: float
    products: tuple[Product, ...]
    moves: tuple[Move, ...]
    references: tuple[Reference, ...]


NOTHING = DeviceTimes(kernel_s=0.0, copy_bytes_per_s=0.0, products=(), moves=(), references=())
"""Of a device of which messages alone are measured."""


def measure(
    dtypes: tuple[str, ...],
    seconds: Callable[[], float],
    effort: Effort,
    memory_bytes: float,
    device: str,
    *,
    bare: bool,
) -> DeviceTimes:
    """Times kernels and steps.

    Args:
        dtypes: precisions of products.
        seconds: the time at which all work issued so far is done.
        memory_bytes: of the device; cases stay well below.
        device: in Paddle's words.
        bare: whether a kernel costs nothing but what the device takes, as in virtual time, which no host passes.
    """
    kernel_s = smallest_kernel_s(seconds, effort) if bare else kernel_seconds(seconds, effort, device)
    rate = copy_rate(seconds, effort, memory_bytes)
    scale = scale_of(dtypes[0], seconds, effort, memory_bytes)
    move_rows, move_cases = moves(sizes(rate, effort, memory_bytes))
    move_times = medians(move_cases, seconds, effort)
    del move_cases  # their memory: whoever holds much is slowed by the system's search for idle pages
    product_rows, product_cases = products(dtypes, scale)
    reference_rows, reference_cases = references(max(1, scale // 2), device)
    took = medians([*product_cases, *reference_cases], seconds, effort)
    return DeviceTimes(
        kernel_s=kernel_s,
        copy_bytes_per_s=rate,
        products=_timed(product_rows, took[: len(product_rows)]),
        moves=_timed(move_rows, move_times),
        references=_timed(reference_rows, took[len(product_rows) :]),
    )


def _timed(rows: Sequence[Row], took: Sequence[float]) -> tuple[Row, ...]:
    return tuple(replace(row, seconds=s) for row, s in zip(rows, took, strict=True))
