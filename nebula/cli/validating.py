"""The verb validate: how far predictions are from the measured runs of a file, worst first.

A row that is not as the schema says is told of and counted among those that were not predicted; the others are
predicted all the same.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nebula.cli.options import Json

if TYPE_CHECKING:
    from nebula.cost_model.runs.ranks import Ranks
    from nebula.cost_model.runs.schema import Fault
    from nebula.cost_model.runs.score import Validation


def validate(
    runs: Annotated[Path, typer.Argument(metavar="RUNS.YAML", help="Measured runs: a list of rows.")],
    worst: Annotated[int, typer.Option("--worst", min=0, metavar="N", help="Show the N worst rows.")] = 20,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="End with 0 although rows of the file were wrong.")
    ] = False,
    ranks: Annotated[
        bool,
        typer.Option("--ranks", help="Rank the fastest measured split of a job among all splits that fit (minutes)."),
    ] = False,
    json: Json = False,
) -> None:
    """Predict every measured run of a file and print how far off that is."""
    from nebula.cli.console import CountLine, log, print_json, results
    from nebula.cost_model.runs.schema import read_rows
    from nebula.cost_model.runs.score import validate as score
    from nebula.cost_model.runs.score_document import document_of
    from nebula.errors import BadInput
    from nebula.marked_yaml import read
    from nebula.models.decoders_measured import described_run
    from nebula.report.validation_text import suspicions, validation_text

    found = read_rows(read(runs))
    invalid = [_told(fault) for fault in found.faults]
    if not found.rows:
        raise BadInput(f"{runs}: no row can be predicted")
    line = CountLine("predicting", len(found.rows), "runs")
    validation = score(found.rows, described_run, line)
    line.clear()
    ranked = _ranked(validation) if ranks else {}
    for sentence in suspicions(validation):
        log(f"nebula: warning: {sentence}")
    if json:
        print_json(document_of(validation, invalid, ranked))
    else:
        results().print(validation_text(validation, worst, invalid, ranked))
    if invalid and not keep_going:
        sys.stdout.flush()
        rows = "1 row is" if len(invalid) == 1 else f"{len(invalid)} rows are"
        raise BadInput(
            f"{runs}: {rows} wrong, as said above; the others were predicted (--keep-going ends with 0 then)"
        )


def _ranked(validation: Validation) -> Ranks:
    """The ranks of all jobs, with a line that says how far it is."""
    from nebula.cli.console import CountLine
    from nebula.cost_model.runs.choices import choices
    from nebula.cost_model.runs.ranks import ranks_of

    found = choices(validation.scored)
    line = CountLine("ranking", len(found), "jobs")
    ranks = ranks_of(found, line)
    line.clear()
    return ranks


def _told(fault: Fault) -> tuple[str, str]:
    """Prints what is wrong with a row; its id and that in one line."""
    from nebula.cli.console import log

    for sentence in fault.sentences:
        log(f"nebula: {sentence}")
    return fault.id, "; ".join(sentence.splitlines()[0] for sentence in fault.sentences)
