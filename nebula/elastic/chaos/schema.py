"""Reads a schedule of faults from a file: `faults`, how long it lasts (`for`), and the `seed` of what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from nebula.elastic.chaos.values import ANY, Fault, Kind, Schedule, Way, Weather
from nebula.errors import BadInput
from nebula.marked_yaml import read
from nebula.units import parse_rate, parse_seconds
from nebula.validation import Section, Whole, parsed_by, validated

_Seconds = Annotated[float, parsed_by(parse_seconds), Field(ge=0, le=1e9)]
_Rate = Annotated[float, parsed_by(parse_rate), Field(gt=0, le=1e15)]
_Positive = Annotated[float, parsed_by(parse_seconds), Field(gt=0, le=1e9)]


class FaultSection(Section):
    """One fault."""

    fault: Kind = Field(description="kill")
    node: str = ANY
    at: _Seconds | None = None
    at_step: Annotated[Whole, Field(ge=0, le=10**12)] | None = None
    every: _Positive | None = None
    seconds: _Seconds = 0.0
    delay: _Seconds = 0.0
    rate: _Rate | None = None
    loss: Annotated[float, Field(ge=0, lt=1)] = 0.0
    way: Way | None = None

    def weather(self) -> Weather:
        """Of the lines; without `way` a partition cuts both."""
        way = self.way or (Way.BOTH if self.fault is Kind.PARTITION else None)
        return Weather(
            delay_s=self.delay,
            bytes_per_s=self.rate or 0.0,
            loss=self.loss,
            out=way not in (Way.BOTH, Way.OUT),
            into=way not in (Way.BOTH, Way.IN),
        )

    def value(self) -> Fault:
        """As a value.

        Raises:
            BadInput: keys do not go together.
        """
        return Fault(
            kind=self.fault,
            node=self.node,
            at_s=-1.0 if self.at is None else self.at,
            at_step=-1 if self.at_step is None else self.at_step,
            every_s=self.every or 0.0,
            seconds=self.seconds,
            weather=self.weather(),
        )


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
    document = read(path)
    section, faults = validated(document, ScheduleSection), []
    for index, one in enumerate(section.faults):
        try:
            faults.append(one.value())
        except BadInput as error:
            raise document.fault(("faults", index), str(error)) from None
    return Schedule(faults=tuple(faults), lasts_s=section.lasts, seed=section.seed)
