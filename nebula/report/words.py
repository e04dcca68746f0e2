"""Short words for long lists: layers by name ranges, devices by node ranges, and the verdict of a plan in one line.

The terminal table, the HTML report and the logs print these same words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from nebula.cost_model.economy import DAY_S, Outlook
from nebula.plan.job import Objective
from nebula.plan.values import Plan, Prediction
from nebula.report.findings import Findings
from nebula.units import format_bytes, format_count, format_seconds

_NUMBERED = re.compile(r"(.*?)(\d+)$")
CUT_WORDS = {
    "bound": "cannot beat the second best",
    "devices": "need more devices",
    "memory": "do not fit into memory",
    "shape": "do not divide a tensor",
    "node": "tensor groups across nodes",
    "wan": "groups across the WAN",
    "fixed": "differ from what is fixed",
    "batch": "do not divide the batch",
    "layers": "more stages than layers",
    "engine": "no engine runs them here",
}
"""The planner's rules that cut candidates (nebula.planner.space.RULES), short enough for the label of a bar."""


def ranges(numbers: Iterable[int]) -> str:
    """Sorted numbers with runs folded.

    Example:
        >>> ranges([0, 1, 2, 5, 7, 8])
        '0–2, 5, 7–8'
    """
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)


def name_ranges(names: Sequence[str]) -> str:
    """Names in their order; those that differ in a last number that counts up are folded.

    Example:
        >>> name_ranges(["embedding", "universal.0", "universal.1", "universal.2", "head"])
        'embedding, universal.0–2, head'
    """
    runs: list[tuple[str, int, int]] = []
    for name in names:
        found = _NUMBERED.match(name)
        stem, number = (found[1], int(found[2])) if found else (name, -1)
        if runs and number > 0 and runs[-1][0] == stem and runs[-1][2] == number - 1:
            runs[-1] = (stem, runs[-1][1], number)
        else:
            runs.append((stem, number, number))
    return ", ".join(
        stem if first < 0 else f"{stem}{first}" if first == last else f"{stem}{first}–{last}"
        for stem, first, last in runs
    )


def places(plan: Plan, ranks: Sequence[int]) -> str:
    """Where ranks run: `fast/0–3 · 32 devices`, or `local/0 · devices 0–1` on a single node."""
    nodes: dict[str, set[int]] = {}
    devices: dict[str, set[int]] = {}
    for rank in ranks:
        place = plan.ranks[rank]
        group, _, node = place.node.rpartition("/")
        nodes.setdefault(group, set()).add(int(node) if node.isdigit() else 0)
        devices.setdefault(place.node, set()).add(place.device)
    words = ", ".join(f"{group}/{ranges(numbers)}" for group, numbers in nodes.items())
    if len(devices) == 1:
        (only,) = devices.values()
        return f"{words} · device{'s' if len(only) > 1 else ''} {ranges(only)}"
    return f"{words} · {len(ranks)} devices"


def stage_names(plan: Plan) -> tuple[str, ...]:
    """For each stage the name of its device of the pipeline: `stage 3`, or `stages 0, 3` where it holds several.

    The first stages of a plan are on different devices, so that these are also the names of the lanes of a timeline.
    """
    homes: dict[tuple[int, ...], list[int]] = {}
    for index, stage in enumerate(plan.stages):
        homes.setdefault(stage.ranks, []).append(index)
    return tuple(named_stages(homes[stage.ranks]) for stage in plan.stages)


def named_stages(held: Sequence[int]) -> str:
    """Stages by number.

    Example:
        >>> named_stages([2]), named_stages([0, 3])
        ('stage 2', 'stages 0, 3')
    """
    return f"stage{'s' if len(held) > 1 else ''} {ranges(held)}"


def percent(share: float) -> str:
    """A share for people.

    Example:
        >>> percent(0.3141), percent(0.04), percent(0.0002), percent(-1e-9)
        ('31 %', '4.0 %', '0.02 %', '0 %')
    """
    hundredths = share * 100
    if abs(hundredths) < 0.005:
        return "0 %"
    digits = 0 if abs(hundredths) >= 9.95 else 1 if abs(hundredths) >= 0.95 else 2
    return f"{hundredths:.{digits}f} %"


def figure(value: float) -> str:
    """A number to compare with another, in five digits.

    Example:
        >>> figure(20.84197), figure(117921.4)
        ('20.842', '117,921')
    """
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.5g}"


def fullest(plan: Plan) -> float:
    """The largest share that a device fills of the memory that the plan may fill; 0 without a prediction."""
    if plan.prediction is None:
        return 0.0
    return max((m.share for m in plan.prediction.memory if m.limit_bytes), default=0.0)


def training_days(plan: Plan) -> float:
    """Days that the token budget of the job takes at the predicted rate; 0 without a budget."""
    if plan.prediction is None or not plan.job.tokens:
        return 0.0
    return plan.job.tokens / plan.prediction.tokens_per_s / DAY_S


