"""What a rehearsal showed: the loss beside a serial run's, each rank's time and memory beside the prediction's."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nebula.cost_model.simulate import Timeline
from nebula.plan.values import Plan

LOSS_TOLERANCE = 1e-5
"""Relative; two orders of adding up float32 differ by less."""

PROVES = (
    "that these stages, degrees, ranks and this schedule run to the end without a deadlock",
    "that they compute what one serial process computes",
    "when each rank computes, waits and sends on this network, and how much memory each fills",
)
NOT = (
    "how fast real kernels are: devices compute here at the rates of the cluster file, and times are simulated",
    "numerics in reduced precision: everything was computed in float32",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One group of ranks of the pipeline.

    Attributes:
        stages: indices of the stages that it holds.
        predicted_bytes, measured_bytes: of the fullest rank.
        predicted_wait, measured_wait: share of the step in which its ranks neither pass nor update; a mean.
    """

    stages: tuple[int, ...]
    predicted_bytes: float
    measured_bytes: float
    predicted_wait: float
    measured_wait: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The outcome.

    Attributes:
        plan: that was rehearsed.
        left_out: what of the whole plan it did not show.
        whole_ranks: of the plan before it was made small.
        whole_waits: which of them would wait for ever, in a sentence (nebula.rehearsal.walk); empty: none.
        whole_memory: of the whole plan, the share of its limit that the fullest device fills, as predicted.
        loss_difference: largest relative difference of a loss from the serial run's.
        predicted_s, measured_s: of a step of the rehearsed plan, both simulated.
        shared_s: the same where links are shared by who uses them at the time, not evenly by all.
    """

    plan: Plan
    left_out: tuple[str, ...]
    whole_ranks: int
    whole_waits: str
    whole_memory: float
    loss_difference: float
    predicted_s: float
    measured_s: float
    shared_s: float
    rows: tuple[StageRow, ...]

    @property
    def holds(self) -> bool:
        """Whether the plan comes to its end, computes what a serial process does and fits into memory."""
        return not self.whole_waits and self.loss_difference <= LOSS_TOLERANCE and self.whole_memory <= 1.0

    @property
    def error(self) -> float:
        """Of the predicted step time, relative to the measured one."""
        return self.predicted_s / self.measured_s - 1.0


def loss_difference(losses: Sequence[float], serial: Sequence[float]) -> float:
    """The largest relative difference; infinite where a loss is missing or no number."""
    pairs = list(zip(losses, serial, strict=False))
    if len(losses) != len(serial) or not pairs:
        return math.inf
    if not all(map(math.isfinite, (*losses, *serial))):
        return math.inf
    return max(abs(one - other) / abs(other) for one, other in pairs)


def stage_rows(plan: Plan, timeline: Timeline, folder: Path) -> tuple[StageRow, ...]:
    """Each group of ranks, predicted and measured.

    Args:
        plan: with its prediction.
        timeline: the predicted step.
        folder: of the run, with a timeline for each rank.
    """
    assert plan.prediction is not None
    rows = []
    for home, held in enumerate(plan.homes):
        records = [_record(folder, rank) for rank in plan.stages[held[0]].ranks]
        passes = [event for event in timeline.of(home) if event.kind not in ("send", "sync")]
        rows.append(
            StageRow(
                stages=held,
                predicted_bytes=max(plan.prediction.memory[index].total_bytes for index in held),
                measured_bytes=max(float(record["memory_bytes"]) for record in records),
                predicted_wait=1.0 - sum(e.end_s - e.start_s for e in passes) / plan.prediction.step_time_s,
                measured_wait=sum(map(_wait, records)) / len(records),
            )
        )
    return tuple(rows)


def _record(folder: Path, rank: int) -> dict[str, Any]:
    return dict(json.loads((folder / f"timeline.{rank}.json").read_text(encoding="utf-8")))


def _wait(record: dict[str, Any]) -> float:
    """The share of the step in which a rank neither passes nor updates; messages that a pass waits for are a wait."""
    spans = [(s["start_s"], s["end_s"]) for s in record["spans"]]
    waits = [(e["start_s"], e["end_s"]) for e in record["events"] if e["name"].startswith("recv")]
    busy = sum(end - start for start, end in spans)
    busy -= sum(max(0.0, min(end, last) - max(start, first)) for start, end in spans for first, last in waits)
    return 1.0 - busy / float(record["step_s"])
