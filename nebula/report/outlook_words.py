"""What a plan comes to, in words: days, goodput, money and energy, each with one sentence on what was assumed.

The terminal table and the HTML report show the same rows; `virtual` says that times are those of emulated devices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nebula.cost_model.economy import DAY_S, Outlook
from nebula.plan.conditions import DEVICE_STORAGE_BYTES_PER_S, GIVEN, Reliability
from nebula.plan.values import Prediction
from nebula.report.words import percent
from nebula.units import format_bytes, format_count, format_energy, format_power, format_rate, format_seconds

SHARE_WORDS = {
    "useful": "progress",
    "checkpointing": "saves",
    "lost_work": "lost work",
    "restart": "restarts",
    "degraded": "nodes in repair",
}
"""The shares of Goodput, for people."""

ORIGINS = ("measured", "fitted", "emulated", "data sheet", "assumed")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlookRow:
    """One subject: its figures, and the sentence that says what they rest on."""

    name: str
    figures: str
    basis: str = ""


def outlook_rows(outlook: Outlook, *, virtual: bool) -> tuple[OutlookRow, ...]:
    """A row for each subject; days where there is a budget, money and energy of emulated devices where known."""
    money, energy = outlook.money, outlook.energy
    rows = [_days(outlook, virtual=virtual)] if outlook.days.tokens else []
    rows.append(_goodput(outlook))
    if not (virtual and money.unknown):
        rows.append(_money(outlook))
    if not (virtual and energy.unknown):
        rows.append(_energy(outlook, virtual=virtual))
    return tuple(rows)


def days_words(days: float) -> str:
    """A number of days; below one the unit that people would choose.

    Example:
        >>> days_words(36.25), days_words(0.5), days_words(math.inf)
        ('36.2 days', '12 h', 'no end')
    """
    if math.isinf(days):
        return "no end"
    return f"{days:,.1f} days" if days >= 1 else format_seconds(days * DAY_S)


def progress_words(share: float) -> str:
    """A goodput: one decimal, as the last percent matters most.

    Example:
        >>> progress_words(0.9934)
        '99.3 %'
    """
    return f"{share * 100:.1f} %"


def amount(value: float) -> str:
    """An amount of money.

    Example:
        >>> amount(189_734.2), amount(0.4123), amount(math.inf)
        ('189,734', '0.412', 'without end')
    """
    if math.isinf(value):
        return "without end"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def share_pairs(outlook: Outlook) -> tuple[tuple[str, float], ...]:
    """Where the time of the job goes, by name; the shares sum to 1."""
    return tuple((words, getattr(outlook.goodput, field)) for field, words in SHARE_WORDS.items())


def provenance_words(prediction: Prediction) -> str:
    """Where the inputs of a prediction come from, those that are known worst first: `assumed: A100 kernel_s; ...`."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, origin in prediction.provenance:
        subject, _, figure = name.rpartition(" ")
        found.setdefault(origin, {}).setdefault(subject, []).append(figure)
    worst_first = sorted(found, key=lambda o: ORIGINS.index(o) if o in ORIGINS else -1, reverse=True)
    return "; ".join(
        f"{origin}: "
        + ", ".join(f"{subject} {', '.join(figures)}".strip() for subject, figures in found[origin].items())
        for origin in worst_first
    )


def condition_rows(outlook: Outlook) -> tuple[tuple[str, str], ...]:
    """Pairs of a condition with its value, and where it comes from."""
    values = dict(condition_words(outlook.conditions.reliability))
    power = outlook.conditions.power
    values |= {"idle_share": f"{percent(power.idle_share)} of board power at rest", "pue": f"PUE {power.pue:g}"}
    sources = {**dict(outlook.conditions.reliability.sources), **dict(power.sources)}
    return tuple((words, sources.get(field, GIVEN)) for field, words in values.items())


def condition_words(under: Reliability) -> tuple[tuple[str, str], ...]:
    """Pairs of a field of Reliability and its value in words; those that are not in force are left out."""
    rate = (
        "failures_per_device_hour",
        f"{under.failures_per_device_hour * 1e6:.3g} failures in a million device-hours",
    )
    if under.node_mtbf_s:
        rate = ("node_mtbf_s", f"a failure a node every {format_seconds(under.node_mtbf_s)}")
    storage = format_rate(under.storage_bytes_per_s or DEVICE_STORAGE_BYTES_PER_S)
    goes_on = "goes on without" if under.lost_nodes == "continue" else "waits for"
    words = [
        rate,
        ("node_loss_share", f"{percent(under.node_loss_share)} of failures take a node away"),
        ("repair_s", f"a lost node is back after {format_seconds(under.repair_s)}"),
        ("lost_nodes", f"training {goes_on} lost nodes"),
        ("spares", f"{under.spares or 'no'} spare node{'s' if under.spares > 1 else ''}"),
        ("detect_s", f"{format_seconds(under.detect_s)} to detect a failure"),
        ("restart_s", f"{format_seconds(under.restart_s)} to restart"),
        ("storage_bytes_per_s", f"{storage} of storage" + ("" if under.storage_bytes_per_s else " a device")),
        ("saves", f"{under.saves} saves"),
    ]
    if under.interval_s:
        words.append(("interval_s", f"saves every {format_seconds(under.interval_s)}"))
    return tuple(words)


