"""The verb that hands a plan to a scheduler: prints a Slurm script or a PaddleJob manifest. Nothing is submitted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nebula.cli.options import Json, PlanFile

if TYPE_CHECKING:
    from nebula.cluster.values import Cluster

app = typer.Typer(no_args_is_help=True, help="Print what a scheduler needs to run a plan.", rich_markup_mode=None)

Script = Annotated[
    str, typer.Option("--script", metavar="SCRIPT.PY", help="What every rank runs, as the nodes see it.")
]
ClusterFile = Annotated[
    Optional[Path],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
    typer.Option("--cluster", metavar="CLUSTER.YAML", help="What the plan was made for; it says what the devices are."),
]
Kind = Annotated[str, typer.Option("--kind", help="Kind of the devices where no cluster is given: gpu, npu, xpu, cpu.")]
TimeLimit = Annotated[str, typer.Option("--time", help="In Slurm's form, 1-00:00:00; default: the partition's.")]
Image = Annotated[str, typer.Option("--image", help="Of the pods, with Paddle for the devices and Nebula.")]


@app.command()
def slurm(
    plan_file: PlanFile,
    script: Script = "train.py",
    cluster_file: ClusterFile = None,
    kind: Kind = "gpu",
    time_limit: TimeLimit = "",
    json: Json = False,
) -> None:
    """Print an sbatch script."""
    from nebula.deploy.slurm import sbatch_script
    from nebula.plan.files import load_plan

    plan, cluster = load_plan(plan_file), _cluster(cluster_file)
    text = sbatch_script(plan, str(plan_file), script, cluster=cluster, kind=kind, time_limit=time_limit)
    _print("script", text, as_json=json)


@app.command()
def paddlejob(
    plan_file: PlanFile,
    script: Script = "train.py",
    cluster_file: ClusterFile = None,
    kind: Kind = "gpu",
    image: Image = "nebula:latest",
    json: Json = False,
) -> None:
    """Print a PaddleJob manifest for Kubernetes."""
    from nebula.deploy.paddlejob import manifest
    from nebula.plan.files import load_plan

    plan, cluster = load_plan(plan_file), _cluster(cluster_file)
    text = manifest(plan, str(plan_file), script, cluster=cluster, kind=kind, image=image)
    _print("manifest", text, as_json=json)


def _cluster(path: Path | None) -> Cluster | None:
    from nebula.cluster.schema import load_cluster

    return load_cluster(path) if path else None


def _print(name: str, text: str, *, as_json: bool) -> None:
    from nebula.cli.console import print_json

    if as_json:
        print_json({name: text})
    else:
        print(text, end="")
