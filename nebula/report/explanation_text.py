"""Prints why a plan is that one, or why another one is not: the sentences of the planner, set out for a terminal.

Fits 80 columns and says the same without colour.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nebula.plan.values import Plan
from nebula.planner.alternatives import Alternative, Explanation
from nebula.planner.rejected import Rejection
from nebula.planner.why_not import WhyNot
from nebula.report.words import fits, verdict
from nebula.units import format_seconds

OUTCOMES = {
    "chosen": ("is the plan", "bold green"),
    "contradiction": ("impossible", "bold red"),
    "refused": ("refused", "bold red"),
    "memory": ("does not fit", "bold red"),
    "slower": ("slower", "bold yellow"),
    "equal": ("as fast", "bold green"),
    "faster": ("faster", "bold green"),
}
"""Outcomes of an alternative for people, with their style."""


def explanation_text(found: Explanation, *, virtual: bool) -> RenderableType:
    """The explanation as one block of text for a rich console.

    Args:
        virtual: whether times are those of emulated devices.
    """
    parts: list[RenderableType] = [_head(found.plan, virtual=virtual), Text(), _reasons(found)]
    if found.alternatives:
        parts += [Text(), Text("what came near it", style="bold"), _indented(map(_alternative, found.alternatives))]
    if found.rejections:
        parts += [Text(), Text("what was left out", style="bold"), _indented(map(_rejection, found.rejections))]
    return Group(*parts)


def why_not_text(found: WhyNot) -> RenderableType:
    """Why an alternative is not the plan, as one block of text."""
    words, style = OUTCOMES[found.outcome]
    grid = _grid()
    for fact in found.facts:
        grid.add_row("also", fact)
    for remedy in found.remedies:
        grid.add_row("change", remedy)
    head = Text.assemble((f"{words}  ", style), (found.sentence, "bold"))
    return Group(head, Text(), grid) if found.facts or found.remedies else head


def _head(plan: Plan, *, virtual: bool) -> Text:
    fit = ("fits  ", "bold green") if fits(plan) else ("does not fit  ", "bold red")
    return Text.assemble(fit, (verdict(plan, virtual=virtual), "bold"))


def _reasons(found: Explanation) -> RenderableType:
    plan, grid = found.plan, _grid()
    grid.add_row("split", plan.split)
    grid.add_row("because", found.because or "The plan file gives no reason.")
    if plan.runner_up:
        second = plan.runner_up
        grid.add_row("second", f"{second.split}: {format_seconds(second.step_time_s)}; loses by {second.lost_by}")
    for sentence in found.better:
        grid.add_row("better", sentence)
    grid.add_row("bound", found.bound)
    for note in found.notes:
        grid.add_row("note", note)
    return grid


def _alternative(each: Alternative) -> Text:
    return Text.assemble((each.plan.split, "cyan"), f"\n{each.sentence}")


def _rejection(each: Rejection) -> Text:
    text = Text.assemble((f"{each.amount}: ", "cyan"), each.meaning)
    for fact in each.facts:
        text.append(f"\n{fact}")
    for remedy in each.remedies:
        text.append(f"\nchange: {remedy}", style="green")
    return text


def _indented(rows: Iterable[Text]) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for row in rows:
        grid.add_row("·", row)
    return Padding(grid, (0, 0, 0, 2))


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True, min_width=8)
    grid.add_column()
    return grid
