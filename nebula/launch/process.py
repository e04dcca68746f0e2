"""Starts a plan's processes on this machine; with several nodes it prints each node's command and starts nothing.

Refuses a plan made for another cluster, and one that no engine can run there.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from nebula.cluster.identity import cluster_hash
from nebula.cluster.places import device_index
from nebula.cluster.values import Cluster, DeviceType
from nebula.emulator import RECORD
from nebula.emulator.table import Fault
from nebula.errors import BadInput
from nebula.launch.command import (
    FIRST_ADDRESS,
    PORT,
    NodeCommand,
    device_types,
    environment,
    is_emulated,
    node_commands,
)
from nebula.launch.emulate import check_size, device_table
from nebula.launch.watch import watch
from nebula.plan import kinds
from nebula.plan.files import check_made_for, load_plan
from nebula.plan.legality import executable_on, kinds_of
from nebula.plan.values import Plan

DRIVER_TOOLS = ("nvidia-smi", "npu-smi", "xpu-smi")
"""What a machine with GPUs, Ascend NPUs or Kunlun XPUs has."""


def launch(
    plan_path: Path | str,
    script: Path | str,
    args: Sequence[str] = (),
    *,
    cluster: Cluster | None = None,
    log_dir: Path | str = "log",
    env: Mapping[str, str] | None = None,
    master: str = "",
    out: TextIO | None = None,
    faults: Sequence[Fault] = (),
    record: bool = False,
) -> int:
    """Runs a script as a plan says and returns once all its processes have ended.

    Args:
        plan_path: the plan file.
        script: what each rank runs; it calls nebula.init().
        cluster: what the plan was made for; without it the devices are taken to be real ones of this machine.
        log_dir: receives workerlog.<rank>, launcher.log and the emulator's table.
        env: of the processes; default: this process's.
        master: `HOST:PORT` of the first of several nodes; a name is looked up.
        out: receives what rank 0 prints; default: stdout.
        faults: of emulated devices, on command.
        record: whether emulated devices leave a record of their work in `log_dir` (nebula.emulator.replay).

    Returns:
        0.

    Raises:
        BadInput: a file is missing, or the plan does not fit the cluster.
        RunFailed: a rank failed; the text names it, its last lines went to `out`.
        KeyboardInterrupt: after the processes were ended.
    """
    out = sys.stdout if out is None else out
    plan = load_plan(Path(plan_path))
    if not Path(script).is_file():
        raise BadInput(f"there is no script {script}")
    types = () if cluster is None else _types_on(cluster, plan)
    folder = Path(log_dir).resolve()
    commands = node_commands(plan, str(script), args, types=types, log_dir=str(folder), master=address(master))
    if len(commands) > 1:
        _print_commands(commands, Path(plan_path), out, kinds=kinds.told(kinds_of(types)), known=cluster is not None)
        return 0
    emulated = _devices_here(cluster, plan, types, faults)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("workerlog.*"), *folder.glob("work.*")):
        old.unlink()
    settings = environment(
        os.environ if env is None else env,
        str(Path(plan_path).resolve()),
        ranks=_sharers(plan, cluster, types),
        cores=os.cpu_count() or 1,
    ) | kinds.told(kinds_of(types))
    if cluster is not None and emulated:
        settings |= _emulated(cluster, plan, folder, faults)
        settings |= {RECORD: str(folder)} if record else {}
    return watch(commands[0], settings, folder, out)


def ready(plan: Plan, cluster: Cluster, faults: Sequence[Fault] = ()) -> None:
    """Makes sure that a plan can start on this machine; writes nothing but the emulated device, once it is built.

    Raises:
        BadInput: the plan does not fit the cluster, or faults are asked of real devices.
        EmulatorUnavailable: the emulated device cannot be built here.
    """
    _devices_here(cluster, plan, _types_on(cluster, plan), faults)


def _devices_here(cluster: Cluster | None, plan: Plan, types: Sequence[DeviceType], faults: Sequence[Fault]) -> bool:
    """Whether devices are emulated, once this machine is known to have what the plan runs on."""
    if cluster is None and not any(map(shutil.which, DRIVER_TOOLS)):
        raise BadInput(
            f"this machine shows no accelerator (none of {', '.join(DRIVER_TOOLS)}): "
            "name the cluster that the plan was made for with --cluster"
        )
    emulated = cluster is not None and is_emulated(types)
    if faults and not emulated:
        raise BadInput("faults on command happen to emulated devices alone; the plan runs on real ones")
    if emulated:
        from nebula.emulator.build import library

        check_size(plan)
        library()
    return emulated


def _types_on(cluster: Cluster, plan: Plan) -> tuple[DeviceType, ...]:
    """The device type of each rank, once the plan is known to fit the cluster and to run on its devices."""
    check_made_for(plan, plan.made_from.model_hash, cluster_hash(cluster), cluster=cluster.name)
    types = device_types(cluster, plan)
    answer = executable_on(plan, cluster)
    if answer.engine is None:
        raise BadInput(f"the plan cannot run on {cluster.name}: {'; '.join(answer.missing)}")
    return types


def _sharers(plan: Plan, cluster: Cluster | None, types: Sequence[DeviceType]) -> int:
    """How many share the host's cores: the ranks, or as many as a node has devices where the devices are its cores.

    So a plan that leaves devices of a CPU idle leaves their cores idle, as its prediction says.
    """
    if cluster is None or is_emulated(types) or types[0].kind != "cpu":
        return plan.world_size
    first = cluster.groups[cluster.address(device_index(cluster, plan.ranks[0].node, plan.ranks[0].device)).group]
    return max(plan.world_size, first.devices_per_node)


def _emulated(cluster: Cluster, plan: Plan, folder: Path, faults: Sequence[Fault]) -> dict[str, str]:
    from nebula import emulator

    return emulator.environment(device_table(cluster, plan, folder / "devices.table", faults))


def address(master: str) -> str:
    """`IP:PORT` of a `HOST:PORT`, because Paddle's launcher compares addresses, not names; empty stays empty.

    Raises:
        BadInput: there is no port, or the name is known to nobody.
    """
    if not master:
        return ""
    host, _, port = master.rpartition(":")
    if not host or not port.isdigit():
        raise BadInput(f"--master {master}: write it as HOST:PORT, such as {master.strip(':') or '10.0.0.1'}:{PORT}")
    try:
        return f"{socket.gethostbyname(host)}:{port}"
    except OSError:
        raise BadInput(f"--master {master}: nobody knows the name {host}; give the first node's IP address") from None


def _print_commands(
    commands: Sequence[NodeCommand], plan_path: Path, out: TextIO, *, kinds: Mapping[str, str], known: bool
) -> None:
    """What a person copies; `known` says whether the cluster was given, without which all devices count as real."""
    settings = " ".join(
        f"{name}={shlex.quote(value)}" for name, value in {"NEBULA_PLAN": str(plan_path), **kinds}.items()
    )
    if not known:
        print(
            "# Emulated devices, or unlike kinds? Then give the cluster file: nebula launch --cluster FILE ...",
            file=out,
        )
    print(f"# The plan spans {len(commands)} nodes: run on each its command, with", file=out)
    if any(FIRST_ADDRESS in word for command in commands for word in command.words):
        print("#   FIRST_IP=<address of the first node, as the others reach it>", file=out)
    print("#   OWN_IP=<the node's own address; hostname -I lists them>", file=out)
    for command in commands:
        print(f"# {command.node}\n{settings} {command.line}", file=out)
