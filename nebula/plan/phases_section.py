"""The part `job.phases` of a run file: a training whose batch and sequence length grow, phase by phase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import Field

from nebula.errors import BadInput
from nebula.marked_yaml import Document
from nebula.plan.job import Phase
from nebula.units import parse_quantity
from nebula.validation import Section, Whole, parsed_by

MOST_ROWS = 1_000_000
"""More rows in one optimizer step are taken for a mistake (tokens for rows): the search counts micro-batches."""


class PhaseSection(Section):
    """A part of the training; what it does not say is the job's and the model's."""

    global_batch: Annotated[Whole, Field(ge=1, le=MOST_ROWS)] | None = None
    seq_len: Annotated[Whole, Field(ge=1)] | None = None
    tokens: Annotated[float, parsed_by(parse_quantity), Field(gt=0)] = Field(description="<tokens of the phase>")


class PhasedJob(Protocol):
    """The section `job`."""

    global_batch: int
    tokens: float
    phases: list[PhaseSection]


class PhasedModel(Protocol):
    """The section `model`."""

    layer: str
    seq_len: int | None


def phases_of(document: Document, job: PhasedJob, model: PhasedModel) -> tuple[Phase, ...]:
    """What each phase trains, once it is sure that they are phases of this job.

    Raises:
        BadInput: the tokens do not add up to the job's, or a traced layer is asked for another sequence length.
    """
    for index, phase in enumerate(job.phases):
        if phase.seq_len and model.layer:
            words = "a traced layer says its sequence length in model.inputs; leave seq_len out"
            raise document.fault(("job", "phases", index, "seq_len"), words)
    tokens = [phase.tokens for phase in job.phases]
    if tokens and job.tokens and not math.isclose(sum(tokens), job.tokens, rel_tol=1e-6):
        equation = f"{' + '.join(f'{n:g}' for n in tokens)} = {sum(tokens):g}, job.tokens says {job.tokens:g}"
        words = f"the phases' tokens do not add up: {equation}; correct one, or leave job.tokens out"
        raise document.fault(("job", "phases"), words)
    return tuple(
        Phase(
            global_batch=phase.global_batch or job.global_batch,
            tokens=phase.tokens,
            seq_len=phase.seq_len or model.seq_len,
        )
        for phase in job.phases
    )


def refuse_phases(phases: Sequence[Phase], source: str) -> None:
    """For what works on a training of one kind.

    Raises:
        BadInput: there are phases; the text says how to name one of them.
    """
    for first in phases[:1]:
        words = f"job.phases=[] job.global_batch={first.global_batch} job.tokens={first.tokens:g}"
        words += f" model.seq_len={first.seq_len}" if first.seq_len else ""
        raise BadInput(f"{source}: job.phases are for `nebula plan` alone; name one of them here, such as {words}")
