"""The degrees of a plan by name, as `objective.fixed` takes them: read from a line of text, and read off a plan."""

from __future__ import annotations

from collections.abc import Mapping

from nebula.errors import LARGEST, BadInput, closest, shown
from nebula.plan.job import FIXABLE, FIXABLE_WORDS, FROM_NOUGHT
from nebula.plan.schedule import SCHEDULES
from nebula.plan.values import Plan

WORDS = {**FIXABLE_WORDS, "schedule": tuple(SCHEDULES)}
"""Degrees that are words, and which words there are."""

EXAMPLE = "tensor=8,pipeline=4"


def parse_degrees(text: str) -> dict[str, int | str]:
    """Degrees from `name=value,name=value`.

    Raises:
        BadInput: a name is unknown or stands twice, or its value is none that it can have.

    Example:
        >>> parse_degrees("tensor=8, recompute=full")
        {'tensor': 8, 'recompute': 'full'}
    """
    degrees: dict[str, int | str] = {}
    for pair in text.split(","):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not value:
            raise BadInput(f"{shown(pair.strip())} is no degree; write name=value, separated by commas: {EXAMPLE}")
        if name not in FIXABLE:
            raise BadInput(f"{shown(name)} is no degree; {closest(name, FIXABLE)}")
        if name in degrees:
            raise BadInput(f"{name} stands twice, as {degrees[name]} and {value}; name it once")
        degrees[name] = _value(name, value)
    return degrees


def degrees_of(plan: Plan) -> dict[str, int | str]:
    """The degrees of a plan, those of its first stage where stages differ."""
    first = plan.stages[0]
    return {
        "data": first.data,
        "tensor": first.tensor // first.context,
        "pipeline": len(plan.homes),
        "sharding": first.sharding.stage,
        "sharding_degree": first.sharding.degree,
        "recompute": first.recompute,
        "micro_batch_rows": first.replicas[0].micro_batch_rows,
        "schedule": plan.schedule,
        "offload": first.offload,
        "sequence": int(plan.sequence_parallel),
        "context": first.context,
        "exchange": first.exchange,
        "expert": first.expert,
        "virtual_stages": len(plan.stages) // len(plan.homes),
        "engine": "executor" if plan.engine == "executor" else "fleet",
    }


def degree_words(degrees: Mapping[str, object]) -> str:
    """Degrees in words.

    Example:
        >>> degree_words({"tensor": 8, "micro_batch_rows": 2})
        'tensor 8, micro_batch_rows 2'
    """
    return ", ".join(f"{name} {value}" for name, value in degrees.items())


def nought_words(name: str) -> str:
    """What a degree that begins at 0 may be."""
    if name == "sharding":
        return "the stage of ZeRO is 0, 1, 2 or 3; sharding_degree says over how many"
    return "1 with sequence parallelism, 0 without"


def _value(name: str, value: str) -> int | str:
    if name in WORDS:
        if value not in WORDS[name]:
            raise BadInput(f"{name}={shown(value)}: {closest(value, WORDS[name])}")
        return value
    least = 0 if name in FROM_NOUGHT else 1
    if not (value.isascii() and value.isdigit()) or not least <= int(value[: len(str(LARGEST))]) < LARGEST:
        raise BadInput(f"{name}={shown(value)}: it must be a whole number from {least} on")
    if int(value) > FROM_NOUGHT.get(name, LARGEST):
        raise BadInput(f"{name}={value}: {nought_words(name)}")
    return int(value)
