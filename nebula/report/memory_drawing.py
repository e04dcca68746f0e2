"""Draws memory: each stage's peak as a bar against its limit, and how a device's memory goes up and down in a step."""

from __future__ import annotations

from collections.abc import Sequence

from nebula.cost_model.memory_timeline import MemoryTimeline
from nebula.cost_model.peak import HOLDERS, holder_bytes
from nebula.plan.values import StageMemory
from nebula.report.bars import LEFT, RIGHT, WIDTH, legend
from nebula.report.svg import byte_ticks, drawing, element, line, rect, seconds_tick, text, ticks
from nebula.report.words import named_stages, percent, ranges
from nebula.units import format_bytes, format_seconds

SPAN = WIDTH - LEFT - RIGHT
HOLDER_WORDS = {
    **{holder: holder for holder in HOLDERS},
    "buffers": "buffers of communication and copies",
    "fragmentation": "lost in the allocator",
    "context": "driver and libraries",
}
MOST_PANELS = 8
SLOTS = 150
"""Moments that are drawn of a step; of those in between the one with most is shown."""

HIGH_LIMIT = 0.6
"""A limit of which less is held lies above the panels, which are filled up to this share instead."""

PANEL_WIDTH, PANEL_HEIGHT = 560.0, 190.0
PANEL_LEFT, PANEL_TOP, PANEL_RIGHT, PANEL_BOTTOM = 66.0, 26.0, 14.0, 26.0


def _class(holder: str) -> str:
    return f"memory-{HOLDERS.index(holder)}"


def memory_pairs(memory: StageMemory) -> tuple[tuple[str, float], ...]:
    """The holders of a stage's memory and their bytes, those that hold nothing left out."""
    held = ((holder, holder_bytes(memory, holder)) for holder in HOLDERS)
    return tuple((holder, size) for holder, size in held if size)


def memory_bars(memory: Sequence[StageMemory]) -> str:
    """One stacked bar a stage for the device that holds most, its limit as a mark; thin bars for many stages."""
    height = 24.0 if len(memory) <= 8 else 14.0 if len(memory) <= 24 else 7.0
    pitch = height + (12 if height > 14 else 5 if height > 7 else 2)
    most = max(max(m.total_bytes, m.limit_bytes) for m in memory)
    scale = SPAN / most
    bottom = 30 + pitch * len(memory)
    out = _legend({holder for m in memory for holder, _ in memory_pairs(m)})
    for tick in byte_ticks(most):
        x = LEFT + tick * scale
        out += [line(x, 24, x, bottom, class_="grid"), text(x, bottom + 14, format_bytes(tick), class_="tick middle")]
    for stage, held in enumerate(memory):
        y = 30 + stage * pitch
        out += _bar(stage, held, y, height, scale)
        if height > 7 or stage % 5 == 0:
            words = f"{format_bytes(held.total_bytes)} · {percent(held.total_bytes / held.limit_bytes)}"
            out.append(text(LEFT - 10, y + height / 2 + 4, f"stage {stage}", class_="label end"))
            out.append(text(LEFT + SPAN + 10, y + height / 2 + 4, words, class_="label"))
    return drawing(WIDTH, bottom + 22, out, label="memory per stage against its limit")


def _legend(present: set[str]) -> list[str]:
    shown = [holder for holder in HOLDERS if holder in present]
    return legend([HOLDER_WORDS[holder] for holder in shown], [_class(holder) for holder in shown], 12)


def _bar(stage: int, memory: StageMemory, y: float, height: float, scale: float) -> list[str]:
    out, x = [], LEFT
    for holder, held in memory_pairs(memory):
        tip = f"stage {stage}: {HOLDER_WORDS[holder]} {format_bytes(held)}"
        out.append(rect(x, y, held * scale, height, title=tip, class_=_class(holder), data_stage=stage))
        x += held * scale
    limit = LEFT + memory.limit_bytes * scale
    out.append(line(limit, y - 2, limit, y + height + 2, class_="limit"))
    return out


def shown_timelines(timelines: Sequence[MemoryTimeline], most: int = MOST_PANELS) -> tuple[MemoryTimeline, ...]:
    """Those that are drawn: the fullest of all, and others at equal distances from first to last."""
    count = len(timelines)
    if count <= most:
        return tuple(timelines)
    fullest = max(range(count), key=lambda i: timelines[i].peak_bytes / timelines[i].limit_bytes)
    chosen = {round(i * (count - 1) / (most - 2)) for i in range(most - 1)} | {fullest}
    return tuple(timelines[i] for i in sorted(chosen))


