"""Draws one predicted step as text: a line a stage, `F`, `B` and `W` where it computes, `s` where it communicates."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from nebula.report.findings import Findings
from nebula.report.spans import Span, end_s
from nebula.report.words import step_words, verdict
from nebula.units import format_seconds

COLUMNS = 84
MOST_STAGES = 64
SIGNS = {"F": "F", "B": "B", "I": "B", "W": "W", "update": "u"}
STYLES = {"F": "blue", "B": "yellow", "W": "cyan", "u": "green", "s": "magenta"}


def timeline_text(findings: Findings) -> RenderableType:
    """The step as one block of text for a rich console; long pipelines show every n-th stage."""
    plan, spans = findings.plan, findings.spans
    lines = [Text(verdict(plan, virtual=findings.virtual, outlook=findings.outlook), style="bold")]
    if plan.prediction:
        lines.append(Text(step_words(plan.prediction, virtual=findings.virtual)))
    lines.append(Text())
    every = -(-len(plan.stages) // MOST_STAGES)
    for stage in range(0, len(plan.stages), every):
        lane = [s for s in spans if s.lane == stage]
        lines.append(Text(f"stage {stage:<4} ") + _coloured(lane_text(lane, end_s(spans))))
    end = format_seconds(end_s(spans))
    lines.append(Text(" " * 11 + "0" + end.rjust(COLUMNS - 1)))
    weights = "W backward of the weights · " if any(span.kind == "W" for span in spans) else ""
    lines.append(Text(f"F forward · B backward · {weights}s communication · u update · dots: idle", style="dim"))
    return Group(*lines)


def lane_text(spans: Sequence[Span], last_s: float, columns: int = COLUMNS) -> str:
    """A lane in characters: in each column what takes most of its time.

    Example:
        >>> lane_text([Span(0, "compute", "F", 0, 0.0, 1.0), Span(0, "compute", "B", 0, 2.0, 4.0)], 4.0, 4)
        'F·BB'
    """
    width_s = last_s / columns
    shares: list[dict[str, float]] = [{} for _ in range(columns)]
    for span in spans:
        sign = "s" if span.thread == "communication" else SIGNS.get(span.kind, "?")
        first, last = int(span.start_s / width_s), min(int(span.end_s / width_s), columns - 1)
        for column in range(first, last + 1):
            overlap = min(span.end_s, (column + 1) * width_s) - max(span.start_s, column * width_s)
            shares[column][sign] = shares[column].get(sign, 0.0) + max(overlap, 0.0)
    return "".join(_sign(share, width_s) for share in shares)


def _sign(share: dict[str, float], width_s: float) -> str:
    """The sign of a column: idle where nothing fills half of it."""
    busiest = max(share, key=lambda sign: share[sign], default="")
    return busiest if busiest and sum(share.values()) >= width_s / 2 else "·"


def _coloured(line: str) -> Text:
    text = Text()
    for sign in line:
        text.append(sign, STYLES.get(sign, "dim"))
    return text
