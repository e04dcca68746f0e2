"""The arguments and options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

RunFile = Annotated[Path, typer.Argument(metavar="RUN.YAML", help="The run file: model, cluster, job, objective.")]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
    typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace those of the run file: job.global_batch=64"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of text.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]
PlanFile = Annotated[Path, typer.Argument(metavar="PLAN.JSON", help="The plan file.")]
PlanOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--plan", metavar="PLAN.JSON", help="Take this plan instead of searching for one."),
]
Output = Annotated[Optional[Path], typer.Option("-o", "--output", metavar="FILE", help="Write it here.")]  # noqa: UP045
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Without TLS; for addresses of this machine (127.0.0.0/8) alone.")
]
Controllers = Annotated[
    str, typer.Option("--controller", metavar="HOST:PORT[,...]", help="Where the job's controllers listen.")
]
Certificates = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--certs", metavar="FOLDER", help="Certificates of the job, from `nebula cert init`; default: certs."),
]
AllowFaults = Annotated[bool, typer.Option("--allow-faults", help="Do what `nebula chaos` asks for; for tests.")]
FaultOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--fault",
        metavar="FAULT",
        help="What happens to emulated devices: slow:RANK:FACTOR@STEP, fail:RANK@STEP. May be given several times.",
    ),
]
