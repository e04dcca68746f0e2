"""The section `checkpoint` of a run file: when a training saves, where, and how many checkpoints stay."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nebula.checkpoint.policy import FOLDER, KEEP, NEVER, Policy
from nebula.validation import Called, Section, Whole


class CheckpointSection(Section):
    """When to save."""

    every: Annotated[Whole, Field(ge=1)] = Field(description="<optimizer steps between two saves>")
    folder: Called = FOLDER
    keep: Annotated[Whole, Field(ge=1)] = KEEP
    asynchronous: bool = Field(default=True, alias="async")


def policy_of(section: CheckpointSection | None) -> Policy:
    """What the section means; without it nothing is saved."""
    if section is None:
        return NEVER
    return Policy(every=section.every, folder=section.folder, keep=section.keep, asynchronous=section.asynchronous)
