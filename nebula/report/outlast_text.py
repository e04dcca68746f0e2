"""What a simulation of failing nodes came to, for people and for machines; every figure is called simulated."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nebula.elastic.goodput import Category
from nebula.elastic.simulate.compare import Row
from nebula.elastic.simulate.mix import Mix, Schedule
from nebula.elastic.simulate.values import Scenario
from nebula.units import format_seconds

LABEL = "Simulated: the controller's policy on drawn faults and given times; nothing of this was measured."
PAPERS = {"failed_jobs": -0.3449, "scheduling": 0.3391}
"""Production figures of the adaptive training paper (arXiv:2112.02752), not ours and not simulated."""
MOST_PARTS = 4
LEAST_SHARE = 0.0005


def outlast_text(scenario: Scenario, rows: Sequence[Row], mix: Mix | None, went: Mapping[str, Schedule]) -> Group:
    """As one block of text for a rich console."""
    bounds, total_s = scenario.bounds, scenario.steps * scenario.step_s
    head = (
        f"{scenario.name}: {scenario.jobs} job{'s' * (scenario.jobs != 1)} of {bounds.least} to {bounds.most} nodes, "
        f"{scenario.spare_nodes} spare; {format_seconds(total_s)} of steps, deadline "
        f"{format_seconds(scenario.deadline_s)}, seed {scenario.seed}"
    )
    parts: list[RenderableType] = [Text(LABEL, style="yellow"), Text(head), Text(), _jobs(rows), Text()]
    parts += [Text(sentence) for sentence in (*failed_words(rows), *_sources(scenario))]
    if mix:
        parts += [Text(), _mix(mix, went), Text(), Text(mix_words(went))]
    return Group(*parts)


def _jobs(rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("mechanisms", "failed", "goodput", "lost steps", "restarts", "where the rest went, % of the time"):
        table.add_column(name, justify="left" if name[:4] in ("mech", "wher") else "right", overflow="fold")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.failed} of {row.jobs}",
            f"{100 * row.goodput:.2f} %",
            f"{row.lost_steps:,}",
            f"{row.restarts:,}",
            badput_words({category: row.share(category) for category in Category}),
        )
    return table


def badput_words(shares: Mapping[Category, float]) -> str:
    """The largest categories beside progress.

    >>> badput_words({Category.PRODUCTIVE: 0.9, Category.SAVING: 0.02, Category.WAITING: 0.08})
    'waiting 8.0, saving 2.0'
    """
    bad = {category.value: share for category, share in shares.items() if category is not Category.PRODUCTIVE}
    largest = sorted((share, name) for name, share in bad.items() if share >= LEAST_SHARE)[::-1][:MOST_PARTS]
    return ", ".join(f"{name} {100 * share:.1f}" for share, name in largest)


def failed_words(rows: Sequence[Row]) -> Sequence[str]:
    """How many fewer jobs fail, beside what the paper reports."""
    by_name = {row.name: row for row in rows}
    if not {"all", "none of them"} <= set(by_name):
        return ()
    ours, before = by_name["all"].failed, by_name["none of them"].failed
    change = f"{100 * (ours - before) / before:+.1f} %" if before else "none failed before"
    return (
        f"Failed jobs, simulated: {ours} with all mechanisms, {before} with none of them ({change}).",
        f"Failed long jobs in production, of the paper: {100 * PAPERS['failed_jobs']:+.2f} %; of other jobs.",
    )


def _sources(scenario: Scenario) -> Sequence[str]:
    by_source: dict[str, list[str]] = {}
    for name, source in scenario.timings.sources.items():
        by_source.setdefault(source or "given without a source", []).append(name)
    return ["Times: " + "; ".join(f"{', '.join(names)}: {source}" for source, names in by_source.items()) + "."]


def _mix(mix: Mix, went: Mapping[str, Schedule]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{mix.jobs} jobs on {mix.nodes} nodes, one every {format_seconds(mix.gap_s)} on average, simulated",
        title_justify="left",
    )
    for name in ("scheduling", "nodes at work", "until the last ends", "mean wait", "mean time in all", "resizes"):
        table.add_column(name, justify="left" if name == "scheduling" else "right")
    for name, one in went.items():
        table.add_row(
            name,
            f"{100 * one.use:.1f} %",
            format_seconds(one.span_s),
            format_seconds(statistics.mean(one.waits_s)),
            format_seconds(statistics.mean(one.turnarounds_s)),
            f"{one.resizes:,}",
        )
    return table


def mix_words(went: Mapping[str, Schedule]) -> str:
    """What elastic scheduling gains, beside what the paper reports."""
    gains = {name: went["elastic"].use / one.use - 1 for name, one in went.items() if name != "elastic"}
    ours = ", ".join(f"{100 * gain:+.1f} % against {name}" for name, gain in gains.items())
    return (
        f"Work of a node-hour, simulated: elastic {ours}. Scheduling efficiency in production, of the paper: "
        f"{100 * PAPERS['scheduling']:+.2f} %; another measure, other jobs."
    )


def outlast_document(
    scenario: Scenario, rows: Sequence[Row], mix: Mix | None, went: Mapping[str, Schedule]
) -> dict[str, Any]:
    """For machines; `simulated` is always true."""
    document: dict[str, Any] = {
        "simulated": True,
        "name": scenario.name,
        "seed": scenario.seed,
        "nodes": [scenario.bounds.least, scenario.bounds.most],
        "spare_nodes": scenario.spare_nodes,
        "timings_from": dict(scenario.timings.sources),
        "rows": [_row(row) for row in rows],
        "of_the_paper": dict(PAPERS),
    }
    if mix:
        document["mix"] = {name: _schedule(one) for name, one in went.items()}
    return document


def _row(row: Row) -> dict[str, Any]:
    return {
        "mechanisms": row.name,
        "jobs": row.jobs,
        "failed": row.failed,
        "because": row.because,
        "goodput": row.goodput,
        "wall_s": row.wall_ns / 1e9,
        "seconds": {category.value: spent / 1e9 for category, spent in row.spent_ns.items()},
        "steps": row.steps,
        "lost_steps": row.lost_steps,
        "restarts": row.restarts,
        "faults_met": row.met,
    }


def _schedule(one: Schedule) -> dict[str, Any]:
    return {
        "use": one.use,
        "span_s": one.span_s,
        "mean_wait_s": statistics.mean(one.waits_s),
        "mean_turnaround_s": statistics.mean(one.turnarounds_s),
        "resizes": one.resizes,
    }
