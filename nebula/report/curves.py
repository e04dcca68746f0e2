"""Draws what a run measured step by step: the loss, and the time of a step against the prediction."""

from __future__ import annotations

from collections.abc import Sequence

from nebula.report.findings import Step
from nebula.report.svg import drawing, element, line, seconds_tick, text, ticks

WIDTH, HEIGHT = 560.0, 250.0
LEFT, TOP, RIGHT, BOTTOM = 64.0, 26.0, 12.0, 34.0


def _place(steps: Sequence[Step], step: float, value: float, low: float, high: float) -> tuple[float, float]:
    first, last = steps[0].step, max(steps[-1].step, steps[0].step + 1)
    x = LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)
    return x, TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _curve(steps: Sequence[Step], values: Sequence[float], low: float, high: float, class_: str) -> str:
    places = (_place(steps, s.step, v, low, high) for s, v in zip(steps, values, strict=True))
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), class_=class_)


def _frame(steps: Sequence[Step], low: float, high: float, words: list[tuple[float, str]]) -> list[str]:
    out = []
    for value, label in words:
        _, y = _place(steps, steps[0].step, value, low, high)
        out += [line(LEFT, y, WIDTH - RIGHT, y, class_="grid"), text(LEFT - 8, y + 4, label, class_="tick end")]
    last = steps[-1].step
    for tick in ticks(last):
        if tick >= steps[0].step:
            x, _ = _place(steps, tick, low, low, high)
            out.append(text(x, HEIGHT - 12, f"{tick:g}", class_="tick middle"))
    return [*out, text(WIDTH - RIGHT, HEIGHT, "step", class_="tick end")]


def loss_curve(steps: Sequence[Step]) -> str:
    """The loss over the steps, with a scale that leaves out no step."""
    losses = [s.loss for s in steps]
    room = (max(losses) - min(losses)) or max(abs(losses[0]), 1.0)
    low, high = min(losses) - 0.05 * room, max(losses) + 0.05 * room
    marks = [(t, f"{t:g}") for t in ticks(high, 5, low=low)]
    out = [*_frame(steps, low, high, marks), _curve(steps, losses, low, high, "curve")]
    out.append(text(LEFT, 14, f"loss: {losses[0]:.3f} at first, {losses[-1]:.3f} at last", class_="small strong"))
    return drawing(WIDTH, HEIGHT + 6, out, label="loss by step")


def time_curve(steps: Sequence[Step], clock: str) -> str:
    """The time of each step and, dashed, what was predicted; the first step may stand out, so the scale ends at twice
    the larger of the prediction and the median."""
    took, predicted = [s.took_s for s in steps], [s.predicted_s for s in steps]
    high = min(max(*took, *predicted), 2 * max(sorted(took)[len(took) // 2], *predicted)) * 1.1 or 1.0
    out = _frame(steps, 0.0, high, [(t, seconds_tick(t)) for t in ticks(high, 5)])
    out.append(_curve(steps, [min(t, high) for t in took], 0.0, high, "curve"))
    out.append(_curve(steps, predicted, 0.0, high, "curve dashed"))
    out.append(text(LEFT, 14, f"{clock} time of a step; dashed: predicted", class_="small strong"))
    return drawing(WIDTH, HEIGHT + 6, out, label="time by step")
