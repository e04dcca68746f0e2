"""From measured times to the figures that a cluster file has: what a device attains and what a link costs.

Each figure comes from a linear model of the cost model's own formulas, fitted by least squares on relative errors with
Huber's weights (Huber, Ann. Math. Statist. 35(1), 1964), so that a row hit by something else on the machine counts
little. Refuses to fit more figures than the rows determine.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nebula.cluster.topology import Level
from nebula.cluster.values import Link
from nebula.cost_model.communication import Levels, collective
from nebula.errors import BadInput
from nebula.profiling.measurements import Alike, Message, Product, Reference

ROWS_PER_FIGURE = 3
"""Fewer rows for each fitted figure are refused."""

HUBER = 1.345
"""In standard deviations: beyond it a residual counts linearly (95 % efficiency where errors are normal)."""

FITTED_COLLECTIVE = "all_reduce"
"""The others are predicted from its figures, and how far off that is stands in the file."""

RIDGES = (0.0, 5.0, 20.0, 80.0)
"""FLOPs to the byte at which the roofline may bend, as first guesses; 0: arithmetic bounds every product."""

ROOFLINE_TURNS = 20
"""Turns of the search for the side of the roofline that each product is on; a few are enough."""


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


NO_RESIDUALS = Residuals(rows=0, median_abs_pct=0.0, worst_abs_pct=0.0, worst="")


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


def robust(
    columns: ArrayLike, seconds: ArrayLike, what: str, importance: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Coefficients, none below 0, whose weighted sum of the columns comes closest to the seconds in relative terms.

    Args:
        columns: [rows, figures], what each figure's unit costs in each row.
        seconds: [rows], above 0.
        what: is fitted, for the error.
        importance: [rows], how many rows each counts as; default: one.

    Raises:
        BadInput: fewer than ROWS_PER_FIGURE rows for a figure, or the rows do not tell the figures apart.
    """
    given, target = np.asarray(columns, dtype=float), np.asarray(seconds, dtype=float)
    rows, figures = given.shape
    enough(rows, figures, what)
    relative = given / target[:, None]
    if np.linalg.matrix_rank(relative / np.abs(relative).max(axis=0, initial=1e-300)) < figures:
        raise BadInput(f"{what}: the {rows} rows are too much alike to tell {figures} figures apart; vary the sizes")
    counts = np.ones(rows) if importance is None else np.asarray(importance, dtype=float)
    found: NDArray[np.float64] = _huber(relative, counts)
    if (found < 0).any():  # a cost is never negative: without that figure
        kept = found >= 0
        found = np.zeros(figures)
        found[kept] = _huber(relative[:, kept], counts)
    return found


