"""Draws amounts as bars: the parts of a step as a waterfall, shares of a job's time, the funnel of candidates."""

from __future__ import annotations

from collections.abc import Sequence

from nebula.cost_model.economy import Outlook
from nebula.plan.values import Prediction, StepParts
from nebula.planner.space import RULES
from nebula.report.findings import Search
from nebula.report.outlook_words import progress_words, share_pairs
from nebula.report.svg import drawing, line, rect, text
from nebula.report.words import CUT_WORDS, percent
from nebula.units import format_seconds

WIDTH = 1180.0
LEFT = 150.0
RIGHT = 170.0
ROWS_LEFT = 215.0
"""Where the bars of waterfall and funnel begin, behind their longer labels."""

ROWS_SPAN = WIDTH - ROWS_LEFT - 300

PART_WORDS = {
    "compute_s": "compute",
    "recompute_s": "recompute",
    "tensor_communication_s": "tensor communication",
    "pipeline_communication_s": "pipeline communication",
    "data_communication_s": "data communication",
    "bubble_s": "bubble",
    "optimizer_s": "optimizer",
    "offload_s": "copies to the host",
}

ROUNDING = 1e-9


def part_pairs(parts: StepParts) -> tuple[tuple[str, float], ...]:
    """The parts of a step by name, in their order; what is nothing but rounding is 0."""
    seconds = {words: getattr(parts, field) for field, words in PART_WORDS.items()}
    return tuple((words, s if abs(s) > ROUNDING * parts.total_s else 0.0) for words, s in seconds.items())


def legend(names: Sequence[str], classes: Sequence[str], y: float) -> list[str]:
    """Coloured squares with names, from the left margin on."""
    out, x = [], LEFT
    for name, class_ in zip(names, classes, strict=True):
        out += [rect(x, y - 10, 12, 12, rx=2, class_=class_), text(x + 18, y, name, class_="small")]
        x += 28 + 6.8 * len(name)
    return out


def _bar_row(y: float, words: str, start: float, width: float, value: str, class_: str, tip: str) -> list[str]:
    return [
        text(ROWS_LEFT - 10, y + 15, words, class_="label end"),
        rect(ROWS_LEFT + start, y, max(width, 1.0), 20, rx=2, class_=class_, title=tip),
        text(ROWS_LEFT + 6 + start + max(width, 1.0), y + 15, value, class_="label"),
    ]


def waterfall(prediction: Prediction, measured_s: float, measured_words: str) -> str:
    """The parts of a step one after another, their sum with its interval and, when there is one, the measured time.

    Args:
        measured_s: 0 when nothing was measured.
    """
    total = prediction.step_time_s
    scale = ROWS_SPAN / max(total, prediction.interval_s[1], measured_s)
    out, start, y = [], 0.0, 8.0
    for words, seconds in part_pairs(prediction.parts):
        value = f"{format_seconds(seconds)} · {percent(seconds / total)}" if seconds else "none"
        out += _bar_row(y, words, start * scale, seconds * scale, value, "part", f"{words} {format_seconds(seconds)}")
        start, y = start + seconds, y + 26
    out.append(line(ROWS_LEFT - 150, y, WIDTH - 20, y, class_="axis"))
    y += 8
    out += _bar_row(y, "predicted step", 0, total * scale, "", "part-total", format_seconds(total))
    low, high = (ROWS_LEFT + s * scale for s in prediction.interval_s)
    out += [line(low, y + 10, high, y + 10, class_="whisker"), line(low, y + 5, low, y + 15, class_="whisker")]
    out.append(line(high, y + 5, high, y + 15, class_="whisker"))
    words = " to ".join(format_seconds(s) for s in prediction.interval_s)
    beside = max(ROWS_LEFT + total * scale, high) + 6
    out.append(text(beside, y + 15, f"{format_seconds(total)} ({words})", class_="label strong"))
    if measured_s:
        y += 28
        error = measured_s / total - 1
        value = f"{format_seconds(measured_s)} ({error:+.1%} against predicted)"
        out += _bar_row(y, "measured step", 0, measured_s * scale, value, "part-measured", measured_words)
    return drawing(WIDTH, y + 30, out, label="parts of the step time")


def time_shares(outlook: Outlook) -> str:
    """Where the time of the whole job goes, one after another: progress and what is none."""
    out, start, y = [], 0.0, 8.0
    for index, (name, share) in enumerate(share_pairs(outlook)):
        words, class_ = (percent(share), "part-cut") if index else (progress_words(share), "part-measured")
        out += _bar_row(y, name, start * ROWS_SPAN, share * ROWS_SPAN, words, class_, f"{name} {words}")
        start, y = start + share, y + 26
    return drawing(WIDTH, y + 4, out, label="shares of the time of the job")


def funnel(search: Search) -> str:
    """How the candidates became few: each rule takes its share, what is left was costed."""
    left, y = search.candidates, 8.0
    scale = ROWS_SPAN / max(left, 1)
    out = _bar_row(y, "looked at", 0, left * scale, f"{left:,}", "part-total", f"{left:,} candidates")
    for rule, count in search.cut:
        y += 26
        left -= count
        words = CUT_WORDS.get(rule, rule)
        tip = f"{count:,}: {RULES.get(rule, words)}"
        out += _bar_row(y, words, left * scale, count * scale, f"−{count:,}", "part-cut", tip)
    y += 26
    out += _bar_row(y, "costed in full", 0, left * scale, f"{left:,}", "part-measured", f"{left:,} costed")
    return drawing(WIDTH, y + 30, out, label="candidates by the rule that cut them")
