"""The schedule language: for each stage an ordered list of forward and backward actions.

One generator per named schedule; the simulator, the report and the engines read the same lists.
"""

from __future__ import annotations

from typing import NamedTuple


class Action(NamedTuple):
    """One unit of a stage's work: `F` or `B` of one micro-batch."""

    kind: str
    micro_batch: int


def one_f_one_b(stages: int, micro_batches: int, stage: int) -> tuple[Action, ...]:
    """1F1B (PipeDream-Flush): stage s runs min(stages - 1 - s, m) forwards, then alternates, then drains.

    Example:
        >>> [f"{a.kind}{a.micro_batch}" for a in one_f_one_b(2, 3, 0)]
        ['F0', 'F1', 'B0', 'F2', 'B1', 'B2']
    """
    warm = min(stages - 1 - stage, micro_batches)
    actions = [Action("F", i) for i in range(warm)]
    for i in range(micro_batches - warm):
        actions += [Action("F", warm + i), Action("B", i)]
    actions += [Action("B", i) for i in range(micro_batches - warm, micro_batches)]
    return tuple(actions)


def f_then_b(stages: int, micro_batches: int, stage: int) -> tuple[Action, ...]:
    """All forwards, then all backwards (GPipe); stages and stage do not matter."""
    del stages, stage
    forwards = [Action("F", i) for i in range(micro_batches)]
    return tuple(forwards + [Action("B", i) for i in range(micro_batches)])


SCHEDULES = {"1f1b": one_f_one_b, "fthenb": f_then_b}


def actions(schedule: str, stages: int, micro_batches: int) -> tuple[tuple[Action, ...], ...]:
    """The actions of every stage under a named schedule."""
    return tuple(SCHEDULES[schedule](stages, micro_batches, s) for s in range(stages))
