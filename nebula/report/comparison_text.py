"""Prints two plans side by side for a terminal: figures in two columns, what differs, which is better and why.

Fits 80 columns and says the same without colour; figures that are not known say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nebula.cost_model.economy import Outlook
from nebula.plan.values import Plan, Prediction
from nebula.planner.compare import NEITHER, Comparison
from nebula.report.bars import PART_WORDS, part_pairs
from nebula.report.outlook_words import amount, days_words
from nebula.report.words import percent
from nebula.units import format_bytes, format_count, format_energy, format_seconds

UNKNOWN, NONE = "not known", "none"

PARTS = tuple(f"  {words}" for words in PART_WORDS.values())
EMULATED = "emulated"
"""Where an input of a prediction comes from an emulated device, its times are virtual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of two plans.

    Attributes:
        name: what it is called: its file.
        outlook: days, money and energy; None where no run tells its cluster and its conditions.
    """

    name: str
    plan: Plan
    outlook: Outlook | None = None


def comparison_text(found: Comparison, sides: tuple[Side, Side]) -> RenderableType:
    """The comparison as one block of text for a rich console."""
    style = "bold yellow" if found.judgement.better == NEITHER else "bold green"
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True, min_width=8)
    grid.add_column()
    for note in found.notes:
        grid.add_row("note", note)
    parts: list[RenderableType] = [Text(found.judgement.verdict, style=style), Text(), _figures(sides), Text()]
    parts.append(_differences(found, sides) if found.differences else Text("Both decide the same.", style="bold"))
    return Group(*parts, Text(), grid) if found.notes else Group(*parts)


def _figures(sides: tuple[Side, Side]) -> RenderableType:
    table = _table(sides)
    first, second = (dict(_rows(side)) for side in sides)
    for name, figure in first.items():
        if {figure, second[name]} - {UNKNOWN, NONE}:
            table.add_row(name, figure, second[name])
    return table


def _differences(found: Comparison, sides: tuple[Side, Side]) -> RenderableType:
    table = _table(sides)
    for difference in found.differences:
        table.add_row(difference.subject, difference.first, difference.second)
    return Group(Text("what they decide differently", style="bold"), table)


def _table(sides: tuple[Side, Side]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), expand=False, show_edge=False)
    table.add_column("", style="cyan", max_width=24)
    for side in sides:
        table.add_column(side.name, ratio=1, overflow="fold")
    return table


def _rows(side: Side) -> Iterator[tuple[str, str]]:
    """Names and figures, the same names for every plan."""
    plan, made = side.plan, side.plan.made_from
    yield "model, cluster", f"{made.model or UNKNOWN} on {made.cluster or UNKNOWN}"
    yield "split", plan.split
    yield "devices", f"{plan.world_size:,}"
    yield from _predicted(plan.prediction)
    yield from _ahead(side.outlook)


def _predicted(prediction: Prediction | None) -> Iterator[tuple[str, str]]:
    if prediction is None:
        yield from ((name, UNKNOWN) for name in ("step", "tokens/s", "MFU", *PARTS, "fullest device"))
        return
    low, high = (format_seconds(s) for s in prediction.interval_s)
    clock = " virtual" if EMULATED in dict(prediction.provenance).values() else ""
    yield "step", f"{format_seconds(prediction.step_time_s)}{clock} ({low} to {high})"
    yield "tokens/s", format_count(prediction.tokens_per_s)
    yield "MFU", percent(prediction.mfu)
    for words, seconds in part_pairs(prediction.parts):
        share = percent(seconds / prediction.step_time_s)
        yield f"  {words}", f"{format_seconds(seconds)} · {share}" if seconds else NONE
    yield "fullest device", _fullest(prediction)


def _fullest(prediction: Prediction) -> str:
    """What the device holds that is nearest to its limit, and of which stage it is."""
    shares = [(m.total_bytes / m.limit_bytes, stage) for stage, m in enumerate(prediction.memory) if m.limit_bytes]
    if not shares:
        return UNKNOWN
    share, stage = max(shares)
    held = prediction.memory[stage]
    return f"{format_bytes(held.total_bytes)} of {format_bytes(held.limit_bytes)} ({percent(share)}), stage {stage}"


def _ahead(outlook: Outlook | None) -> Iterator[tuple[str, str]]:
    """Days, money and energy; what is not known says so."""
    days, money, energy = UNKNOWN, UNKNOWN, UNKNOWN
    if outlook and outlook.days.tokens:
        days = days_words(outlook.days.with_failures)
    if outlook and not outlook.money.unknown:
        money = f"{amount(outlook.money.per_hour)} an hour, {amount(outlook.money.per_million_tokens)} a million tokens"
    if outlook and not outlook.energy.unknown:
        energy = f"{format_energy(outlook.energy.per_million_tokens_j)} a million tokens"
    yield from (("days", days), ("money", money), ("energy", energy))
