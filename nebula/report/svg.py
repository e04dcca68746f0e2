"""Writes inline SVG: one element, one text, one axis. Colours are CSS classes and variables, so that a page in the
dark or on paper restyles every drawing; positions and sizes are plain numbers in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

from nebula.units import format_seconds

STAGE_COLOURS = ("#4269d0", "#e0a100", "#3ca951", "#ff725c", "#9c6bd6", "#12a5b5", "#c86f9f", "#8a6d4f")


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def element(tag: str, *content: str, title: str = "", **attributes: str | float | None) -> str:
    """An element; `_` in an attribute's name means `-`, a trailing `_` is dropped, None leaves the attribute out.

    Args:
        content: finished markup.
        title: text of a tool tip.

    Example:
        >>> element("rect", x=1.5, width=3, class_="bar", title="a<b")
        '<rect x="1.5" width="3" class="bar"><title>a&lt;b</title></rect>'
    """
    pairs = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    tip = f"<title>{escape(title)}</title>" if title else ""
    inner = tip + "".join(content)
    return f"<{tag}{pairs}>{inner}</{tag}>" if inner else f"<{tag}{pairs}/>"


def rect(
    x: float, y: float, width: float | str, height: float | str, *, title: str = "", **attributes: str | float | None
) -> str:
    """A rectangle."""
    return element("rect", title=title, x=x, y=y, width=width, height=height, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, *, class_: str) -> str:
    """A straight line."""
    return element("line", class_=class_, x1=x1, y1=y1, x2=x2, y2=y2)


def text(x: float, y: float, words: str, *, title: str = "", **attributes: str | float | None) -> str:
    """A line of text with its base line at y."""
    return element("text", escape(words), title=title, x=x, y=y, **attributes)


def drawing(width: float, height: float, content: Iterable[str], *, label: str) -> str:
    """A whole picture that scales with the page.

    Args:
        label: what a screen reader says.
    """
    return element(
        "svg",
        *content,
        viewBox=f"0 0 {_number(float(width))} {_number(float(height))}",
        role="img",
        aria_label=label,
        class_="drawing",
    )


def _mix(low: str, high: str, share: float) -> str:
    channels = (round(int(low[i : i + 2], 16) * (1 - share) + int(high[i : i + 2], 16) * share) for i in range(1, 7, 2))
    return "#" + "".join(f"{c:02x}" for c in channels)


def stage_colour(stage: int, stages: int) -> str:
    """The colour of a stage: its own while there are few, else a place on a ramp from first to last.

    Example:
        >>> stage_colour(0, 2), stage_colour(0, 60), stage_colour(59, 60)
        ('#4269d0', '#3b4cc0', '#e8590c')
    """
    if stages <= len(STAGE_COLOURS):
        return STAGE_COLOURS[stage]
    ramp = ("#3b4cc0", "#12a5b5", "#5fb64b", "#e0b400", "#e8590c")
    place = stage / (stages - 1) * (len(ramp) - 1)
    low = min(int(place), len(ramp) - 2)
    return _mix(ramp[low], ramp[low + 1], place - low)


def ticks(high: float, count: int = 6, *, low: float = 0.0) -> tuple[float, ...]:
    """Round values from `low` to `high`, about `count` of them.

    Example:
        >>> ticks(0.97), ticks(7.5, 3, low=3.4)
        ((0.0, 0.2, 0.4, 0.6, 0.8), (4.0, 6.0))
    """
    if high <= low:
        return (low,)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999) * power
    first, last = math.ceil(low / step * 0.9999), math.floor(high / step * 1.0001)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


def byte_ticks(high: float) -> tuple[float, ...]:
    """Round sizes in binary units from 0 up to `high` bytes.

    Example:
        >>> byte_ticks(3000)
        (0.0, 512.0, 1024.0, 1536.0, 2048.0, 2560.0)
    """
    unit = 1024.0 ** math.floor(math.log2(max(high, 1)) / 10)
    if high / unit < 8:
        unit /= 1024
        step = 2.0 ** math.ceil(math.log2(high / unit / 6)) if high / unit > 6 else 1.0
        return tuple(i * step * unit for i in range(int(high / unit / step) + 1))
    return tuple(t * unit for t in ticks(high / unit))


def seconds_tick(value: float) -> str:
    """The label of a mark on a time axis: nought has no unit."""
    return format_seconds(value) if value else "0"
