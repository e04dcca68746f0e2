"""The verb profile: measures the devices and links of this machine and writes a calibration file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from nebula.cli.options import Force, Json, Output

if TYPE_CHECKING:
    from nebula.cluster.values import Cluster, NodeGroup
    from nebula.profiling.fit import Residuals
    from nebula.profiling.result import Profile
    from nebula.profiling.start import Network


def profile(
    cluster_file: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads this at run time on Python 3.10 too)
        typer.Option("--cluster", metavar="CLUSTER.YAML", help="What to measure; default: this machine, discovered."),
    ] = None,
    group_name: Annotated[
        str, typer.Option("--group", metavar="NAME", help="The node group; default: the first.")
    ] = "",
    output: Output = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few samples: coarser, in half of the time.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Measure devices and links through Paddle and write a calibration file."""
    import tempfile

    from nebula.cli.console import log, print_json
    from nebula.cli.output import free
    from nebula.profiling.start import measure, measure_network
    from nebula.whole_file import write_whole

    if output:
        free(output, force=force)
    cluster = _cluster(cluster_file)
    group = _group(cluster, group_name)
    log(f"measuring {group.device.name}: {group.devices_per_node} at the same time")
    with tempfile.TemporaryDirectory(prefix="nebula-profile-") as folder:
        measured = measure(cluster, group, Path(folder), quick=quick)
        network = measure_network(cluster, group, Path(folder), quick=quick)
    found, text = _result(measured, group, network)
    if output:
        write_whole(output, text)
        log(f"wrote {output}: name it in the cluster file with `calibration: {output.name}`")
    if json:
        print_json(_document(text))
    elif output:
        _show(found)
    else:
        print(text, end="")


def _cluster(path: Path | None) -> Cluster:
    from nebula.cluster.discover import discover
    from nebula.cluster.schema import load_cluster

    return load_cluster(path) if path else discover()


def _group(cluster: Cluster, name: str) -> NodeGroup:
    from nebula.errors import BadInput, closest

    groups = {group.name: group for group in cluster.groups}
    if name and name not in groups:
        raise BadInput(f"--group {name}: {cluster.name} has no such node group; {closest(name, groups)}")
    return groups[name] if name else cluster.groups[0]


def _result(measured: Any, group: NodeGroup, network: Network | None) -> tuple[Profile, str]:
    """The fitted profile and the text of its file."""
    import os
    from datetime import date
    from importlib.metadata import version

    from nebula.profiling.result import document, fitted, network_card

    today = date.today().isoformat()
    versions = {name: version(name) for name in ("paddle-nebula", "paddlepaddle", "numpy")}
    at_once = f"{measured.processes} at the same time"
    source = f"measured by nebula profile, {at_once}, PaddlePaddle {versions['paddlepaddle']}, {today}"
    made = {
        "date": today,
        "versions": versions,
        "threads": measured.threads,
        "clock": measured.clock,
        "load_average": round(os.getloadavg()[0], 2),
    }
    card = network_card(network.messages, group.nic, network.between) if network else None
    found = fitted(measured, group.device, group.intra.kind, source=source, nic=card)
    return found, document(found, made)


def _document(text: str) -> dict[str, Any]:
    import yaml

    value: dict[str, Any] = yaml.safe_load(text)
    return value


def _show(found: Profile) -> None:
    """The figures, and how well they fit."""
    from rich.table import Table

    from nebula.cli.console import results
    from nebula.units import format_rate, format_seconds

    table = Table(box=None, pad_edge=False)
    for name in ("", "figure", "rows", "median error", "worst error"):
        table.add_column(name, justify="left" if name in ("", "figure") else "right", no_wrap=True)
    products, link = found.products, found.link
    rate = f"{products.flops_per_s / 1e9:.4g} GFLOP/s, half at {products.half_product_flops / 1e6:.3g} MFLOP"
    table.add_row("matrix products", rate, *_cells(products.residuals))
    table.add_row("memory in training steps", format_rate(found.memory.bytes_per_s), *_cells(found.memory.residuals))
    table.add_row("memory, copying", format_rate(found.measured.copy_bytes_per_s))
    table.add_row("one kernel", format_seconds(found.measured.kernel_s))
    if link:
        cost = f"{format_rate(link.bytes_per_s)}, {format_seconds(link.latency_s)} a message"
        table.add_row("link", cost, *_cells(link.residuals))
    if card := found.calibration.nic:
        table.add_row("network card", f"{format_rate(card.bytes_per_s)}, {format_seconds(card.latency_s)} a message")
    results().print(table)


def _cells(residuals: Residuals) -> tuple[str, ...]:
    return str(residuals.rows), f"{residuals.median_abs_pct:.1f} %", f"{residuals.worst_abs_pct:.1f} %"
