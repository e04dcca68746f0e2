"""The verb that hands a plan to a scheduler: prints a Slurm script or a PaddleJob manifest. Nothing is submitted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nebula.cli.options import Json, PlanFile

app = typer.Typer(no_args_is_help=True, help="Print what a scheduler needs to run a plan.", rich_markup_mode=None)
Script = Annotated[Path, typer.Argument(metavar="SCRIPT.PY", help="What every rank runs; it calls nebula.init().")]


@app.command()
def slurm(plan_file: PlanFile, script: Script = Path("train.py"), json: Json = False) -> None:
    """Print an sbatch script."""
    from nebula.deploy.slurm import sbatch_script
    from nebula.plan.files import load_plan

    _print("script", sbatch_script(load_plan(plan_file), str(plan_file), str(script)), as_json=json)


@app.command()
def paddlejob(plan_file: PlanFile, script: Script = Path("train.py"), json: Json = False) -> None:
    """Print a PaddleJob manifest for Kubernetes."""
    from nebula.deploy.paddlejob import manifest
    from nebula.plan.files import load_plan

    _print("manifest", manifest(load_plan(plan_file), str(plan_file), str(script)), as_json=json)


def _print(name: str, text: str, *, as_json: bool) -> None:
    from nebula.cli.console import print_json

    if as_json:
        print_json({name: text})
    else:
        print(text, end="")
