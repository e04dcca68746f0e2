"""Command lines, environments, the emulator's table and the reading of logs, without starting anything."""

import dataclasses
import subprocess
from pathlib import Path

import pytest

from nebula.cluster.values import Cluster, DeviceType, Link, NodeGroup
from nebula.errors import BadInput
from nebula.launch.command import device_types, environment, is_emulated, node_commands
from nebula.launch.emulate import device_table, emulated_device
from nebula.launch.logs import first_failure
from nebula.launch.process import address
from nebula.plan.values import RankPlace
from nebula.runtime.serial import serial_plan

NPU = DeviceType(
    name="toy-npu",
    kind="npu",
    peak_flops={"float32": 1e12, "bfloat16": 4e12},
    memory_bytes=2**30,
    memory_bytes_per_s=1e11,
    product_efficiency=0.5,
    memory_efficiency=0.8,
    emulated=True,
)


def cluster(device=NPU, **group):
    intra = Link(kind="pcie", bytes_per_s=2e10, latency_s=5e-6)
    nic = Link(kind="ethernet", bytes_per_s=1e9, latency_s=1e-5)
    nodes = {"name": "n", "count": 2, "devices_per_node": 2, **group}
    return Cluster(name="toy", groups=(NodeGroup(device=device, intra=intra, nic=nic, **nodes),))


def plan(*places):
    return dataclasses.replace(serial_plan(global_batch=8), ranks=tuple(RankPlace(*place) for place in places))


TWO_NODES = plan(("n/0", 0), ("n/0", 1), ("n/1", 0), ("n/1", 1))


def commands(made, device=NPU, **more):
    types = device_types(cluster(device), made)
    return node_commands(made, "s.py", ["a=b"], types=types, log_dir="log", python="python", **more)


def test_emulated_ranks_of_all_nodes_run_on_this_host():
    (only,) = commands(TWO_NODES)
    assert only.ranks == 4
    assert "--devices 0,1,2,3" in only.line
    assert "--nnodes" not in only.line
    assert only.line.endswith("--log_dir log s.py a=b")


def test_real_nodes_get_a_command_each():
    first, second = commands(TWO_NODES, dataclasses.replace(NPU, emulated=False), master="10.0.0.1:8975")
    assert (first.node, second.node) == ("n/0", "n/1")
    assert "--master 10.0.0.1:8975 --host 10.0.0.1 --nnodes 2 --rank 0 --devices 0,1" in first.line
    assert '--master 10.0.0.1:8975 --host "$OWN_IP" --nnodes 2 --rank 1 --devices 0,1' in second.line


def test_addresses_that_nobody_gave_are_left_to_the_readers_shell():
    first, second = commands(TWO_NODES, dataclasses.replace(NPU, emulated=False))
    for command, own in ((first, "10.0.0.1"), (second, "10.0.0.2")):
        line = command.line[command.line.index("--master") :]
        env = {"FIRST_IP": "10.0.0.1", "OWN_IP": "10.0.0.2"}
        said = subprocess.run(["sh", "-c", f"echo {line}"], env=env, capture_output=True, text=True, check=True).stdout
        assert said.startswith(f"--master 10.0.0.1:8975 --host {own} --nnodes 2")


def test_master_is_an_address_with_a_port():
    assert address("") == ""
    assert address("10.0.0.1:80") == "10.0.0.1:80"
    assert address("localhost:80") == "127.0.0.1:80"
    with pytest.raises(BadInput, match="--master node1: write it as HOST:PORT, such as node1:8975"):
        address("node1")
    with pytest.raises(BadInput, match=r"nobody knows the name nowhere\.invalid"):
        address("nowhere.invalid:80")


def test_plain_cpus_are_counted_not_numbered():
    (only,) = commands(plan(("n/0", 0), ("n/0", 1)), dataclasses.replace(NPU, emulated=False, kind="cpu"))
    assert "--nproc_per_node 2" in only.line
    assert "--devices" not in only.line


def test_backend_is_left_to_paddle():
    assert "gloo" not in commands(TWO_NODES)[0].line


def test_ranks_must_fill_node_after_node():
    with pytest.raises(BadInput, match="neighbouring ranks"):
        commands(plan(("n/0", 0), ("n/1", 0), ("n/0", 1)), dataclasses.replace(NPU, emulated=False))


def test_emulated_and_real_devices_do_not_mix():
    with pytest.raises(BadInput, match=r"toy-npu.*real"):
        is_emulated([NPU, dataclasses.replace(NPU, emulated=False, name="real")])


