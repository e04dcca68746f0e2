"""Which split the model would have chosen, of jobs that were measured under several: what a planner needs to be right.

A job is what stays the same when the split changes: model, devices, batch, sequence, precision, software, in one table
of one source. Of its splits the one predicted fastest is the model's choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nebula.cost_model.runs.schema import Row
from nebula.cost_model.runs.score import Scored

CHANGES = frozenset(
    (
        *("id", "tp", "pp", "vpp", "dp", "cp", "ep", "etp", "sequence_parallel", "zero", "micro_batch", "recompute"),
        *("source", "measured", "derived", "assumptions", "notes", "date", "core", "framework", "model", "overlap"),
    )
)
"""Fields in which rows of one job differ, or that say nothing about it."""

SPLIT = ("tp", "pp", "vpp", "dp", "cp", "ep", "etp", "zero", "micro_batch", "recompute")

NEAR = 0.05
"""A choice this near to the fastest measured split counts as right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One job.

    Attributes:
        chosen: the row that is predicted fastest.
        best: the row that was fastest.
        splits: how many different ones were measured.
        interleaved: whether some of them had virtual stages.
    """

    chosen: Scored
    best: Scored
    splits: int
    interleaved: bool = False

    @property
    def lost(self) -> float:
        """What the choice takes more than the best, as a share."""
        return _measured_s(self.chosen) / _measured_s(self.best) - 1.0

    @property
    def right(self) -> bool:
        """Whether it is as good as the best."""
        return self.lost <= NEAR


def choices(scored: Iterable[Scored]) -> tuple[Choice, ...]:
    """The choices of all jobs that were measured under several splits, worst first."""
    jobs: dict[str, list[Scored]] = {}
    for one in scored:
        if one.row.is_step and _measured_s(one):
            jobs.setdefault(_job(one.row), []).append(one)
    found = [
        Choice(
            chosen=min(rows, key=lambda s: s.predicted.time_s),
            best=min(rows, key=_measured_s),
            splits=len({_split(s.row) for s in rows}),
            interleaved=any(s.row.vpp > 1 for s in rows),
        )
        for rows in jobs.values()
        if len({_split(s.row) for s in rows}) > 1
    ]
    return tuple(sorted(found, key=lambda choice: -choice.lost))


def _measured_s(scored: Scored) -> float:
    return scored.predicted.case.measured.time_s


def _split(row: Row) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in SPLIT)


def _job(row: Row) -> str:
    where = (row.source.get("repo", row.origin), row.source.get("path", ""))
    return repr((where, sorted((k, repr(v)) for k, v in row.model_dump().items() if k not in CHANGES)))
