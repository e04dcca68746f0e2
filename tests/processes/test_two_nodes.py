"""Two nodes on one machine: two launchers that know each other by address alone train like one process."""

import io
import json
import shlex
import socket
import subprocess

import psutil
from test_launch_cpu import CPU, LINK, SCRIPT, plain_environment, serial_losses  # noqa: F401  (a fixture)

from nebula.cluster.values import Cluster, NodeGroup
from nebula.launch import launch
from nebula.plan.files import save_plan
from nebula.plan.layout import uniform_stages
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Sharding

FIRST, SECOND = "127.0.0.2", "127.0.0.3"
NODES = Cluster(
    name="pair", groups=(NodeGroup(name="n", count=2, device=CPU, devices_per_node=1, intra=LINK, nic=LINK),)
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def printed_commands(folder):
    """What `launch` prints for a plan over two nodes, a shell line each."""
    plan = Plan(
        stages=uniform_stages(boundaries=(0, 3), data=2, tensor=1, sharding=Sharding(), micro_batch_rows=4),
        micro_batches=2,
        schedule="1f1b",
        engine="fleet",
        ranks=(RankPlace("n/0", 0), RankPlace("n/1", 0)),
        job=Job(global_batch=16),
        made_from=MadeFrom(model="", model_hash="", cluster="pair", cluster_hash=""),
    )
    save_plan(plan, folder / "a plan.json")
    out, port = io.StringIO(), free_port()
    words = [str(folder / "losses")]
    master = f"{FIRST}:{port}"
    launch(folder / "a plan.json", SCRIPT, words, cluster=NODES, log_dir=folder / "log", master=master, out=out)
    return [line for line in out.getvalue().splitlines() if not line.startswith("#")]


def test_without_a_cluster_the_way_to_emulated_devices_is_said(tmp_path):
    printed_commands(tmp_path)
    out = io.StringIO()
    assert launch(tmp_path / "a plan.json", SCRIPT, log_dir=tmp_path / "log", out=out) == 0
    assert "nebula launch --cluster" in out.getvalue()
    assert "#   FIRST_IP=" in out.getvalue()
    assert not (tmp_path / "log").exists()


def test_printed_commands_train_over_two_addresses(tmp_path, serial_losses):  # noqa: F811
    lines = printed_commands(tmp_path)
    assert len(lines) == 2
    env = plain_environment(OWN_IP=SECOND)
    # the two nodes of this test share a folder, which two machines do not
    lines[1] = lines[1].replace(shlex.quote(str(tmp_path / "log")), shlex.quote(str(tmp_path / "log.second")))
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    nodes = [subprocess.Popen(["sh", "-c", f"exec env {line}"], env=env, **silent) for line in lines]
    try:
        codes = [node.wait(timeout=90) for node in nodes]
    finally:
        for node in nodes:
            end(node)
    logs = "\n".join(path.read_text() for path in sorted(tmp_path.glob("log*/*")))
    assert codes == [0, 0], logs[-3000:]
    losses = json.loads((tmp_path / "losses").read_text())
    assert max(abs(a - b) / b for a, b in zip(losses, serial_losses, strict=True)) < 1e-5


def end(node):
    """Ends a launcher that still runs, and its ranks."""
    if node.poll() is None:
        for process in (*psutil.Process(node.pid).children(recursive=True), node):
            process.kill()
        node.wait()