def test_plain_cpus_may_stand_beside_emulated_devices():
    assert is_emulated([NPU, dataclasses.replace(NPU, emulated=False, kind="cpu", name="cpu")])
    assert not is_emulated([dataclasses.replace(NPU, emulated=False, kind="cpu", name="cpu")])


def test_callers_settings_win_and_threads_are_shared_out():
    env = environment({"OMP_NUM_THREADS": "7"}, "/p.json", ranks=4, cores=2)
    assert env["OMP_NUM_THREADS"] == "7"
    assert env["NEBULA_PLAN"] == "/p.json"
    assert environment({}, "/p.json", ranks=2, cores=8)["OMP_NUM_THREADS"] == "4"
    assert environment({}, "/p.json", ranks=4, cores=2)["OMP_NUM_THREADS"] == "1"


def test_table_holds_attainable_rates_and_what_lies_between_devices(tmp_path):
    table = device_table(cluster(), TWO_NODES, tmp_path / "table").read_text().splitlines()
    devices = [line.split() for line in table if line.startswith("device")]
    assert len(devices) == 4
    assert float(devices[0][3]) == 0.5e12
    assert float(devices[0][4]) == 2e12
    links = {tuple(line.split()[1:3]): line.split()[3:] for line in table if line.startswith("link")}
    assert float(links["0", "1"][0]) == 2e10
    assert float(links["0", "2"][0]) == 0.5e9
    assert len(links) == 12


def test_slow_node_is_slower_in_everything_that_it_computes():
    slow = emulated_device(cluster(slow=((1, 2.0),)), 2)
    sound = emulated_device(cluster(slow=((1, 2.0),)), 0)
    assert slow.float32_flops_per_s == sound.float32_flops_per_s / 2
    assert slow.memory_bytes_per_s == sound.memory_bytes_per_s / 2
    assert slow.kernel_s == sound.kernel_s * 2


def test_place_that_the_cluster_lacks_is_named(tmp_path):
    with pytest.raises(BadInput, match="n/2"):
        device_table(cluster(), plan(("n/2", 0)), tmp_path / "table")


def write_logs(folder: Path, *texts: str) -> Path:
    for rank, text in enumerate(texts):
        (folder / f"workerlog.{rank}").write_text(text)
    return folder


LOST_PEER = "terminate called after 'gloo::IoException'\nFatalError: `Process abort signal` is detected\n"


def test_the_rank_with_an_error_of_its_own_is_blamed(tmp_path):
    logs = write_logs(tmp_path, LOST_PEER, "step 1\nMemoryError: 2 GiB too much\n", LOST_PEER)
    failure = first_failure(logs, "Container failed !!!\nContainer rank 0 status failed cmd")
    assert failure.rank == 1
    assert failure.cause == "MemoryError: 2 GiB too much"


def test_a_rank_that_fell_silent_is_blamed_before_those_that_lost_it(tmp_path):
    failure = first_failure(write_logs(tmp_path, LOST_PEER, "step 1\n"), "Container rank 0 status failed cmd")
    assert failure.rank == 1
    assert failure.cause.startswith("it ended without a word, as when the system kills a process")


def test_the_rank_that_paddle_names_is_blamed_when_all_lost_a_peer(tmp_path):
    logs = write_logs(tmp_path, LOST_PEER, LOST_PEER)
    said = "Container failed !!!\nContainer rank 1 status failed cmd ['python'] code 1 log workerlog.1"
    assert first_failure(logs, said).rank == 1


def test_no_log_at_all_shows_the_launchers_own(tmp_path):
    failure = first_failure(tmp_path, "usage: launch.py\nlaunch.py: no such device\n")
    assert failure.cause == "launch.py: no such device"
    assert failure.log.name == "launcher.log"


@pytest.mark.parametrize(("code", "ending"), [(3, "exit 3"), (-9, "killed by SIGKILL"), (-11, "killed by SIGSEGV")])
def test_a_silent_rank_that_the_launcher_saw_is_told_with_its_code(tmp_path, code, ending):
    said = f"Container rank 1 status failed cmd ['python'] code {code} log workerlog.1"
    failure = first_failure(write_logs(tmp_path, "step 1\n", "step 1\n"), said)
    assert failure.rank == 1
    assert failure.ending.startswith(ending)
    assert failure.cause == "it ended without a word"
