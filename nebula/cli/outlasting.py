"""The verb that simulates failing nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from nebula.cli.options import Json


def outlast(
    scenario: Annotated[
        Path, typer.Argument(metavar="SCENARIO.YAML", help="Jobs, how often what fails, what recoveries take.")
    ],
    seed: Annotated[
        Optional[int],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
        typer.Option("--seed", min=0, help="Instead of the file's."),
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Also each mechanism without the others.")] = False,
    json: Json = False,
) -> None:
    """Simulate jobs on nodes that fail: how many outlast it, with and without each mechanism."""
    from nebula.cli.console import CountLine, print_json, results
    from nebula.elastic.simulate.compare import compare, variants
    from nebula.elastic.simulate.mix import WAYS, drawn, schedule
    from nebula.elastic.simulate.schema import load_scenario
    from nebula.report.outlast_text import outlast_document, outlast_text

    found, mix = load_scenario(scenario, seed)
    sets = variants(alone=alone)
    line = CountLine("simulating", found.jobs * len(sets), "jobs")
    rows = compare(found, sets, line)
    line.clear()
    jobs = drawn(mix, found.seed) if mix else ()
    went = {name: schedule(jobs, mix.nodes, mix.pause_s, lend) for name, lend in WAYS.items()} if mix else {}
    if json:
        print_json(outlast_document(found, rows, mix, went))
    else:
        results().print(outlast_text(found, rows, mix, went))
