"""From measured times to the figures that a cluster file has: what a device attains and what a link costs.

Each figure comes from a linear model of the cost model's own formulas, fitted by least squares on relative errors with
Huber's weights (Huber, Ann. Math. Statist. 35(1), 1964), so that a row hit by something else on the machine counts
little. Refuses to fit more figures than the rows determine.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nebula.cluster.topology import Level
from nebula.cluster.values import Link
from nebula.cost_model.communication import Levels, collective
from nebula.errors import BadInput
from nebula.profiling.measurements import Message, Product, Reference

ROWS_PER_FIGURE = 3
"""Fewer rows for each fitted figure are refused."""

HUBER = 1.345
"""In standard deviations: beyond it a residual counts linearly (95 % efficiency where errors are normal)."""

MEMORY_BOUND = 0.5
"""Share of a product's time that its traffic may be by the copy's rate; rows above it say nothing of arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """How far a fit is from its rows, in per cent of the measured time.

    Attributes:
        worst: name of the row that is furthest off.
    """

    rows: int
    median_abs_pct: float
    worst_abs_pct: float
    worst: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductFit:
    """Attained rate of large products, and the size that attains half of it."""

    flops_per_s: float
    half_product_flops: float
    residuals: Residuals


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFit:
    """Bandwidth that the kernels of a training step attain."""

    bytes_per_s: float
    residuals: Residuals


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFit:
    """Bandwidth of one device's link in one direction, and the latency of a message."""

    bytes_per_s: float
    latency_s: float
    residuals: Residuals


def robust(columns: ArrayLike, seconds: ArrayLike, what: str) -> NDArray[np.float64]:
    """Coefficients, none below 0, whose weighted sum of the columns comes closest to the seconds in relative terms.

    Args:
        columns: [rows, figures], what each figure's unit costs in each row.
        seconds: [rows], above 0.
        what: is fitted, for the error.

    Raises:
        BadInput: fewer than ROWS_PER_FIGURE rows for a figure, or the rows do not tell the figures apart.
    """
    given, target = np.asarray(columns, dtype=float), np.asarray(seconds, dtype=float)
    rows, figures = given.shape
    enough(rows, figures, what)
    relative = given / target[:, None]
    if np.linalg.matrix_rank(relative / np.abs(relative).max(axis=0, initial=1e-300)) < figures:
        raise BadInput(f"{what}: the {rows} rows are too much alike to tell {figures} figures apart; vary the sizes")
    found: NDArray[np.float64] = _huber(relative)
    if (found < 0).any():  # a cost is never negative: without that figure
        kept = found >= 0
        found = np.zeros(figures)
        found[kept] = _huber(relative[:, kept])
    return found


