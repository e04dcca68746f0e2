"""Prints the rows of a sweep or a scaling curve, and the rows of a what-if, for a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nebula.planner.sensitivity import WhatIf
from nebula.report.outcome_rows import OutcomeRow, columns
from nebula.units import format_seconds


def outcome_table(rows: Sequence[OutcomeRow], title: str, note: str) -> RenderableType:
    """The rows under a title; what has no plan says why in full below."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False)
    shown = columns(rows)
    for column in shown:
        table.add_column(column.heading, justify="right" if column.number else "left", no_wrap=column.number)
    for index, row in enumerate(rows):
        cells = (column.cells[index] for column in shown)
        table.add_row(*cells, style=None if row.outcome.plan else "dim")
    parts: list[RenderableType] = [Text(title, style="bold"), Text(), table, Text()]
    reasons = dict.fromkeys(row.outcome.reason for row in rows if row.outcome.reason)
    parts += [Text(f"why not: {reason}") for reason in reasons]
    return Group(*parts, Text(note, style="dim"))


def what_if_table(rows: Sequence[WhatIf], split: str, step_time_s: float) -> RenderableType:
    """The rows of a plan with their changes and sentences."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("what if", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("in words")
    for row in rows:
        table.add_row(row.name, *figures(row), row.sentence)
    return Group(Text(f"{split}: a step takes {format_seconds(step_time_s)}", style="bold"), Text(), table)


def figures(row: WhatIf) -> tuple[str, str]:
    """Step time and change of a what-if, for a table."""
    if not row.step_time_s:
        return "no plan", "–"
    change = f"{100 * row.change:+.1f} %".replace("-", "−")
    return format_seconds(row.step_time_s), "0 %" if change in ("+0.0 %", "−0.0 %") else change
