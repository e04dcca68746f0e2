"""Rows of a sweep or a scaling curve as people read them: the cells that the terminal and the page print alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from textwrap import shorten
from typing import Any, NamedTuple

from nebula.cost_model.economy import Outlook
from nebula.plan.values import Plan
from nebula.planner.outcome import Outcome
from nebula.planner.scaling import ScalingPoint
from nebula.report.outlook_words import amount
from nebula.report.words import percent
from nebula.units import format_count, format_seconds

MOST_LETTERS = 64
"""Of a reason in a table, where the whole of it stands below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """One row.

    Attributes:
        labels: what was asked here: pairs of a key and its value, as written.
        efficiency: against the smallest size of a curve; None in a sweep.
    """

    labels: tuple[tuple[str, str], ...]
    outcome: Outcome
    efficiency: float | None = None


class Column(NamedTuple):
    """A column of the table: its heading, whether it holds numbers, and its cell in every row."""

    heading: str
    number: bool
    cells: tuple[str, ...]


def scaling_rows(points: Sequence[ScalingPoint]) -> tuple[OutcomeRow, ...]:
    """The points of a curve as rows."""
    return tuple(
        OutcomeRow(
            labels=(("devices", str(point.devices)), ("job.global_batch", str(point.global_batch or "–"))),
            outcome=point.outcome,
            efficiency=point.efficiency,
        )
        for point in points
    )


def varied(rows: Sequence[OutcomeRow]) -> tuple[str, ...]:
    """The keys that have more than one value, or all when none has."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for key, value in row.labels:
            values.setdefault(key, set()).add(value)
    return tuple(key for key, found in values.items() if len(found) > 1) or tuple(values)


def columns(rows: Sequence[OutcomeRow]) -> tuple[Column, ...]:
    """The columns that have something to say: days need a token budget, money needs prices."""
    keys = [key for key in varied(rows) if key != "devices"]
    found = [Column("devices", True, tuple(_devices(row) for row in rows))]
    found += [Column(short_key(key), True, tuple(dict(row.labels).get(key, "") for row in rows)) for key in keys]
    for heading, cell in FIGURES:
        cells = tuple(cell(row) if row.outcome.plan else "" for row in rows)
        if any(cells):
            found.append(Column(heading, True, cells))
    return (*found, Column("plan", False, tuple(_split(row.outcome) for row in rows)))


def short_key(key: str) -> str:
    """A key without the section that it is in, for a heading; indices keep what they count.

    Example:
        >>> short_key("job.global_batch"), short_key("cluster.nodes.0.count"), short_key("objective.fixed.tensor")
        ('global_batch', 'nodes.0.count', 'tensor')
    """
    parts = key.split(".")
    if parts[:2] == ["objective", "fixed"]:
        return parts[-1]
    return ".".join(parts[1:]) or key


def short_split(plan: Plan) -> str:
    """The degrees of a plan that are not 1, and what else decides its memory.

    Example: `data 4 · tensor 8 · pipeline 60 · sharding 1 · recompute full`.
    """
    first = plan.stages[0]
    degrees = {"data": first.data, "tensor": first.tensor, "context": first.context, "expert": first.expert}
    degrees |= {"pipeline": len(plan.stages), "sharding": first.sharding.stage}
    parts = [f"{name} {degree}" for name, degree in degrees.items() if degree > (name != "sharding")]
    if first.recompute != "none":
        parts.append(f"recompute {first.recompute_words}")
    if first.offload != "none":
        parts.append(f"offload {first.offload}")
    return " · ".join(parts) or "one device"


def row_document(row: OutcomeRow) -> dict[str, Any]:
    """A row for machines; what is not known or not asked is None."""
    found, plan = row.outcome, row.outcome.plan
    document: dict[str, Any] = {
        "values": dict(row.labels),
        "feasible": plan is not None,
        "reason": found.reason or None,
    }
    document["devices"] = found.devices or None
    if row.efficiency is not None:
        document["efficiency"] = row.efficiency or None
    if plan is None or plan.prediction is None or found.outlook is None:
        return document
    prediction, money = plan.prediction, found.outlook.money
    return document | {
        "devices_used": plan.world_size,
        "split": plan.split,
        "step_time_s": prediction.step_time_s,
        "interval_s": list(prediction.interval_s),
        "tokens_per_s": prediction.tokens_per_s,
        "tokens_per_s_per_device": found.tokens_per_s_per_device,
        "mfu": prediction.mfu,
        "parts_s": {name.removesuffix("_s"): seconds for name, seconds in asdict(prediction.parts).items()},
        "days": _finite(found.outlook.days.with_failures),
        "cost": _finite(money.budget),
        "cost_per_million_tokens": _finite(money.per_million_tokens),
    }


def _devices(row: OutcomeRow) -> str:
    """How many were offered, and how many of them a plan uses when not all."""
    offered, plan = row.outcome.devices, row.outcome.plan
    if not offered:
        return dict(row.labels).get("devices", "–")
    return f"{plan.world_size:,} of {offered:,}" if plan and plan.world_size < offered else f"{offered:,}"


def _split(outcome: Outcome) -> str:
    return short_split(outcome.plan) if outcome.plan else brief(outcome.reason)


def brief(reason: str) -> str:
    """Why there is no plan, in few words: the first clause, without the place of a mistake.

    Example:
        >>> brief("command line: job.global_batch must be at least 1, not 0; write more")
        'job.global_batch must be at least 1, not 0'
    """
    place, colon, rest = reason.partition(": ")
    named = colon and (place == "command line" or place.startswith("override ") or place.rpartition(":")[2].isdigit())
    clause = (rest if named else reason).partition("; ")[0].partition(": even ")[0]
    return shorten(clause, MOST_LETTERS, placeholder=" …")


def _mfu(row: OutcomeRow) -> str:
    plan = row.outcome.plan
    return percent(plan.prediction.mfu) if plan and plan.prediction else ""


def _efficiency(row: OutcomeRow) -> str:
    return f"{100 * row.efficiency:.1f} %" if row.efficiency else ""


def _days(row: OutcomeRow) -> str:
    days = row.outcome.outlook.days.with_failures if row.outcome.outlook else 0.0
    return ("no end" if math.isinf(days) else f"{days:,.1f}") if days else ""


def _cost(row: OutcomeRow) -> str:
    return _price(row.outcome.outlook) if row.outcome.outlook else ""


def _price(outlook: Outlook) -> str:
    """Of the token budget, else of a million tokens; nothing where no price is known."""
    money = outlook.money
    if money.budget:
        return amount(money.budget)
    return f"{amount(money.per_million_tokens)}/M tokens" if money.per_million_tokens else ""


FIGURES: tuple[tuple[str, Callable[[OutcomeRow], str]], ...] = (
    ("step", lambda row: format_seconds(row.outcome.step_time_s)),
    ("tokens/s", lambda row: format_count(row.outcome.tokens_per_s)),
    ("a device", lambda row: format_count(row.outcome.tokens_per_s_per_device)),
    ("efficiency", _efficiency),
    ("MFU", _mfu),
    ("days", _days),
    ("cost", _cost),
)
"""The figures of a row that has a plan; a column without a figure is left out."""


def _finite(value: float) -> float | None:
    return value if value and math.isfinite(value) else None
