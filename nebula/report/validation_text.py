"""Prints how far predictions are from measured runs for a terminal: all, by group, the worst rows, what is in doubt.

Fits 100 columns and says the same without colour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nebula.cost_model.runs.choices import NEAR, choices
from nebula.cost_model.runs.ranks import NO_RANKS, Ranks
from nebula.cost_model.runs.score import GROUPS, Errors, Scored, Validation
from nebula.units import format_bytes, format_seconds

NAMES = 28
"""Least columns of the first column of tables, so that several stand below each other."""

MOST_ID = 48
"""Columns of the names of rows."""

WORST_CHOICES = 5
"""Wrong choices that are named."""

LEAST_SHARE = 0.03
"""Parts of a step below this are not named."""


def validation_text(
    validation: Validation, worst: int, invalid: Sequence[tuple[str, str]] = (), ranks: Ranks = NO_RANKS
) -> RenderableType:
    """A validation as one block of text for a rich console.

    Args:
        validation: of the rows that could be read.
        worst: how many rows are shown.
        invalid: id and reason of those that could not.
        ranks: of jobs that were measured under several splits.
    """
    blocks = (
        _summary(validation, len(invalid)),
        _groups(validation),
        _worst_times(validation, worst),
        _worst_peaks(validation, worst),
        _listed("choice of a split", _choices(validation)),
        _listed("the fastest measured split among all that fit, as predicted", _ranked(validation, ranks)),
        _listed("not predicted", _refused(validation, invalid)),
        _listed("assumed, because no row says it", _assumed(validation)),
        _listed("read with doubt", _doubts(validation)),
        _listed("suspicious", suspicions(validation)),
    )
    shown = [part for block in blocks if block is not None for part in (block, Text())]
    return Group(*shown[:-1])


def _summary(validation: Validation, invalid: int) -> RenderableType:
    """One line for times and one for peaks."""
    table = _table("predicted / measured − 1", "rows", "median", "mean", "90 %", "bias", "in interval")
    for name, errors, within in (
        ("time", validation.time, validation.time_within_pct),
        ("memory", validation.memory, validation.memory_within_pct),
    ):
        table.add_row(Text(name, "bold"), *_cells(errors), "" if within is None else f"{within:.0f} %")
    predicted, refused = len(validation.scored), len(validation.refused) + invalid
    return Group(Text(f"{predicted + refused} runs, {predicted} predicted, {refused} not", "bold"), table)


def _groups(validation: Validation) -> RenderableType:
    """Errors by source, device and stack."""
    tables = []
    for group in GROUPS:
        table = _table(f"by {group}", "rows", "median", "mean", "90 %", "bias", "not", "memory", "median", "bias")
        for name, part in validation.by(group).items():
            memory = part.memory
            peak = (
                (str(memory.rows), f"{memory.median_abs_pct:.1f} %", f"{memory.bias_pct:+.1f} %") if memory.rows else ()
            )
            table.add_row(line(name), *_cells(part.time), str(len(part.refused) or ""), *peak)
        tables += [table, Text()]
    return Group(*tables[:-1])


def _worst_times(validation: Validation, worst: int) -> RenderableType | None:
    rows = [s for s in validation.scored if s.time_pct is not None]
    if not rows or not worst:
        return None
    shown = [(line(s.row.id), s) for s in rows[:worst]]
    heading = f"time, {_heading(rows, worst)}"
    width = min(MOST_ID, max(len(name) for name in (heading, *(name for name, _ in shown))))
    head = f"{heading:<{width}}{'predicted':>11}{'measured':>11}{'error':>10}  interval"
    text = Text.assemble((head, "bold"))
    for name, one in shown:
        low, high = (format_seconds(end) for end in one.interval_s)
        measured_s = one.predicted.case.measured.time_s
        # a longer name has a line of its own
        text.append(f"\n{name:<{width}}" if len(name) <= width else f"\n{name}\n{'':<{width}}")
        text.append(f"{format_seconds(one.predicted.time_s):>11}{format_seconds(measured_s):>11}")
        text.append(f"{_signed(one.time_pct):>10}")
        text.append(f"  {low} to {high}", "" if one.time_within else "yellow")
        if one.parts_s:
            text.append(f"\n  {part_words(one.parts_s)}", "dim")
    return text


def part_words(parts_s: Mapping[str, float]) -> str:
    """Where a time goes, the largest first.

    Example:
        >>> part_words({"compute": 3.0, "tensor": 1.0, "host": 0.01})
        'compute 75 %, tensor 25 %'
    """
    whole_s = sum(parts_s.values())
    shares = sorted(((s / whole_s, name) for name, s in parts_s.items()), reverse=True)
    return ", ".join(f"{name} {100 * share:.0f} %" for share, name in shares if share >= LEAST_SHARE)


def _worst_peaks(validation: Validation, worst: int) -> RenderableType | None:
    rows = sorted((s for s in validation.scored if s.memory_pct is not None), key=lambda s: -abs(s.memory_pct or 0.0))
    if not rows or not worst:
        return None
    table = _table(f"memory, {_heading(rows, worst)}", "predicted", "measured", "error", "peak", "most of it")
    for one in rows[:worst]:
        peak = one.predicted.peak
        table.add_row(
            line(one.row.id),
            format_bytes(one.predicted.peak_bytes),
            format_bytes(one.predicted.case.measured.peak_bytes),
            _signed(one.memory_pct),
            *((peak.moment, peak.holder) if peak else ()),
        )
    return table


def _heading(rows: Sequence[Scored], worst: int) -> str:
    return "worst first" if worst >= len(rows) else f"the worst {worst} of {len(rows)}"


def _refused(validation: Validation, invalid: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Each reason once, with how many rows have it and one of them."""
    yield from (f"{line(name)}: {line(reason)}" for name, reason in invalid)
    reasons: dict[str, list[str]] = {}
    for refused in validation.refused:
        reasons.setdefault(refused.reason, []).append(refused.row.id)
    for reason, ids in sorted(reasons.items(), key=lambda item: -len(item[1])):
        yield f"{_rows(len(ids))}{line(ids[0])}: {line(reason)}"


