"""What a reader does with a plan: the commands that start it, and a form for what the run then measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nebula.plan.values import StageMemory
from nebula.report.findings import Findings, Launch

MOST_STAGES = 8
MOST_NODES = 4
GIB = 2.0**30


@dataclass(frozen=True, slots=True, kw_only=True)
class FormRow:
    """A predicted figure and where the measured one is filled in.

    Attributes:
        name: what it is.
        unit: of all its figures.
        predicted: the figure.
        low: the least that was predicted, and `high` the most; both 0 where no range is known.
        measured: 0 where nothing was measured.
    """

    name: str
    unit: str
    predicted: float
    low: float = 0.0
    high: float = 0.0
    measured: float = 0.0


def form_rows(findings: Findings) -> tuple[FormRow, ...]:
    """What is to be compared after the run; empty without a prediction."""
    prediction, measured = findings.plan.prediction, findings.measured
    if prediction is None:
        return ()
    low_s, high_s = prediction.interval_s
    took_s, tokens = measured.step_time_s, prediction.tokens_per_s * prediction.step_time_s
    held = max((step.memory_bytes for step in measured.steps), default=0.0)
    rows = [
        FormRow(name="step time", unit="s", predicted=prediction.step_time_s, low=low_s, high=high_s, measured=took_s),
        FormRow(
            name="throughput",
            unit="tokens/s",
            predicted=prediction.tokens_per_s,
            low=tokens / high_s,
            high=tokens / low_s,
            measured=tokens / took_s if took_s else 0.0,
        ),
    ]
    for stage, memory in _stages(prediction.memory):
        name = f"memory of the fullest device of stage {stage}"
        # the trainer writes down what rank 0 holds
        own = held / GIB if 0 in findings.plan.stages[stage].ranks else 0.0
        rows.append(FormRow(name=name, unit="GiB", predicted=memory.total_bytes / GIB, measured=own))
    return tuple(rows)


def _stages(memory: Sequence[StageMemory]) -> list[tuple[int, StageMemory]]:
    """All stages, or of many the first and the fullest ones."""
    numbered = list(enumerate(memory))
    if len(numbered) <= MOST_STAGES:
        return numbered
    fullest = sorted(numbered[1:], key=lambda pair: -pair[1].total_bytes / pair[1].limit_bytes)
    return sorted([numbered[0], *fullest[: MOST_STAGES - 1]], key=lambda pair: pair[0])


def shown_commands(launch: Launch) -> tuple[tuple[tuple[str, str], ...], str]:
    """The commands that are written out, pairs of a node and its line, and in words which are not."""
    commands = launch.commands
    if len(commands) <= MOST_NODES:
        return commands, ""
    return commands[:2], f"and so on: {len(commands) - 2:,} more nodes, each with its own --rank and address"