def fits(plan: Plan) -> bool:
    """Whether no device is predicted to hold more than the plan may fill."""
    return fullest(plan) <= 1


def _host_words(prediction: Prediction) -> str:
    """What ranks hold in their hosts' memory, where they do."""
    most = max(prediction.memory, key=lambda m: m.host_bytes)
    if not most.host_bytes:
        return ""
    limit = f" of {format_bytes(most.host_limit_bytes)}" if most.host_limit_bytes else ""
    return f", and up to {format_bytes(most.host_bytes)}{limit} of its host's memory"


def verdict(plan: Plan, *, virtual: bool, outlook: Outlook | None = None) -> str:
    """The answer in one sentence: how long a step takes, how fast, how full; `fits` says the rest.

    Args:
        virtual: whether times are those of the emulated device.
        outlook: with it, days to the token budget are said with failures counted.
    """
    prediction = plan.prediction
    if prediction is None:
        return f"A plan without a prediction for {plan.made_from.model} on {plan.made_from.cluster}."
    tightest = max(prediction.memory, key=lambda m: m.total_bytes / m.limit_bytes)
    clock = " of virtual time" if virtual else ""
    words = (
        f"{plan.made_from.model} on {plan.world_size:,} device{'s' if plan.world_size > 1 else ''} of "
        f"{plan.made_from.cluster} takes {format_seconds(prediction.step_time_s)}{clock} a step, "
        f"{format_count(prediction.tokens_per_s)} tokens/s at {percent(prediction.mfu)} of peak; the fullest device "
        f"holds {format_bytes(tightest.total_bytes)} of {format_bytes(tightest.limit_bytes)} "
        f"({percent(tightest.total_bytes / tightest.limit_bytes)}){_host_words(prediction)}"
    )
    days = outlook.days.with_failures if outlook else training_days(plan)
    if not days:
        return f"{words}."
    budget = f"{words}; {format_count(plan.job.tokens)} tokens take"
    if math.isinf(days):
        return f"{budget} no end: failures come faster than a restart and a save."
    return f"{budget} {days:,.1f} days{', failures counted' if outlook else ''}."


def step_words(prediction: Prediction, *, virtual: bool) -> str:
    """Step time with its interval and what it amounts to."""
    low, high = (format_seconds(s) for s in prediction.interval_s)
    clock = " virtual" if virtual else ""
    step, rate = format_seconds(prediction.step_time_s), format_count(prediction.tokens_per_s)
    return f"{step}{clock} ({low} to {high}) · {rate} tokens/s · MFU {percent(prediction.mfu)}"


def bound_words(plan: Plan) -> str:
    """How far a plan is from the bound of its search; empty when no bound is known."""
    if not plan.bound_s or plan.prediction is None:
        return ""
    gap = 1 - plan.bound_s / plan.prediction.step_time_s
    return f"no plan of this space is faster than {format_seconds(plan.bound_s)}, {percent(gap)} below the one chosen"


def measured_words(findings: Findings) -> str:
    """How a run's steps compare with the prediction; empty without a run."""
    measured, prediction = findings.measured, findings.plan.prediction
    if not measured.steps:
        return ""
    took = format_seconds(measured.step_time_s)
    words = f"the median of {len(measured.steps)} steps took {took} of {measured.clock} time"
    if prediction:
        error = measured.step_time_s / prediction.step_time_s - 1
        words += f", {error:+.1%} against the {format_seconds(prediction.step_time_s)} predicted"
    peak, expected = max(s.memory_bytes for s in measured.steps), prediction and prediction.memory[0].total_bytes
    if peak:
        words += f"; rank 0 held {format_bytes(peak)}" + (f", predicted {format_bytes(expected)}" if expected else "")
    return words


def engine_words(findings: Findings) -> str:
    """Who executes the plan and how; or that nobody can yet, and why."""
    plan = findings.plan
    batch = f"{plan.job.global_batch:,} rows of {findings.graph.tokens_per_row:,} tokens a step"
    words = f"{plan.engine}, schedule {plan.schedule}, {plan.job.precision}, {plan.job.optimizer}; {batch}"
    return words + (f"; a dry run only: {'; '.join(findings.missing)}" if findings.missing else "")


def objective_rows(objective: Objective) -> tuple[tuple[str, str], ...]:
    """What a plan was to minimise and what bounded it, pairs of a name and words; only what was asked for."""
    fixed = ", ".join(f"{name} {value}" for name, value in objective.fixed.items())
    rows = (
        ("minimised", objective.minimise.replace("_", " ")),
        ("fixed", fixed),
        ("left out", ", ".join(objective.exclude)),
        ("deadline", f"{objective.deadline_s / DAY_S:g} days" if objective.deadline_s else ""),
        ("budget", f"{objective.budget:,.0f}" if objective.budget else ""),
    )
    return tuple((name, words) for name, words in rows if words)