def _huber(relative: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares of `relative @ x = 1`, reweighted until residuals beyond HUBER deviations count linearly."""
    weights = np.ones(len(relative))
    found = np.zeros(relative.shape[1])
    for _ in range(50):
        root = np.sqrt(weights * counts)
        before, found = found, np.linalg.lstsq(relative * root[:, None], root, rcond=None)[0]
        off = np.abs(relative @ found - 1.0)
        deviation = max(1e-9, _weighted_median(off, counts) / 0.6745)
        weights = np.minimum(1.0, HUBER * deviation / np.maximum(off, 1e-12))
        if np.allclose(found, before, rtol=1e-9, atol=0.0):
            break
    return found


def _weighted_median(values: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2)])


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measured time beside what it is the sum of: products, traffic of other kernels, launches."""

    name: str
    products: tuple[Alike, ...]
    moved_bytes: float
    kernels: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds per FLOP of a product, per product (half_product_flops at that rate), and per byte."""

    per_flop_s: float
    per_product_s: float
    per_byte_s: float

    def bound(self, size: Alike) -> bool:
        """Whether arithmetic, not traffic, takes a product's time: cost_model.compute's roofline."""
        return size.flops * self.per_flop_s + self.per_product_s >= size.moved_bytes * self.per_byte_s


def fit_device(
    products: Sequence[Product], references: Sequence[Reference], *, kernel_s: float
) -> tuple[ProductFit, MemoryFit]:
    """Rate, half-size and bandwidth together, from products and from training steps.

    A product takes kernel_s + max((f + half) / rate, bytes / bandwidth), any other kernel kernel_s + bytes / bandwidth,
    as in cost_model.compute. Which side of the roofline a product is on follows from the figures, so the two are found
    in turn. Steps hold the three figures to what they sum to.

    Raises:
        BadInput: too few rows.
    """
    enough(len(products), 2, "matrix products")
    enough(len(references), 1, "training steps")
    rows = [
        Row(name=p.name, products=(p.alike,), moved_bytes=0.0, kernels=float(p.kernels), seconds=p.seconds)
        for p in products
    ]
    rows += [
        Row(name=r.name, products=r.products, moved_bytes=r.moved_bytes, kernels=r.kernels, seconds=r.seconds)
        for r in references
    ]
    # steps are what the figures are for: together they count as much as all products
    importance = [1.0] * len(products) + [len(products) / len(references)] * len(references)
    guesses = [Costs(per_flop_s=1.0, per_product_s=0.0, per_byte_s=ridge) for ridge in RIDGES]
    settled = [found for guess in guesses for found in _settled(rows, guess, kernel_s, importance)]
    if not settled:
        raise BadInput(
            "a device: the times do not tell products from memory traffic, as on a machine that does other work; "
            "profile again when it is idle"
        )
    costs = min(settled, key=lambda found: _off(rows, found, kernel_s, importance))
    predicted = [predicted_s(row, costs, kernel_s) for row in rows]
    measured, names, first = [r.seconds for r in rows], [r.name for r in rows], len(products)
    product_fit = ProductFit(
        flops_per_s=1.0 / costs.per_flop_s,
        half_product_flops=costs.per_product_s / costs.per_flop_s,
        residuals=residuals(names[:first], predicted[:first], measured[:first]),
    )
    steps = residuals(names[first:], predicted[first:], measured[first:])
    return product_fit, MemoryFit(bytes_per_s=1.0 / costs.per_byte_s, residuals=steps)


def _settled(rows: Sequence[Row], costs: Costs, kernel_s: float, importance: Sequence[float]) -> list[Costs]:
    """The figures under which each product is on the side of the roofline that they were fitted with, from a guess.

    None where a guess leaves too little on one side to tell its figures.
    """
    for _ in range(ROOFLINE_TURNS):
        try:
            before, costs = costs, _costs(rows, costs, kernel_s, importance)
        except BadInput:
            return []
        if costs == before:
            break
    return [costs] if costs.per_flop_s > 0 and costs.per_byte_s > 0 else []


def _off(rows: Sequence[Row], costs: Costs, kernel_s: float, importance: Sequence[float]) -> float:
    """The sum of the relative errors."""
    errors = (abs(predicted_s(row, costs, kernel_s) / row.seconds - 1.0) for row in rows)
    return sum(count * error for count, error in zip(importance, errors, strict=True))


def _costs(rows: Sequence[Row], sides: Costs, kernel_s: float, importance: Sequence[float]) -> Costs:
    """The figures that fit best while each product stays on its side of the roofline."""
    columns, seconds = [], []
    for row in rows:
        arithmetic = [a for a in row.products if sides.bound(a)]
        moved = row.moved_bytes + sum(a.count * a.moved_bytes for a in row.products if not sides.bound(a))
        columns.append([sum(a.count * a.flops for a in arithmetic), float(sum(a.count for a in arithmetic)), moved])
        seconds.append(row.seconds - row.kernels * kernel_s)
    bottom = [0.1 * row.seconds for row in rows]  # a launch measured too dear leaves no row without time
    found = robust(columns, np.maximum(seconds, bottom), "a device", importance)
    return Costs(per_flop_s=float(found[0]), per_product_s=float(found[1]), per_byte_s=float(found[2]))


def predicted_s(row: Row, costs: Costs, kernel_s: float) -> float:
    """Seconds of a row."""
    products = (
        a.count * max(a.flops * costs.per_flop_s + costs.per_product_s, a.moved_bytes * costs.per_byte_s)
        for a in row.products
    )
    return row.kernels * kernel_s + row.moved_bytes * costs.per_byte_s + sum(products)


def fit_rate(products: Sequence[Product], *, half_product_flops: float, kernel_s: float) -> float:
    """Attained rate of another dtype's products, with the half-size of the first."""
    columns = [[r.flops + r.kernels * half_product_flops] for r in products]
    seconds = [max(r.seconds - r.kernels * kernel_s, 0.1 * r.seconds) for r in products]
    return float(1.0 / robust(columns, seconds, "matrix products")[0])


def fit_link(messages: Sequence[Message]) -> LinkFit:
    """Latency and bandwidth from the all_reduces, which data parallelism sends most of, as the cost model counts them.

    Raises:
        BadInput: too few.
    """
    rows = [m for m in messages if m.kind == FITTED_COLLECTIVE]
    enough(len(rows), 2, "a link")
    columns = [per_unit(m.kind, m.ranks, m.size_bytes) for m in rows]
    latency_s, per_byte_s = (float(c) for c in robust(columns, [m.seconds for m in rows], "a link"))
    fit = LinkFit(bytes_per_s=1.0 / max(per_byte_s, 1e-18), latency_s=latency_s, residuals=NO_RESIDUALS)
    return replace(fit, residuals=link_residuals(fit, rows))


def link_residuals(link: LinkFit, messages: Sequence[Message]) -> Residuals:
    """How far a link's figures are from collectives."""
    units = [per_unit(m.kind, m.ranks, m.size_bytes) for m in messages]
    predicted = [latencies * link.latency_s + moved / link.bytes_per_s for latencies, moved in units]
    return residuals([m.name for m in messages], predicted, [m.seconds for m in messages])


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
