"""Draws plans by their step time and what a token costs, and joins those that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence

from nebula.report.findings import TimeCost
from nebula.report.outlook_words import amount
from nebula.report.svg import drawing, element, line, seconds_tick, text, ticks
from nebula.units import format_energy, format_seconds

JOULES_PER_WH = 3600.0
WIDTH, HEIGHT = 1180.0, 280.0
LEFT, TOP, RIGHT, BOTTOM = 110.0, 28.0, 170.0, 44.0
LEAST_SPAN = 0.1
"""Of the greatest value, what an axis spans at least, so that its marks can be told apart."""

ROOM = 0.06
"""What is left free beside the outermost points, as a share of what they span."""


def cost_words(one: TimeCost) -> str:
    """What a million tokens cost under a plan."""
    return amount(one.money) if one.money else format_energy(one.energy_j)


def _cost(one: TimeCost) -> float:
    """What is drawn: money, or watt-hours, of which round ones are marked."""
    return one.money or one.energy_j / JOULES_PER_WH


def front_drawing(points: Sequence[TimeCost]) -> str:
    """One dot a plan; the first is the fastest."""
    times, costs = [p.step_time_s for p in points], [_cost(p) for p in points]
    across, down = _Axis(times, LEFT, WIDTH - RIGHT), _Axis(costs, HEIGHT - BOTTOM, TOP)
    money = bool(points[0].money)
    out = [text(LEFT, 14, f"{'money' if money else 'energy'} for a million tokens", class_="small strong")]
    for tick in down.ticks:
        words = amount(tick) if money else format_energy(tick * JOULES_PER_WH)
        y = down.place(tick)
        out += [line(LEFT, y, WIDTH - RIGHT, y, class_="grid"), text(LEFT - 8, y + 4, words, class_="tick end")]
    for tick in across.ticks:
        out.append(text(across.place(tick), HEIGHT - BOTTOM + 18, seconds_tick(tick), class_="tick middle"))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "a step", class_="tick middle"))
    front = sorted((p for p in points if p.on_front), key=lambda p: p.step_time_s)
    path = " ".join(f"{across.place(p.step_time_s):.1f},{down.place(_cost(p)):.1f}" for p in front)
    out.append(element("polyline", points=path, class_="curve"))
    for point in points:
        out += _dot(point, across.place(point.step_time_s), down.place(_cost(point)))
    return drawing(WIDTH, HEIGHT, out, label="plans by step time and by what a token costs")


def _dot(point: TimeCost, x: float, y: float) -> list[str]:
    tip = f"{point.split} on {point.devices:,} devices: {format_seconds(point.step_time_s)} a step, {cost_words(point)}"
    class_ = "dot front" if point.on_front else "dot"
    out = [element("circle", cx=x, cy=y, r=5.0 if point.on_front else 4.0, class_=class_, title=tip)]
    if point.on_front:
        out.append(text(x + 9, y + 17, f"{point.devices:,} devices", class_="small"))
    return out


class _Axis:
    """Where values lie between two ends of a drawing."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        span = max(max(values) - min(values), LEAST_SPAN * max(values))
        middle = (max(values) + min(values)) / 2
        self._low, high = max(0.0, middle - (0.5 + ROOM) * span), middle + (0.5 + ROOM) * span
        self._start, self._scale = start, (end - start) / (high - self._low)
        self.ticks = ticks(high, 6, low=self._low)

    def place(self, value: float) -> float:
        """Its pixel."""
        return self._start + (value - self._low) * self._scale
