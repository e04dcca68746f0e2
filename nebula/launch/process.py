"""Starts a plan's processes on this machine and watches them to their end.

Refuses a plan made for another cluster. With several nodes nothing is started: each node's command is printed.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import psutil

from nebula.cluster.identity import cluster_hash
from nebula.cluster.values import Cluster, DeviceType
from nebula.errors import BadInput, RunFailed
from nebula.launch.command import (
    FIRST_ADDRESS,
    PORT,
    NodeCommand,
    device_types,
    environment,
    is_emulated,
    node_commands,
)
from nebula.launch.emulate import device_table
from nebula.launch.logs import Follower, first_failure
from nebula.plan.files import check_made_for, load_plan
from nebula.plan.legality import executable, kind_of
from nebula.plan.values import Plan

POLL_S = 0.2
GRACE_S = 15.0
"""How long processes may take to end after they were asked to."""


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
        _print_commands(commands, Path(plan_path), out, known=cluster is not None)
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("workerlog.*"):
        old.unlink()
    settings = environment(
        os.environ if env is None else env,
        str(Path(plan_path).resolve()),
        ranks=plan.world_size,
        cores=os.cpu_count() or 1,
    )
    if cluster is not None and is_emulated(types):
        settings |= _emulated(cluster, plan, folder)
    return watch(commands[0], settings, folder, out)


def _types_on(cluster: Cluster, plan: Plan) -> tuple[DeviceType, ...]:
    """The device type of each rank, once the plan is known to fit the cluster and to run on its devices."""
    check_made_for(plan, plan.made_from.model_hash, cluster_hash(cluster), cluster=cluster.name)
    types = device_types(cluster, plan)
    answer = executable(plan, kind_of(cluster))
    if answer.engine is None:
        raise BadInput(f"the plan cannot run on {cluster.name}: {'; '.join(answer.missing)}")
    return types


def _emulated(cluster: Cluster, plan: Plan, folder: Path) -> dict[str, str]:
    from nebula import emulator

    return emulator.environment(device_table(cluster, plan, folder / "devices.table"))


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


def _print_commands(commands: Sequence[NodeCommand], plan_path: Path, out: TextIO, *, known: bool) -> None:
    """What a person copies; `known` says whether the cluster was given, without which all devices count as real."""
    if not known:
        print("# Are the devices emulated? Then give the cluster file: nebula launch --cluster FILE ...", file=out)
    print(f"# The plan spans {len(commands)} nodes: run on each its command, with", file=out)
    if any(FIRST_ADDRESS in word for command in commands for word in command.words):
        print("#   FIRST_IP=<address of the first node, as the others reach it>", file=out)
    print("#   OWN_IP=<the node's own address; hostname -I lists them>", file=out)
    for command in commands:
        print(f"# {command.node}\nNEBULA_PLAN={shlex.quote(str(plan_path))} {command.line}", file=out)


def watch(command: NodeCommand, env: Mapping[str, str], folder: Path, out: TextIO) -> int:
    """Runs a node's command to its end, with rank 0's output on `out`.

    Raises:
        RunFailed: the command ended with another code than 0.
    """
    follower = Follower(folder / "workerlog.0", out)
    with (folder / "launcher.log").open("w") as log:
        # its own session: Ctrl-C reaches this process alone, which then ends the others in order
        process = subprocess.Popen(
            command.words, env=dict(env), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None:
                follower.copy_new()
                time.sleep(POLL_S)
        finally:
            end(process)
    follower.copy_new()
    if process.returncode:
        raise _failed(process.returncode, folder, out)
    return 0


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a launcher and what it started, if they still run: first asked, then made to."""
    if process.poll() is not None:
        return
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=GRACE_S)
    for survivor in alive:
        survivor.kill()
    process.wait()


def _failed(code: int, folder: Path, out: TextIO) -> RunFailed:
    failure = first_failure(folder, (folder / "launcher.log").read_text(errors="replace"))
    if failure.rank:  # what rank 0 said is on `out` already
        print(f"--- last lines of rank {failure.rank} ({failure.log})", *failure.last_lines, sep="\n", file=out)
    cause = failure.cause.removeprefix("nebula: ")
    return RunFailed(f"rank {failure.rank} failed (exit {code}): {cause}; its log is {failure.log}")
