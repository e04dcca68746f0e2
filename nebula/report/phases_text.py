"""The plans of a training in phases, for a terminal and for machines: plans, switches, and what those save."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nebula.cost_model.economy import DAY_S
from nebula.plan.files import dumps
from nebula.planner.legs import Leg, Phased, total_s
from nebula.planner.options import step_s
from nebula.report.document import prediction_document
from nebula.report.replan_text import moves_document
from nebula.report.words import percent
from nebula.units import format_count, format_seconds


def phased_document(found: Phased) -> dict[str, Any]:
    """What `nebula plan --json` prints for a job with phases; what never ends is None."""
    return {
        "phases": [_leg_document(leg) for leg in found.legs],
        "days": _days(found.legs),
        "because": found.because,
        "one_plan": {"split": _splits(found.one_plan)[0], "days": _days(found.one_plan)} if found.one_plan else None,
        "each_best": {
            "splits": _splits(found.each_best),
            "days": _days(found.each_best),
            "switching_s": sum(leg.switch.seconds for leg in found.each_best),
        },
        "bound": {"days": found.least_s / DAY_S, "gap_pct": found.gap * 100},
        "search": {"seconds": found.seconds, "interrupted": list(found.interrupted)},
    }


def _leg_document(leg: Leg) -> dict[str, Any]:
    plan, switch = leg.plan, leg.switch
    assert plan.prediction is not None
    moves = moves_document(switch.moves)
    for level in moves["levels"]:
        del level["by_rank_bytes"]
    return {
        "global_batch": leg.phase.global_batch,
        "seq_len": leg.phase.seq_len,
        "row_tokens": leg.row_tokens,
        "tokens": leg.phase.tokens,
        "steps": leg.steps,
        "hours": _finite(leg.seconds / 3600.0),
        "switch": {
            "seconds": switch.seconds,
            "restart_s": switch.restart_s,
            "moves": moves,
            "because": switch.because,
        },
        "plan": json.loads(dumps(plan)),
        "prediction": prediction_document(plan.prediction, leg.outlook),
    }


def _splits(legs: Sequence[Leg]) -> list[str]:
    return [leg.plan.split for leg in legs]


def _days(legs: Sequence[Leg]) -> float | None:
    return _finite(total_s(legs) / DAY_S)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def phased_text(found: Phased) -> RenderableType:
    """Each phase's plan in a row, then what they come to beside one plan for all."""
    parts: list[RenderableType] = [_legs(found.legs), Text(), _totals(found)]
    return Group(*parts)


def _legs(legs: Sequence[Leg]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for heading in ("phase", "batch", "row", "tokens", "plan", "step", "takes", "switch"):
        right = heading not in ("phase", "plan")
        table.add_column(heading, justify="right" if right else "left", no_wrap=right)
    for number, leg in enumerate(legs, 1):
        table.add_row(
            str(number),
            f"{leg.phase.global_batch:,}",
            f"{leg.row_tokens:,}",
            format_count(leg.phase.tokens),
            leg.plan.split if number == 1 or leg.switch.because else f"as before: {leg.plan.split}",
            format_seconds(step_s(leg.plan)),
            format_seconds(leg.seconds),
            format_seconds(leg.switch.seconds) if leg.switch.because else "",
        )
    return table


def _totals(found: Phased) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column()
    taken_s = total_s(found.legs)
    grid.add_row("in all", f"{format_seconds(taken_s)}, failures counted and switches included")
    if found.one_plan:
        more = total_s(found.one_plan) / taken_s - 1.0
        words = f"{format_seconds(total_s(found.one_plan))} ({percent(more)} more): {found.one_plan[0].plan.split}"
        grid.add_row("one plan", words if way_differs(found) else "is the one above")
    switching_s = sum(leg.switch.seconds for leg in found.each_best)
    grid.add_row(
        "each best", f"{format_seconds(total_s(found.each_best))}, {format_seconds(switching_s)} of it to switch"
    )
    grid.add_row("because", found.because)
    for leg in found.legs:
        if leg.switch.because:
            grid.add_row("switch", leg.switch.because)
    grid.add_row("bound", f"no plans train it in less than {format_seconds(found.least_s)}; gap {percent(found.gap)}")
    for number in found.interrupted:
        grid.add_row("note", f"The search for phase {number} was interrupted: this is the best so far.")
    return grid


def way_differs(found: Phased) -> bool:
    """Whether anything is switched."""
    return any(leg.switch.because for leg in found.legs)
