"""The table of the model's parameters as Markdown for the docs, and as cells for a terminal.

`python3 -m nebula.report.parameter_table docs/cost-model.md` writes it anew between its marks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nebula.cost_model.calibration.table import Number, numbers
from nebula.units import format_bytes, format_rate, format_seconds

HEADINGS = ("parameter", "value", "unit", "plausible", "meaning", "origin")
BEGIN, END = "<!-- nebula calibrate --table -->", "<!-- end of the table -->"
"""What the docs hold the table between."""

FORMATS = {"s": format_seconds, "B/s": format_rate, "B": format_bytes}


def figure(value: float, unit: str) -> str:
    """A value as people read it.

    Example:
        >>> figure(15e-6, "s"), figure(2e9, "B/s"), figure(0.75, "of the link")
        ('15 us', '2 GB/s', '0.75')
    """
    return FORMATS[unit](value) if unit in FORMATS else f"{value:.4g}"


def cells(number: Number) -> tuple[str, ...]:
    """One row, as HEADINGS."""
    unit = "" if number.unit in FORMATS else number.unit
    between = f"{figure(number.low, number.unit)} to {figure(number.high, number.unit)}"
    return (number.name, figure(number.value, number.unit), unit, between, number.meaning, number.origin)


def markdown(numbers: Sequence[Number]) -> str:
    """The table for the docs, a line each."""
    rows = [HEADINGS, ("---",) * len(HEADINGS)]
    rows += [(f"`{name}`", *rest) for name, *rest in map(cells, numbers)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def renewed(page: str) -> str:
    """The page with the present table between its marks."""
    before, rest = page.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{markdown(numbers())}{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
