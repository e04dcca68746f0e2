"""The verbs on clusters: what this machine is, and what a cluster file says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nebula.cli.options import Force, Json, Output

if TYPE_CHECKING:
    from nebula.cluster.values import Cluster

app = typer.Typer(no_args_is_help=True, help="Describe clusters.", rich_markup_mode=None)


@app.command()
def discover(output: Output = None, force: Force = False, json: Json = False) -> None:
    """Describe this machine as a cluster file."""
    from nebula.cli.console import log
    from nebula.cli.output import free
    from nebula.cluster.discover import discover as find
    from nebula.cluster.dump import dump_cluster
    from nebula.whole_file import write_whole

    if output:
        free(output, force=force)
    cluster = find()
    text = dump_cluster(cluster)
    if output:
        write_whole(output, text)
        log(f"wrote {output}")
    if json:
        _print(cluster, as_json=True)
    elif not output:
        print(text, end="")


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="CLUSTER.YAML", help="A cluster file, or Paddle's cluster JSON.")],
    json: Json = False,
) -> None:
    """Check a cluster file and show what it says."""
    from nebula.cluster.schema import load_cluster

    _print(load_cluster(file), as_json=json)


def _print(cluster: Cluster, *, as_json: bool) -> None:
    from nebula.cli.console import print_json, results
    from nebula.report.cluster_table import cluster_table

    if as_json:
        print_json(document(cluster))
    else:
        results().print(cluster_table(cluster))


def document(cluster: Cluster) -> dict[str, Any]:
    """The cluster file's own keys, with the hash that plans name it by."""
    import yaml

    from nebula.cluster.dump import dump_cluster
    from nebula.cluster.identity import cluster_hash

    return {
        "cluster": yaml.safe_load(dump_cluster(cluster)),
        "hash": cluster_hash(cluster),
        "nodes": cluster.node_count,
        "devices": cluster.device_count,
    }
