"""Draws one step as lanes over time: what each stage computes when, predicted and, when a run is at hand, measured.

Spans too short to be seen are joined into one hatched block, so sixty stages with hundreds of micro-batches stay
a small drawing.
"""

from __future__ import annotations

from collections.abc import Sequence

from nebula.report.bars import LEFT, WIDTH, legend
from nebula.report.spans import WORDS, Block, Span, end_s, merged
from nebula.report.svg import drawing, line, rect, seconds_tick, text, ticks
from nebula.units import format_seconds

SPAN = WIDTH - LEFT - 20
LEAST_PX = 2.5
MOST_BLOCKS = 3000
CLASSES = {"F": "forward", "B": "backward", "I": "backward", "W": "weights", "update": "update"}
LEGEND = {
    "forward": "forward",
    "backward": "backward",
    "weights": "backward of the weights",
    "communication": "communication",
    "update": "update",
    "other": "other",
}
"""Words of the classes that are shown."""


def _height(lanes: int) -> float:
    return 26.0 if lanes <= 10 else 16.0 if lanes <= 20 else 9.0 if lanes <= 40 else 6.0


def _class(span: Span) -> str:
    return "communication" if span.thread == "communication" else CLASSES.get(span.kind, "other")


def _block(block: Block, y: float, height: float, scale: float) -> list[str]:
    x, width = LEFT + block.start_s * scale, (block.end_s - block.start_s) * scale
    span = block.first
    interval = f"{format_seconds(block.start_s)} to {format_seconds(block.end_s)}"
    if block.spans > 1:
        words = " and ".join(sorted(WORDS.get(k, k) for k in block.kinds))
        class_ = "steady" if len(block.kinds) > 1 and span.thread == "compute" else _class(span)
        return [rect(x, y, width, height, class_=class_, title=f"{block.spans} × {words}: {interval}")]
    class_ = _class(span)
    room = max(width - 1, 0.6) if width > 3 else max(width, 0.6)
    out = [rect(x, y, room, height, rx=2 if width > 8 else None, class_=class_, title=f"{span.words}: {interval}")]
    if height >= 14 and width >= 8 + 7 * len(str(span.micro_batch)) and span.micro_batch >= 0:
        out.append(text(x + width / 2, y + height / 2 + 4, str(span.micro_batch), class_=f"on-{class_} middle"))
    return out


def _lane(spans: Sequence[Span], name: str, y: float, height: float, scale: float, least_s: float) -> list[str]:
    out = [rect(LEFT, y, SPAN, height, class_="lane")]
    if name:
        out.append(text(LEFT - 10, y + height / 2 + 4, name, class_="label end"))
    for thread, place, share in (("compute", 0.0, 1.0), ("communication", 0.65, 0.35)):
        ordered = sorted((s for s in spans if s.thread == thread), key=lambda s: s.start_s)
        for block in merged(ordered, least_s):
            # messages too short to be seen one by one would look like one long message
            if thread == "compute" or block.spans == 1:
                out += _block(block, y + place * height, share * height, scale)
    return out


def _axis(high_s: float, scale: float, top: float, bottom: float) -> list[str]:
    out = []
    for tick in ticks(high_s, 8):
        x = LEFT + tick * scale
        out += [line(x, top, x, bottom, class_="grid"), text(x, bottom + 15, seconds_tick(tick), class_="tick middle")]
    return out


def _legend(spans: Sequence[Span], rows: Sequence[str]) -> list[str]:
    present = {_class(s) for s in spans}
    classes = [c for c in LEGEND if c in present]
    steady = [("forward and backward in turn", "steady")] if any('class="steady"' in row for row in rows) else []
    entries = [*((LEGEND[c], c) for c in classes), *steady, ("idle", "lane")]
    return legend([words for words, _ in entries], [class_ for _, class_ in entries], 12)


def timeline_drawing(
    predicted: Sequence[Span], measured: Sequence[Span], stage_names: Sequence[str], rank_names: dict[int, str]
) -> str:
    """The step as lanes, the measurement under the prediction on one scale.

    Args:
        predicted: lane = device of the pipeline.
        measured: lane = rank; empty for a dry run.
        stage_names: of the predicted lanes.
        rank_names: the measured lanes to draw with their names, in order.
    """
    measured = [s for s in measured if s.lane in rank_names]
    stages = {lane: stage_names[lane] for lane in sorted({s.lane for s in predicted})}
    high_s = max(end_s(predicted), end_s(measured))
    scale = SPAN / high_s
    count = len(stages) + (len(rank_names) if measured else 0)
    height, least_s = _height(count), max(LEAST_PX, SPAN * count / MOST_BLOCKS) / scale
    rows: list[str] = []
    y = top = 28.0
    for heading, spans, lanes in (("predicted", predicted, stages), ("measured", measured, rank_names)):
        if measured:
            rows.append(text(LEFT, y + 14, heading, class_="small strong"))
        y += 20 if spans and measured else 0
        for index, (lane, name) in enumerate(lanes.items() if spans else ()):
            named = name if height > 9 or index % 5 == 0 else ""
            rows += _lane([s for s in spans if s.lane == lane], named, y, height, scale, least_s)
            y += height + (5 if height > 9 else 1)
    parts = [*_legend([*predicted, *measured], rows), *_axis(high_s, scale, top, y), *rows]
    return drawing(WIDTH, y + 24, parts, label="timeline of one step")
