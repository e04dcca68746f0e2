"""The sections `reliability` and `energy` of a run file: their keys, and the Conditions that they mean.

What is not written keeps its default and its default's source; what is written has the run file as its source.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from nebula.marked_yaml import Document
from nebula.plan.conditions import GIVEN, Conditions, PowerUse, Reliability
from nebula.units import parse_quantity, parse_rate, parse_seconds
from nebula.validation import Section, Whole, parsed_by

# no job of more than a device outlives a failure a device and hour; years are the longest times that make sense
_Rate = Annotated[float, parsed_by(parse_quantity), Field(ge=0, le=1)]
_Share = Annotated[float, parsed_by(parse_quantity), Field(ge=0, le=1)]
_Seconds = Annotated[float, parsed_by(parse_seconds), Field(ge=0, le=1e9)]
_Positive = Annotated[float, parsed_by(parse_seconds), Field(gt=0, le=1e12)]
_Bytes = Annotated[float, parsed_by(parse_rate), Field(ge=1, le=1e18)]

KEYS = {
    "failures_per_device_hour": "failures_per_device_hour",
    "node_mtbf": "node_mtbf_s",
    "node_loss": "node_loss_share",
    "detect": "detect_s",
    "restart": "restart_s",
    "storage": "storage_bytes_per_s",
    "saves": "saves",
    "interval": "interval_s",
    "repair": "repair_s",
    "lost_nodes": "lost_nodes",
    "spares": "spares",
}
"""Keys of `reliability` and the field of Reliability that each gives."""

POWER_KEYS = {"idle": "idle_share", "pue": "pue"}
"""Keys of `energy` and the field of PowerUse that each gives."""


class ReliabilitySection(Section):
    """What fails, and what is lost when it does."""

    failures_per_device_hour: _Rate | None = None
    node_mtbf: _Positive | None = None
    node_loss: _Share | None = None
    detect: _Seconds | None = None
    restart: _Seconds | None = None
    storage: _Bytes | None = None
    saves: Literal["synchronous", "asynchronous"] | None = None
    interval: _Positive | None = None
    repair: _Seconds | None = None
    lost_nodes: Literal["continue", "wait"] | None = None
    spares: Annotated[Whole, Field(ge=0, le=100_000)] | None = None


class EnergySection(Section):
    """How much of their board power devices draw, and what the site adds."""

    idle: _Share | None = None
    pue: Annotated[float, parsed_by(parse_quantity), Field(ge=1, le=10)] | None = None


def conditions(document: Document, reliability: ReliabilitySection, energy: EnergySection) -> Conditions:
    """What both sections mean.

    Raises:
        BadInput: failures are given by device and by node.
    """
    if reliability.node_mtbf is not None and reliability.failures_per_device_hour is not None:
        sentence = "failures are counted by device or by node: delete failures_per_device_hour or node_mtbf"
        raise document.fault(("reliability", "node_mtbf"), sentence)
    return Conditions(reliability=_with(Reliability(), KEYS, reliability), power=_with(PowerUse(), POWER_KEYS, energy))


V = TypeVar("V", Reliability, PowerUse)


def _with(value: V, keys: dict[str, str], section: Section) -> V:
    """The defaults with what a section says."""
    given: dict[str, Any] = {field: said for key, field in keys.items() if (said := getattr(section, key)) is not None}
    return replace(value, **given, sources=tuple({**dict(value.sources), **dict.fromkeys(given, GIVEN)}.items()))