def _assumed(validation: Validation) -> Iterator[str]:
    """Fields of executions and links by how many rows leave them open, and devices that nobody knows."""
    rows = len(validation.scored)
    fields = Counter(f for s in validation.scored for f in s.predicted.case.execution.assumed)
    hardware = [name for s in validation.scored for name in s.assumed_hardware]
    links = Counter(name.split()[-1] for name in hardware if not name.startswith("device "))
    everywhere = sorted(f for f, count in fields.items() if count == rows)
    some = [f"{f} ({count})" for f, count in fields.most_common() if count < rows]
    if everywhere:
        yield f"in all rows: {', '.join(everywhere)}"
    if some:
        yield f"in some: {', '.join(some)}"
    if links:
        yield "links: " + ", ".join(f"{name} ({count})" for name, count in links.most_common())
    for name, count in Counter(name for name in hardware if name.startswith("device ")).most_common():
        yield f"{line(name)}, {'1 row' if count == 1 else f'{count} rows'}"


def _choices(validation: Validation) -> Iterator[str]:
    """How often the split predicted fastest was the best, or nearly, and the worst choices."""
    found = choices(validation.scored)
    if not found:
        return
    right = sum(choice.right for choice in found)
    yield (
        f"of {len(found)} jobs that were measured under several splits, the one predicted fastest is within "
        f"{NEAR:.0%} of the fastest in {right} ({right / len(found):.0%})"
    )
    for choice in found[:WORST_CHOICES]:
        if not choice.right:
            yield (
                f"{line(choice.chosen.row.id)} took {choice.lost:.0%} more than {line(choice.best.row.id)}, "
                f"of {choice.splits} splits"
            )


def _ranked(validation: Validation, ranks: Ranks) -> Iterator[str]:
    """Where the fastest measured split of each job stands, and the split that is predicted fastest."""
    for choice in choices(validation.scored) if ranks else ():
        rank = ranks[choice.best.row.id]
        place = f"{line(choice.best.row.id)} is number {rank.position} of {rank.splits}"
        behind = f", {rank.behind:.1%} behind {rank.first.words}" if rank.position > 1 else ""
        yield f"{place}{behind}"


def _doubts(validation: Validation) -> Iterator[str]:
    """Models whose figures differ from what they should be, each once."""
    found = Counter((d.model, d.what, d.described, d.expected) for d in validation.doubts)
    for (model, what, described, expected), count in found.items():
        off = 100.0 * (described / expected - 1.0)
        rows = "1 row" if count == 1 else f"{count} rows"
        yield f"{line(model)}, {rows}: {described:.4g} {what} described, {expected:.4g} expected ({off:+.1f} %)"


def suspicions(validation: Validation) -> Iterator[str]:
    """Values that are probably not meant: each sentence once, with how many rows have it."""
    found: dict[str, list[str]] = {}
    for one in validation.suspicious:
        found.setdefault(one.sentence.removeprefix(f"row {one.id!r}: "), []).append(one.id)
    for sentence, ids in found.items():
        yield f"{_rows(len(ids))}row {ids[0]!r}: {line(sentence)}"


def _rows(count: int) -> str:
    return "" if count == 1 else f"{count} rows, the first "


def line(text: str) -> str:
    """A text of a file as one line without control characters."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _listed(title: str, sentences: Iterable[str]) -> RenderableType | None:
    found = list(sentences)
    if not found:
        return None
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for sentence in found:
        grid.add_row(" ", Text(sentence))
    return Group(Text(title, "bold"), grid)


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column(title, overflow="fold", min_width=NAMES)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(errors: Errors) -> tuple[str, ...]:
    if not errors.rows:
        return ("0", "", "", "", "")
    amounts = (errors.median_abs_pct, errors.mean_abs_pct, errors.p90_abs_pct)
    return (str(errors.rows), *(f"{a:.1f} %" for a in amounts), f"{errors.bias_pct:+.1f} %")


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f} %"