def memory_panels(timelines: Sequence[MemoryTimeline]) -> tuple[str, ...]:
    """A small drawing for each of the shown devices, all on one scale."""
    shown = shown_timelines(timelines)
    high = _top(shown)
    return tuple(_panel(timeline, high) for timeline in shown)


def _top(shown: Sequence[MemoryTimeline]) -> float:
    """Bytes at the top of the panels: the limit, unless it is so high that nothing could be told apart below it."""
    most, limit = max(t.peak_bytes for t in shown), max(t.limit_bytes for t in shown)
    return max(most, limit) if most > HIGH_LIMIT * limit else most / HIGH_LIMIT


def _panel(timeline: MemoryTimeline, high: float) -> str:
    right, bottom = PANEL_WIDTH - PANEL_RIGHT, PANEL_HEIGHT - PANEL_BOTTOM
    scale = (right - PANEL_LEFT) / timeline.end_s, (bottom - PANEL_TOP) / high
    name = named_stages(timeline.stages)
    peak = f"{format_bytes(timeline.peak_bytes)} after {format_seconds(timeline.peak_s)}" if timeline.peak_s else "peak"
    out = [
        text(PANEL_LEFT, 14, name, class_="small strong"),
        text(right, 14, f"most: {peak}", class_="small end"),
        rect(PANEL_LEFT, PANEL_TOP, right - PANEL_LEFT, bottom - PANEL_TOP, class_="lane"),
        *_areas(timeline.fullest(SLOTS), scale, bottom),
        *_axes(timeline, high, scale, bottom),
    ]
    if timeline.limit_bytes <= high:
        limit = bottom - timeline.limit_bytes * scale[1]
        out.append(line(PANEL_LEFT, limit, right, limit, class_="limit"))
    return drawing(PANEL_WIDTH, PANEL_HEIGHT, out, label=f"memory of {name} over one step")


def _areas(timeline: MemoryTimeline, scale: tuple[float, float], bottom: float) -> list[str]:
    """The holders stacked; each covers the upper part of the one before it."""
    out: list[str] = []
    upto = 0.0 * timeline.starts_s
    for holder, held in timeline.held_bytes:
        upto = upto + held
        tops = [round(value, 1) for value in (bottom - upto * scale[1]).tolist()]
        low, high = (format_bytes(value) for value in (float(held.min()), float(held.max())))
        tip = f"{HOLDER_WORDS[holder]}: {high if low == high else f'{low} to {high}'}"
        path = _stairs(tops, scale[0] * timeline.end_s / len(tops), bottom)
        out.insert(0, element("path", d=path, class_=_class(holder), title=tip))
    return out


def _stairs(tops: Sequence[float], width: float, bottom: float) -> str:
    """The outline of equal steps of those heights above a base line."""
    words = [f"M{PANEL_LEFT:g} {bottom:g}"]
    before = bottom
    for index, top in enumerate(tops):
        if top != before:
            words.append(f"H{PANEL_LEFT + index * width:.1f}V{top:g}")
            before = top
    return "".join(words) + f"H{PANEL_LEFT + len(tops) * width:.1f}V{bottom:g}Z"


def _axes(timeline: MemoryTimeline, high: float, scale: tuple[float, float], bottom: float) -> list[str]:
    out = []
    for tick in byte_ticks(high)[:: 2 if len(byte_ticks(high)) > 5 else 1]:
        y = bottom - tick * scale[1]
        out += [line(PANEL_LEFT, y, PANEL_WIDTH - PANEL_RIGHT, y, class_="grid")]
        out += [text(PANEL_LEFT - 6, y + 4, format_bytes(tick), class_="tick end")]
    for tick in ticks(timeline.end_s, 5):
        out.append(text(PANEL_LEFT + tick * scale[0], bottom + 15, seconds_tick(tick), class_="tick middle"))
    return out


def panels_legend(timelines: Sequence[MemoryTimeline]) -> str:
    """The colours of the panels."""
    present = {holder for timeline in timelines for holder, _ in timeline.held_bytes}
    return drawing(WIDTH, 20.0, _legend(present), label="holders of memory by colour")


def panels_note(timelines: Sequence[MemoryTimeline]) -> str:
    """What the panels show, and of which stages."""
    shown = shown_timelines(timelines)
    note = (
        "From moment to moment of one step: weights and optimizer states all the time, gradients from the first "
        "backward to the update, activations from a forward to the end of its backward, the workspace while a "
        "backward runs. "
    )
    drawn = any(t.limit_bytes <= _top(shown) for t in shown) if shown else True
    note += "The red line is what the plan may fill" if drawn else "What the plan may fill lies above the panels"
    if len(shown) < len(timelines):
        note += f"; stages {ranges(stage for t in shown for stage in t.stages)} are drawn, the fullest among them"
    return note + "."
