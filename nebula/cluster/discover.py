"""This machine (and, inside a Slurm job, its equals) as a cluster: what the drivers, the kernel and a short timing say.

Accelerators are asked of nvidia-smi and npu-smi; without any the CPU's cores are the devices, timed for under two
seconds. Where nothing could be asked the figure is assumed and its source says so. Other nodes are not contacted:
the nodes of a Slurm job are taken to be like this one.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nebula.cluster import cpu, drivers
from nebula.cluster.drivers import printable
from nebula.cluster.sections import NIC_LATENCY_S, NO_LINK
from nebula.cluster.values import Cluster, Link, NodeGroup

Run = Callable[[Sequence[str]], str]
"""Runs a command and gives what it printed; empty when it is missing or fails."""

ASSUMED_NIC_BYTES_PER_S = 1.25e9
"""Of a network card that says no speed: 10 Gb/s."""


def run_command(command: Sequence[str]) -> str:
    """What a command printed within ten seconds; empty when it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def discover(env: Mapping[str, str] | None = None, run: Run = run_command, root: Path = Path("/")) -> Cluster:
    """The cluster that a job started here can use.

    Args:
        env: environment variables; those of this process by default.
        run: how drivers are asked.
        root: where /sys is looked up.
    """
    env = os.environ if env is None else env
    found = drivers.gpus(run) or drivers.npus(run)
    origin = [("devices", found.source)] if found else []
    if not found:
        found = cpu.devices(root)
        origin = [("devices", found.source)]
    nodes, told = _nodes(env)
    origin += told
    nic, count = NO_LINK, 1
    if nodes > 1:
        nic, count, source = _network(root)
        origin.append(("network", source))
    group = NodeGroup(
        name=_name(env),
        count=nodes,
        device=found.device,
        devices_per_node=found.count,
        intra=found.link if found.count > 1 else NO_LINK,
        nic=nic,
        nic_count=count,
    )
    return Cluster(name=group.name, groups=(group,), origin=tuple(origin))


def _name(env: Mapping[str, str]) -> str:
    name = env.get("SLURM_CLUSTER_NAME", "") or socket.gethostname().partition(".")[0]
    return printable(name.replace("/", "-"), "this-machine")


def _nodes(env: Mapping[str, str]) -> tuple[int, list[tuple[str, str]]]:
    """How many nodes the job has, and where that is from."""
    asked = env.get("SLURM_JOB_NUM_NODES", "") or env.get("SLURM_NNODES", "")
    if not asked.isdecimal() or int(asked) < 1:
        return 1, []
    job = env.get("SLURM_JOB_ID", "?")
    return int(asked), [
        ("nodes", f"Slurm job {job}: {env.get('SLURM_JOB_NODELIST', asked)}, taken to be like this node")
    ]


def _network(root: Path) -> tuple[Link, int, str]:
    """One network card of this node, how many there are, and where that is from."""
    rates = [_infiniband_rate(p) for p in sorted(root.glob("sys/class/infiniband/*/ports/1/rate"))]
    rates = [rate for rate in rates if rate]
    if rates:
        fastest = max(rates)
        link = Link(kind="infiniband", bytes_per_s=fastest, latency_s=NIC_LATENCY_S)
        return link, rates.count(fastest), "/sys/class/infiniband"
    speeds = [_ethernet_rate(p) for p in sorted(root.glob("sys/class/net/*/speed")) if (p.parent / "device").exists()]
    fastest = max(speeds, default=0.0)
    if fastest:
        link = Link(kind="ethernet", bytes_per_s=fastest, latency_s=20e-6)
        return link, speeds.count(fastest), "/sys/class/net; the latency is assumed"
    return (
        Link(kind="ethernet", bytes_per_s=ASSUMED_NIC_BYTES_PER_S, latency_s=20e-6),
        1,
        "assumed: no card says its speed",
    )


def _infiniband_rate(path: Path) -> float:
    """Bytes per second of a port (`200 Gb/sec (4X HDR)`)."""
    match = re.match(r"\s*([\d.]+)\s*Gb/sec", _text(path))
    return float(match[1]) * 1e9 / 8 if match else 0.0


def _ethernet_rate(path: Path) -> float:
    """Bytes per second of a card, which the kernel tells in Mb/s; 0 where it says -1."""
    text = _text(path).strip()
    return int(text) * 1e6 / 8 if text.isdecimal() else 0.0


def _text(path: Path) -> str:
    """The file's text; a card that is down raises on reading."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
