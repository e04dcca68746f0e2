"""Draws a sweep or a scaling curve: two panels side by side, throughput and what it costs against what was varied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from nebula.planner.outcome import Outcome
from nebula.report.chart import HEIGHT, LEFT, WIDTH, Curve, Scale, legend, panel
from nebula.report.outcome_rows import OutcomeRow, brief, short_key, short_split, varied
from nebula.report.svg import drawing, element, seconds_tick, text
from nebula.report.words import percent
from nebula.units import format_count, format_seconds

DEVICES = "devices"


class Figure(NamedTuple):
    """What one panel shows: its title, the value of a row, a value in words."""

    title: str
    value: Callable[[OutcomeRow], float]
    words: Callable[[float], str]


STEP = Figure("step time", lambda row: row.outcome.step_time_s, seconds_tick)
RATE = Figure("tokens/s", lambda row: row.outcome.tokens_per_s, format_count)
RATE_OF_A_DEVICE = Figure("tokens/s a device", lambda row: row.outcome.tokens_per_s_per_device, format_count)
EFFICIENCY = Figure("efficiency", lambda row: row.efficiency or 0.0, percent)


def scaling_drawing(rows: Sequence[OutcomeRow], title: str) -> str:
    """Throughput with the line of perfect scaling, and efficiency, against the number of devices."""
    planned = [row for row in rows if row.outcome.plan]
    ideal: tuple[Curve, ...] = ()
    if planned:
        base = planned[0].outcome.tokens_per_s / _size(planned[0])
        points = tuple((float(_size(row)), base * _size(row), "") for row in rows if _size(row) >= _size(planned[0]))
        ideal = (Curve(name="perfect", points=points, dashed=True),)
    figures = (RATE._replace(title="tokens/s; dashed: perfect scaling"), EFFICIENCY)
    return _pair(rows, DEVICES, figures, title, several=False, more=(ideal, ()), ceilings=(0.0, 1.0))


def sweep_drawing(rows: Sequence[OutcomeRow], title: str) -> str:
    """Step time and throughput of a device against the key with most values, numbers before words.

    The other keys' combinations are a curve each.
    """
    scales = {key: Scale([dict(row.labels)[key] for row in rows]) for key in varied(rows)}
    across = max(scales, key=lambda key: (scales[key].numeric, len(scales[key].labels)))
    return _pair(rows, across, (STEP, RATE_OF_A_DEVICE), title)


def _pair(
    rows: Sequence[OutcomeRow],
    key: str,
    figures: tuple[Figure, Figure],
    title: str,
    *,
    several: bool = True,
    more: tuple[tuple[Curve, ...], tuple[Curve, ...]] = ((), ()),
    ceilings: tuple[float, float] = (0.0, 0.0),
) -> str:
    """Both panels below a title.

    Args:
        several: whether the rows are several curves, whose names are said, or one along which all labels change.
    """
    scale = Scale([dict(row.labels)[key] for row in rows])
    planned = [row for row in rows if row.outcome.plan]
    groups = _groups(planned, key, rows) if several else {"": planned}
    out = [text(LEFT, 18, title, class_="strong")]
    names, top = legend(list(groups), 42, 2 * WIDTH) if any(groups) else ([], 26.0)
    out += names
    reasons = {dict(row.labels)[key]: brief(row.outcome.reason) for row in rows}
    for row in planned:
        reasons.pop(dict(row.labels)[key], None)
    for place, (figure, extra, ceiling) in enumerate(zip(figures, more, ceilings, strict=True)):
        content = panel(
            (*(_curve(name, members, key, scale, figure) for name, members in groups.items()), *extra),
            scale,
            title=figure.title,
            below=short_key(key),
            label=figure.words,
            missing=list(reasons.items()),
            ceiling=ceiling,
            logarithmic=bool(extra) and scale.logarithmic,
        )
        out.append(element("g", content, transform=f"translate({place * WIDTH:g},{top + 8:g})"))
    return drawing(2 * WIDTH, top + 8 + HEIGHT, out, label=title)


def _groups(rows: Sequence[OutcomeRow], key: str, every: Sequence[OutcomeRow]) -> dict[str, list[OutcomeRow]]:
    """The rows by the values of each key that varies in every row, but the one that the horizontal axis shows."""
    others = [other for other in varied(every) if other != key]
    groups: dict[str, list[OutcomeRow]] = {}
    for row in rows:
        labels = dict(row.labels)
        groups.setdefault(", ".join(f"{short_key(other)} {labels[other]}" for other in others), []).append(row)
    return groups


def _curve(name: str, rows: Sequence[OutcomeRow], key: str, scale: Scale, figure: Figure) -> Curve:
    points = ((scale.at[dict(row.labels)[key]], figure.value(row), _tip(row.outcome)) for row in rows)
    return Curve(name=name, points=tuple(points))


def _tip(outcome: Outcome) -> str:
    assert outcome.plan is not None
    where, step = (
        f"{outcome.plan.world_size:,} devices, {short_split(outcome.plan)}",
        format_seconds(outcome.step_time_s),
    )
    return f"{where}: {step} a step, {format_count(outcome.tokens_per_s)} tokens/s"


def _size(row: OutcomeRow) -> int:
    return int(dict(row.labels)[DEVICES])
