"""The section `checkpoint` of a run file: when a training saves, where, and how many checkpoints stay."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from nebula.checkpoint.policy import FIRST, FOLDER, KEEP, NEVER, Policy
from nebula.errors import LARGEST
from nebula.validation import Called, Section, Whole

_AUTO = LARGEST - 1
"""Stands for `auto` among numbers."""


def _steps(value: Any) -> Any:
    return _AUTO if value == "auto" else value


class CheckpointSection(Section):
    """When to save."""

    every: Annotated[Whole, Field(ge=1), BeforeValidator(_steps)] = Field(
        description="<optimizer steps between two saves, or auto>"
    )
    folder: Called = FOLDER
    keep: Annotated[Whole, Field(ge=1)] = KEEP
    asynchronous: bool = Field(default=True, alias="async")


def policy_of(section: CheckpointSection | None, failures_per_s: float) -> Policy:
    """What the section means; without it nothing is saved.

    Args:
        failures_per_s: of the whole job, for `every: auto`.
    """
    if section is None:
        return NEVER
    auto = section.every == _AUTO
    return Policy(
        every=FIRST if auto else section.every,
        folder=section.folder,
        keep=section.keep,
        asynchronous=section.asynchronous,
        mtbf_s=1.0 / max(failures_per_s, 1e-12) if auto else 0.0,
    )
