"""Prints a plan for a terminal: split, stages with their devices and memory, the step by parts, reason, runner-up.

Fits 100 columns and says the same without colour; the bars are text.
"""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nebula.cost_model.economy import Outlook
from nebula.plan.values import Plan, Prediction
from nebula.report.bars import part_pairs
from nebula.report.findings import Findings, Search
from nebula.report.outlook_words import outlook_rows, provenance_words
from nebula.report.rows import StageRow, stage_rows
from nebula.report.words import CUT_WORDS, bound_words, engine_words, fits, percent, step_words, verdict
from nebula.units import format_bytes, format_seconds

BAR = 10
PART_BAR = 30
MEMORY_STYLES = ((0.92, "red"), (0.8, "yellow"), (0.0, "green"))


def plan_table(findings: Findings) -> RenderableType:
    """The plan as one block of text for a rich console."""
    plan = findings.plan
    head = Text.assemble(
        ("fits  ", "bold green") if fits(plan) else ("does not fit  ", "bold red"),
        (verdict(plan, virtual=findings.virtual, outlook=findings.outlook), "bold"),
    )
    parts: list[RenderableType] = [head, Text(), _facts(findings), Text(), _stages(findings)]
    if plan.prediction:
        parts += [_parts(plan.prediction), Text()]
    if findings.outlook:
        parts += [_outlook(findings.outlook, virtual=findings.virtual), Text()]
    parts.append(_reasons(plan, findings.search))
    return Group(*parts)


def bar(share: float, cells: int) -> str:
    """A share as a bar of text, full from 1 on.

    Example:
        >>> bar(0.5, 4)
        '██░░'
    """
    full = min(cells, max(round(share * cells), 1 if share > 0 else 0))
    return "█" * full + "░" * (cells - full)


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True, min_width=8)
    grid.add_column()
    return grid


def _facts(findings: Findings) -> RenderableType:
    plan, grid = findings.plan, _grid()
    grid.add_row("split", plan.split)
    if plan.prediction:
        grid.add_row("step", step_words(plan.prediction, virtual=findings.virtual))
        if plan.prediction.provenance:
            grid.add_row("inputs", provenance_words(plan.prediction))
    grid.add_row("engine", engine_words(findings))
    return grid


def _stages(findings: Findings) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), expand=False, show_edge=False)
    for heading in ("stage", "layers", "", "devices", "memory of the fullest device"):
        right = heading == ""
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading.startswith(("stage", "memory")))
    for row in stage_rows(findings.plan, findings.graph):
        table.add_row(row.name, row.layers, row.count_words, row.places, _memory(row))
    return Group(table, Text())


def _memory(row: StageRow) -> Text:
    if not row.limit_bytes:
        return Text("unknown")
    share = row.used_bytes[1] / row.limit_bytes
    style = next(style for least, style in MEMORY_STYLES if share >= least)
    words = f" {percent(share)} · {format_bytes(row.used_bytes[1])} of {format_bytes(row.limit_bytes)}"
    return Text.assemble((bar(share, BAR), style), words)


def _parts(prediction: Prediction) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(justify="right")
    grid.add_column(justify="right")
    grid.add_column(no_wrap=True)
    for words, seconds in part_pairs(prediction.parts):
        share = seconds / prediction.step_time_s
        if seconds:
            grid.add_row(words, format_seconds(seconds), percent(share), Text(bar(share, PART_BAR), "blue"))
    return Group(Text("where the time of a step goes", style="bold"), Padding(grid, (0, 0, 0, 2)))


def _outlook(outlook: Outlook, *, virtual: bool) -> RenderableType:
    grid = _grid()
    for row in outlook_rows(outlook, virtual=virtual):
        grid.add_row(row.name, Text.assemble(row.figures, ("\n" + row.basis if row.basis else "", "dim")))
    return grid


def _reasons(plan: Plan, search: Search) -> RenderableType:
    grid = _grid()
    if plan.because:
        grid.add_row("because", plan.because)
    if plan.runner_up:
        second = plan.runner_up
        grid.add_row("second", f"{second.split}: {format_seconds(second.step_time_s)}; loses by {second.lost_by}")
    if plan.bound_s and plan.prediction:
        grid.add_row("bound", bound_words(plan))
    if search.candidates:
        cut = ", ".join(f"{count:,} {CUT_WORDS.get(rule, rule)}" for rule, count in search.cut)
        words = f"{search.candidates:,} candidates in {format_seconds(search.seconds)}"
        grid.add_row("search", words + (f": {cut}" if cut else ""))
    for note in search.notes:
        grid.add_row("note", note)
    return grid


def print_plan(findings: Findings, console: Console) -> None:
    """Prints the table."""
    console.print(plan_table(findings))