def _huber(relative: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares of `relative @ x = 1`, reweighted until residuals beyond HUBER deviations count linearly."""
    weights = np.ones(len(relative))
    found = np.zeros(relative.shape[1])
    for _ in range(50):
        root = np.sqrt(weights)
        before, found = found, np.linalg.lstsq(relative * root[:, None], root, rcond=None)[0]
        off = np.abs(relative @ found - 1.0)
        deviation = max(1e-9, float(np.median(off)) / 0.6745)
        weights = np.minimum(1.0, HUBER * deviation / np.maximum(off, 1e-12))
        if np.allclose(found, before, rtol=1e-9, atol=0.0):
            break
    return found


def residuals(names: Sequence[str], predicted_s: Sequence[float], measured_s: Sequence[float]) -> Residuals:
    """The errors of predictions.

    Example:
        >>> residuals(["a", "b"], [1.1, 2.0], [1.0, 2.0]).worst
        'a'
    """
    errors = [100.0 * abs(p / m - 1.0) for p, m in zip(predicted_s, measured_s, strict=True)]
    worst = max(range(len(errors)), key=errors.__getitem__)
    return Residuals(
        rows=len(errors), median_abs_pct=statistics.median(errors), worst_abs_pct=errors[worst], worst=names[worst]
    )


def fit_device(
    products: Sequence[Product], references: Sequence[Reference], *, kernel_s: float, copy_bytes_per_s: float
) -> tuple[ProductFit, MemoryFit]:
    """Products and bandwidth together: kernel_s + (f + half) / rate a product, and of a step as many, plus its traffic.

    Alone, products tell rate and half-size; steps add the bandwidth, and hold the three to what they sum to.

    Raises:
        BadInput: too few rows.
    """
    single = arithmetic(products, copy_bytes_per_s)
    enough(len(references), 1, "training steps")
    columns = [[r.flops, float(r.kernels), 0.0] for r in single]
    columns += [[r.product_flops, float(r.products), r.moved_bytes] for r in references]
    launched = np.array([r.kernels * kernel_s for r in (*single, *references)])
    seconds = np.array([r.seconds for r in (*single, *references)])
    per_flop, per_product, per_byte = robust(columns, np.maximum(seconds - launched, 0.1 * seconds), "a device")
    predicted = np.array(columns) @ np.array([per_flop, per_product, per_byte]) + launched
    names = [r.name for r in (*single, *references)]
    first = len(single)
    product_fit = ProductFit(
        flops_per_s=1.0 / per_flop,
        half_product_flops=per_product / per_flop,
        residuals=residuals(names[:first], list(predicted[:first]), list(seconds[:first])),
    )
    steps = residuals(names[first:], list(predicted[first:]), list(seconds[first:]))
    return product_fit, MemoryFit(bytes_per_s=1.0 / per_byte if per_byte else copy_bytes_per_s, residuals=steps)


def fit_rate(products: Sequence[Product], *, half_product_flops: float, kernel_s: float) -> float:
    """Attained rate of another dtype's products, with the half-size of the first."""
    columns = [[r.flops + r.kernels * half_product_flops] for r in products]
    seconds = [max(r.seconds - r.kernels * kernel_s, 0.1 * r.seconds) for r in products]
    return float(1.0 / robust(columns, seconds, "matrix products")[0])


def arithmetic(products: Sequence[Product], copy_bytes_per_s: float) -> list[Product]:
    """The products whose traffic, at the rate of a copy, takes a small part of their time.

    Raises:
        BadInput: too few.
    """
    found = [r for r in products if r.moved_bytes <= MEMORY_BOUND * r.seconds * copy_bytes_per_s]
    enough(len(found), 2, "matrix products that arithmetic bounds")
    return found


def fit_link(messages: Sequence[Message]) -> LinkFit:
    """Latency and bandwidth from collectives, each as the cost model counts it.

    Raises:
        BadInput: too few.
    """
    columns = [per_unit(m.kind, m.ranks, m.size_bytes) for m in messages]
    latency_s, per_byte = robust(columns, [m.seconds for m in messages], "a link")
    predicted = np.array(columns) @ np.array([latency_s, per_byte])
    return LinkFit(
        bytes_per_s=1.0 / per_byte,
        latency_s=float(latency_s),
        residuals=residuals([m.name for m in messages], list(predicted), [m.seconds for m in messages]),
    )


def per_unit(kind: str, ranks: int, size_bytes: float) -> tuple[float, float]:
    """How often a collective pays the latency of a link, and how many bytes pass it: cost_model.communication's terms.

    Example:
        >>> per_unit("all_reduce", 4, 100.0)
        (6.0, 150.0)
    """
    one_second = Levels((Level(name="node", members=ranks, link=Link(kind="unit", bytes_per_s=1.0, latency_s=1.0)),))
    cost = collective(kind, one_second)
    return cost.fixed_s, cost.per_byte_s * size_bytes


def enough(rows: int, figures: int, what: str) -> None:
    """Refuses too few rows.

    Raises:
        BadInput: with both numbers.
    """
    if rows < ROWS_PER_FIGURE * figures:
        raise BadInput(
            f"{what}: {rows} rows do not determine {figures} figure{'s' * (figures > 1)}; "
            f"measure at least {ROWS_PER_FIGURE * figures}"
        )
