"""Draws curves over one quantity: a panel with axes, lines through points, and marks where there is nothing to draw.

Quantities that are numbers lie to scale, by their logarithm when they span more than a factor of eight; others lie
side by side in their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nebula.report.svg import STAGE_COLOURS, element, line, text, ticks

WIDTH, HEIGHT = 560.0, 330.0
LEFT, TOP, RIGHT, BOTTOM = 70.0, 34.0, 20.0, 46.0
LOGARITHMIC_FROM = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A line through points: (position, value, text of the tool tip)."""

    name: str
    points: tuple[tuple[float, float, str], ...]
    dashed: bool = False


class Scale:
    """Where the values of the horizontal axis lie.

    Attributes:
        labels: what is written at each value.
    """

    def __init__(self, values: Sequence[str]) -> None:
        self.labels = tuple(dict.fromkeys(values))
        numbers = [_number(value) for value in self.labels]
        self.numeric = all(n is not None for n in numbers) and len(numbers) > 1
        self.at = {
            label: number if self.numeric and number is not None else float(index)
            for index, (label, number) in enumerate(zip(self.labels, numbers, strict=True))
        }
        low, high = min(self.at.values()), max(self.at.values())
        self.logarithmic = self.numeric and low > 0 and high / low >= LOGARITHMIC_FROM
        self._low, self._high = self._moved(low), self._moved(high)

    def x(self, position: float) -> float:
        """Pixels of a position; a single one lies in the middle."""
        span = self._high - self._low
        share = (self._moved(position) - self._low) / span if span else 0.5
        return LEFT + 14 + share * (WIDTH - LEFT - RIGHT - 28)

    def marks(self) -> list[tuple[float, str]]:
        """Pixels and labels of the values that have room for a label, the last always."""
        placed = sorted((self.x(self.at[label]), label) for label in self.labels)
        found: list[tuple[float, str]] = []
        for x, label in reversed(placed):
            if not found or found[-1][0] - x >= 8.0 * max(len(label), len(found[-1][1])):
                found.append((x, label))
        return found[::-1]

    def _moved(self, position: float) -> float:
        return math.log(position) if self.logarithmic else position


def panel(
    curves: Sequence[Curve],
    scale: Scale,
    *,
    title: str,
    below: str,
    label: Callable[[float], str],
    missing: Sequence[tuple[str, str]] = (),
    ceiling: float = 0.0,
    logarithmic: bool = False,
) -> str:
    """One panel as an SVG group.

    Args:
        curves: values from 0 on.
        scale: of the horizontal axis.
        title: what the values are.
        below: what the horizontal axis is.
        label: a value of the vertical axis in words.
        missing: values of the horizontal axis without a plan, and why.
        ceiling: the least height of the vertical axis.
        logarithmic: whether the vertical axis shows factors; values must be above 0 then.
    """
    values = [value for curve in curves for _, value, _ in curve.points]
    high = max(*values, ceiling, 0.0) * 1.05 or 1.0 if values else 1.0
    low = min(values) / 1.2 if logarithmic and values else 0.0

    def y(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if low else value / high
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

    out = [text(LEFT, 16, title, class_="small strong")]
    for tick in _factors(low, high) if low else ticks(high, 5):
        out += [
            line(LEFT, y(tick), WIDTH - RIGHT, y(tick), class_="grid"),
            text(LEFT - 8, y(tick) + 4, label(tick), class_="tick end"),
        ]
    out += [text(x, HEIGHT - BOTTOM + 18, words, class_="tick middle") for x, words in scale.marks()]
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, below, class_="tick middle"))
    for index, curve in enumerate(curves):
        out += _drawn(curve, scale, y, _colour(index))
    for value, why in missing:
        out.append(text(scale.x(scale.at[value]), HEIGHT - BOTTOM - 4, "×", title=why, class_="label middle"))
    return element("g", *out)


def _factors(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; over more than three of those the powers alone.

    Example:
        >>> _factors(90, 600)
        [100.0, 200.0, 500.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) <= 4 else (1,)
    return [tick for power in powers for step in steps if low <= (tick := step * 10.0**power) <= high]


def legend(names: Sequence[str], y: float, width: float) -> tuple[list[str], float]:
    """Coloured dots with the names of curves, in as many lines as they need, and where the last line is."""
    out, x = [], LEFT
    for index, name in enumerate(names):
        room = 30 + 7.2 * len(name)
        if x > LEFT and x + room > width:
            x, y = LEFT, y + 18
        out.append(element("circle", cx=x, cy=y - 4, r=4, fill=_colour(index)))
        out.append(text(x + 10, y, name, class_="small"))
        x += room
    return out, y


def _colour(index: int) -> str:
    return STAGE_COLOURS[index % len(STAGE_COLOURS)]


def _drawn(curve: Curve, scale: Scale, y: Callable[[float], float], colour: str) -> list[str]:
    places = [(scale.x(position), y(value), tip) for position, value, tip in sorted(curve.points)]
    stroke = "stroke:var(--soft)" if curve.dashed else f"stroke:{colour}"
    path = " ".join(f"{x:.1f},{height:.1f}" for x, height, _ in places)
    out = [element("polyline", points=path, class_="curve dashed" if curve.dashed else "curve", style=stroke)]
    if not curve.dashed:
        out += [element("circle", title=tip, cx=x, cy=height, r=3.5, fill=colour) for x, height, tip in places]
    return out


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
