"""Draws what-ifs: for every change a bar to the left where a step becomes shorter, to the right where longer."""

from __future__ import annotations

from collections.abc import Sequence

from nebula.planner.sensitivity import NEAR_IT, PLANNED_AGAIN, WhatIf
from nebula.report.outcome_table import figures
from nebula.report.svg import drawing, line, rect, text

WIDTH = 1180.0
LEFT, RIGHT = 330.0, 130.0
PITCH = 24.0


def what_if_bars(rows: Sequence[WhatIf]) -> str:
    """One bar a row; the sentence is its tool tip."""
    low = min(*(row.change for row in rows), 0.0)
    high = max(*(row.change for row in rows), 0.0)
    # a label stands beside its bar on either side
    scale = (WIDTH - LEFT - 2 * RIGHT) / ((high - low) or 1.0)
    zero = LEFT + RIGHT - low * scale
    out = [line(zero, 4, zero, 8 + PITCH * len(rows), class_="axis")]
    for index, row in enumerate(rows):
        out += _row(row, 8 + index * PITCH, zero, scale)
    return drawing(WIDTH, 14 + PITCH * len(rows), out, label="change of the step time under each change")


def _row(row: WhatIf, y: float, zero: float, scale: float) -> list[str]:
    step, change = figures(row)
    again = {NEAR_IT: " (plans near it)", PLANNED_AGAIN: " (planned again)"}.get(row.how, "")
    width = max(abs(row.change) * scale, 1.0)
    slower = row.change >= 0
    start = zero if slower else zero - width
    beside = zero + width + 6 if slower else start - 6
    return [
        text(LEFT - 10, y + 14, row.name + again, class_="label end", title=row.sentence),
        rect(start, y, width, 18, rx=2, class_="part-cut" if slower else "part-measured", title=row.sentence),
        text(beside, y + 14, step if change == "–" else change, class_="label" if slower else "label end"),
    ]