def _basis(under: Reliability) -> str:
    """One sentence: which conditions the run file says, and which are assumed."""
    sources = dict(under.sources)
    given = [words for field, words in condition_words(under) if sources.get(field, GIVEN) == GIVEN]
    assumed = [words for field, words in condition_words(under) if sources.get(field, GIVEN) != GIVEN]
    parts = [f"{name}: {', '.join(words)}" for name, words in (("Given", given), ("assumed", assumed)) if words]
    sentence = "; ".join(parts) + "."
    return sentence[0].upper() + sentence[1:]


def _days(outlook: Outlook, *, virtual: bool) -> OutlookRow:
    days = outlook.days
    clock = " of virtual time" if virtual else ""
    span = "" if math.isinf(days.high) else f" ({days_words(days.low)} to {days_words(days.high)})"
    return OutlookRow(
        name="days",
        figures=f"{days_words(days.with_failures)}{clock} for {format_count(days.tokens)} tokens{span}, "
        f"{days_words(days.without_failures)} without failures; {format_count(days.tokens_per_day)} tokens a day",
        basis="The range is that of the step time; evaluation and maintenance are not counted.",
    )


def _goodput(outlook: Outlook) -> OutlookRow:
    time, saved = outlook.goodput, outlook.checkpoint
    badput = ", ".join(f"{words} {percent(share)}" for words, share in share_pairs(outlook)[1:])
    figures = f"{progress_words(time.useful)} of the time is progress; {badput}; "
    if math.isinf(time.mtbf_s):
        figures += "nothing fails"
    else:
        figures += f"a failure every {format_seconds(time.mtbf_s)}"
        if outlook.days.tokens and math.isfinite(outlook.days.failures):
            figures += f", {outlook.days.failures:,.1f} in all"
    if math.isfinite(time.interval_s):
        size, held = format_bytes(saved.total_bytes), format_seconds(saved.save_s)
        figures += f"; {size} saved every {format_seconds(time.interval_s)}, which holds training up for {held}"
    return OutlookRow(name="goodput", figures=figures, basis=_basis(outlook.conditions.reliability))


def _money(outlook: Outlook) -> OutlookRow:
    money = outlook.money
    if money.unknown:
        unpriced = ", ".join(money.unknown)
        return OutlookRow(
            name="money",
            figures=f"not known: {unpriced} {_has(money.unknown)} no price; say price_per_hour in the cluster file",
        )
    figures = (
        f"{amount(money.per_hour)} an hour, {amount(money.per_step)} a step, "
        f"{amount(money.per_million_tokens)} a million tokens"
    )
    if outlook.days.tokens:
        hours = "" if math.isinf(outlook.device_hours) else f" for {format_count(outlook.device_hours)} device-hours"
        low, high = (amount(end) for end in money.budget_interval)
        figures += f", {amount(money.budget)} in all ({low} to {high}){hours}"
    prices = "; ".join(f"{name}: {source}" for name, source in money.sources)
    return OutlookRow(
        name="money",
        figures=figures,
        basis=f"Prices ({prices}) are paid for every hour of every device, failures and spare nodes included.",
    )


def _energy(outlook: Outlook, *, virtual: bool) -> OutlookRow:
    energy, power = outlook.energy, outlook.conditions.power
    if energy.unknown:
        unrated = ", ".join(energy.unknown)
        return OutlookRow(
            name="energy",
            figures=f"not known: {unrated} {_has(energy.unknown)} no board power; say power in the cluster file",
        )
    figures = f"{format_power(energy.training_w)} while training, {format_energy(energy.per_step_j)} a step, "
    figures += f"{format_energy(energy.per_million_tokens_j)} a million tokens"
    if outlook.days.tokens:
        low, high = (format_energy(end) for end in energy.budget_interval_j)
        figures += f", {format_energy(energy.budget_j)} in all ({low} to {high})"
    how = "Simulated" if virtual else "Estimated"
    return OutlookRow(
        name="energy",
        figures=figures,
        basis=f"{how}, not measured: a device draws its board power while it computes ({percent(energy.busy_share)} of "
        f"a step), {percent(power.idle_share)} of it else, times a PUE of {power.pue:g}; hosts are not in it.",
    )


def _has(names: tuple[str, ...]) -> str:
    return "has" if len(names) == 1 else "have"
