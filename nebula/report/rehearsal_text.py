"""A rehearsal as text for a terminal, and as a document for machines."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nebula.rehearsal.verdict import LOSS_TOLERANCE, NOT, PROVES, Rehearsal, StageRow
from nebula.units import format_bytes, format_seconds


def rehearsal_text(found: Rehearsal) -> RenderableType:
    """The verdict, the rows by stage, what it proves and what it does not."""
    return Group(
        Text(found.plan.split, style="bold"),
        _facts(found),
        _stages(found),
        _list("shows", PROVES),
        _list("does not show", (*NOT, *found.left_out)),
    )


def rehearsal_document(found: Rehearsal) -> dict[str, Any]:
    """All figures."""
    return {
        "holds": found.holds,
        "split": found.plan.split,
        "loss_difference": found.loss_difference,
        "loss_tolerance": LOSS_TOLERANCE,
        "whole_plan_ranks": found.whole_ranks,
        "whole_plan_waits": found.whole_waits,
        "whole_plan_memory_share": found.whole_memory,
        "predicted_s": found.predicted_s,
        "measured_s": found.measured_s,
        "measured_on_shared_links_s": found.shared_s,
        "error_pct": 100.0 * found.error,
        "clock": "virtual",
        "stages": [asdict(row) for row in found.rows],
        "shows": list(PROVES),
        "does_not_show": [*NOT, *found.left_out],
    }


def _facts(found: Rehearsal) -> Table:
    table = Table.grid(padding=(0, 2))
    same = "as" if found.loss_difference <= LOSS_TOLERANCE else "NOT as"
    fits = "fits" if found.whole_memory <= 1.0 else "does NOT fit"
    for name, words in (
        ("deadlock", _ends(found)),
        ("loss", f"{same} one serial process: largest difference {found.loss_difference:.1e}, relative"),
        ("memory", f"the whole plan {fits}: {found.whole_memory:.0%} of what its fullest device may hold (predicted)"),
        (
            "step",
            f"predicted {format_seconds(found.predicted_s)}, measured {format_seconds(found.measured_s)} "
            f"(virtual, at reduced width): {found.error:+.1%}",
        ),
        (
            "links",
            f"each at its even share; where only those share a link that send at the time, the step takes "
            f"{format_seconds(found.shared_s)}",
        ),
    ):
        table.add_row(name, words)
    return table


def _ends(found: Rehearsal) -> str:
    """Whether ranks come to the end of a step: those that ran, and all of the whole plan."""
    if found.whole_waits:
        return f"{found.plan.world_size} ranks ran to the end; of the whole plan {found.whole_waits}"
    if found.whole_ranks == found.plan.world_size:
        return "none: every rank ran to the end"
    return (
        f"none: {found.plan.world_size} ranks ran to the end; the messages of all {found.whole_ranks:,} were walked, "
        "and none waits for ever"
    )


def _stages(found: Rehearsal) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2))
    for name in ("stage", "layers", "memory predicted", "measured", "", "waits, predicted", "measured"):
        table.add_column(name, justify="left" if name in ("stage", "layers") else "right")
    for row in found.rows:
        table.add_row(*_cells(found, row))
    return table


def _cells(found: Rehearsal, row: StageRow) -> list[str]:
    spans = [found.plan.stages[index].layers for index in row.stages]
    return [
        ", ".join(map(str, row.stages)),
        ", ".join(f"{first}–{last - 1}" if last - first > 1 else str(first) for first, last in spans),
        format_bytes(row.predicted_bytes),
        format_bytes(row.measured_bytes),
        f"{row.predicted_bytes / row.measured_bytes - 1.0:+.0%}",
        f"{row.predicted_wait:.0%}",
        f"{row.measured_wait:.0%}",
    ]


def _list(title: str, sentences: tuple[str, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    for index, sentence in enumerate(sentences):
        table.add_row(title if index == 0 else "", sentence)
    return table
