"""The verb validate: how far predictions are from the measured runs of a file, worst first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nebula.cli.options import Json

if TYPE_CHECKING:
    from rich.console import Console

    from nebula.cost_model.runs.score import Errors, Scored, Validation


def validate(
    runs: Annotated[Path, typer.Argument(metavar="RUNS.YAML", help="Measured runs: a list of rows.")],
    worst: Annotated[
        Optional[int],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
        typer.Option("--worst", min=0, metavar="N", help="Show the N worst rows instead of all."),
    ] = None,
    json: Json = False,
) -> None:
    """Predict every measured run of a file and print how far off that is."""
    from nebula.cli.console import print_json, results
    from nebula.cost_model.runs.schema import load_rows
    from nebula.cost_model.runs.score import validate as score
    from nebula.models.decoders_measured import described_run

    validation = score(load_rows(runs), described_run)
    if json:
        print_json(validation.document)
    else:
        _show(results(), validation, worst)


def _show(console: Console, validation: Validation, worst: int | None) -> None:
    """Rows worst first, what could not be predicted, and the errors by group."""
    _rows(console, validation.scored[:worst])
    _unsupported(console, validation)
    _doubts(console, validation)
    _groups(console, validation)


def _rows(console: Console, scored: tuple[Scored, ...]) -> None:
    from rich.table import Table

    from nebula.units import format_bytes, format_seconds

    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for name in ("predicted", "measured", "error", "memory", "measured", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in scored:
        measured, predicted = one.predicted.case.measured, one.predicted
        time = (format_seconds(predicted.time_s), format_seconds(measured.time_s), _percent(one.time_pct))
        peak = (format_bytes(predicted.peak_bytes), format_bytes(measured.peak_bytes), _percent(one.memory_pct))
        table.add_row(
            one.row.id,
            *(time if one.time_pct is not None else ("", "", "")),
            *(peak if one.memory_pct is not None else ("", "", "")),
        )
    console.print(table)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f} %"


def _unsupported(console: Console, validation: Validation) -> None:
    """Each reason once, with how many rows have it and one of them."""
    reasons: dict[str, list[str]] = {}
    for refused in validation.refused:
        reasons.setdefault(refused.reason, []).append(refused.row.id)
    if reasons:
        console.print("\nnot predicted:")
    for reason, ids in sorted(reasons.items(), key=lambda item: -len(item[1])):
        rows = "1 row" if len(ids) == 1 else f"{len(ids)} rows, the first"
        console.print(f"  {rows} {ids[0]}: {reason}")


def _doubts(console: Console, validation: Validation) -> None:
    """Models whose figures differ from what they should be, each once."""
    found: dict[tuple[str, str, float, float], list[str]] = {}
    for doubt in validation.doubts:
        found.setdefault((doubt.model, doubt.what, doubt.described, doubt.expected), []).append(doubt.id)
    if found:
        console.print("\nread with doubt:")
    for (model, what, described, expected), ids in found.items():
        off = 100.0 * (described / expected - 1.0)
        rows = "1 row" if len(ids) == 1 else f"{len(ids)} rows"
        console.print(f"  {model}, {rows}: {described:.4g} {what} described, {expected:.4g} expected ({off:+.1f} %)")


def _groups(console: Console, validation: Validation) -> None:
    from rich.table import Table

    from nebula.cost_model.runs.score import GROUPS

    for title, kind in (("time", "time"), ("memory", "memory")):
        if not getattr(validation, kind).rows:
            continue
        table = Table(box=None, pad_edge=False)
        table.add_column(f"\nerrors of {title}", overflow="fold")
        for name in ("rows", "median", "mean", "p90", "bias", "not predicted"):
            table.add_column(f"\n{name}", justify="right", no_wrap=True)
        table.add_row("all", *_cells(getattr(validation, kind)), str(len(validation.refused)))
        for group in GROUPS:
            for name, part in validation.by(group).items():
                errors = getattr(part, kind)
                if errors.rows or kind == "time":
                    table.add_row(f"{group} {name}", *_cells(errors), str(len(part.refused)))
        console.print(table)


def _cells(errors: Errors) -> tuple[str, ...]:
    if not errors.rows:
        return ("0", "", "", "", "")
    amounts = (errors.median_abs_pct, errors.mean_abs_pct, errors.p90_abs_pct)
    return (str(errors.rows), *(f"{a:.1f} %" for a in amounts), f"{errors.bias_pct:+.1f} %")
