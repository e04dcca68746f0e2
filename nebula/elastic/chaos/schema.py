"""Reads a schedule of faults from a file: `faults`, how long it lasts (`for`), and the `seed` of what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from nebula.elastic.chaos.values import ANY, Fault, Kind, Schedule
from nebula.marked_yaml import read
from nebula.units import parse_seconds
from nebula.validation import Section, Whole, parsed_by, validated

_Seconds = Annotated[float, parsed_by(parse_seconds), Field(ge=0, le=1e9)]
_Positive = Annotated[float, parsed_by(parse_seconds), Field(gt=0, le=1e9)]


class FaultSection(Section):
    """One fault."""

    fault: Kind = Field(description="kill")
    node: str = ANY
    at: _Seconds | None = None
    at_step: Annotated[Whole, Field(ge=0, le=10**12)] | None = None
    every: _Positive | None = None
    seconds: _Seconds = 0.0


class ScheduleSection(Section):
    """The whole file."""

    faults: list[FaultSection] = Field(min_length=1, max_length=10_000, description="[{fault: kill, at: 10s}]")
    lasts: _Positive = Field(alias="for", description="10min")
    seed: Whole = 0


def load_schedule(path: Path) -> Schedule:
    """A schedule from its file.

    Raises:
        BadInput: with the place of the mistake.
    """
    section = validated(read(path), ScheduleSection)
    faults = tuple(
        Fault(
            kind=one.fault,
            node=one.node,
            at_s=-1.0 if one.at is None else one.at,
            at_step=-1 if one.at_step is None else one.at_step,
            every_s=one.every or 0.0,
            seconds=one.seconds,
        )
        for one in section.faults
    )
    return Schedule(faults=faults, lasts_s=section.lasts, seed=section.seed)
