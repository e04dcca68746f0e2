"""Discovery: drivers' outputs turned into clusters, a timed CPU where there is no driver, nodes of a Slurm job."""

import time
import warnings

import pytest

from nebula.cluster import cpu, drivers
from nebula.cluster.discover import discover, run_command
from nebula.cluster.schema import dump_cluster, load_cluster
from nebula.errors import Suspicious
from nebula.marked_yaml import parse

H200 = "NVIDIA H200, 143771, 5\n"
H200_LINKS = "\t\x1b[4mGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\nGPU0\t X \t0-15\t0\t\tN/A\n"
A100 = "NVIDIA A100-SXM4-80GB, 81920, 4\n" * 4
A100_LINKS = """\
\tGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tCPU Affinity
GPU0\t X \tNV12\tNV12\tNV12\tPXB\t0-31
GPU1\tNV12\t X \tNV12\tNV12\tSYS\t0-31
GPU2\tNV12\tNV12\t X \tNV12\tSYS\t0-31
GPU3\tNV12\tNV12\tNV12\t X \tSYS\t0-31
NIC0\tPXB\tSYS\tSYS\tSYS\t X
"""
NPUS = """\
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B2               | OK            | 93.6        44                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3162 / 65536         |
+===========================+===============+====================================================+
| 1     910B2               | OK            | 90.1        43                0    / 0             |
| 0                         | 0000:01:00.0  | 0           0    / 0          3161 / 65536         |
+===========================+===============+====================================================+
"""


def answers(**outputs):
    """A machine whose commands print these; the key is the command's first or last word."""

    def run(command):
        return outputs.get("links" if "topo" in command else command[0].replace("-", "_"), "")

    return run


def found(tmp_path, env=None, **outputs):
    return discover(env or {}, answers(**outputs), tmp_path)


def test_one_h200(tmp_path):
    (group,) = found(tmp_path, nvidia_smi=H200, links=H200_LINKS).groups
    assert (group.count, group.devices_per_node, group.device.name) == (1, 1, "H200")
    assert group.intra.kind == "none"


def test_four_a100_with_nvlink(tmp_path):
    (group,) = found(tmp_path, nvidia_smi=A100, links=A100_LINKS).groups
    assert (group.devices_per_node, group.device.name) == (4, "A100-80GB-SXM")
    assert (group.intra.kind, group.intra.bytes_per_s) == ("nvswitch", 12 * 25e9)


@pytest.mark.parametrize("links", ["", A100_LINKS.replace("GPU2\tNV12", "GPU2\tSYS")])
def test_gpus_without_nvlink_between_all_go_over_pcie(tmp_path, links):
    (group,) = found(tmp_path, nvidia_smi=A100, links=links).groups
    assert (group.intra.kind, group.intra.bytes_per_s) == ("pcie", 24e9)


def test_two_ascend(tmp_path):
    (group,) = found(tmp_path, npu_smi=NPUS).groups
    assert (group.devices_per_node, group.device.name, group.device.kind) == (2, "Ascend-910B", "npu")
    assert (group.intra.kind, group.intra.bytes_per_s) == ("hccs", 196e9)


def test_the_drivers_memory_counts(tmp_path):
    (group,) = found(tmp_path, nvidia_smi="Tesla T4, 7680, 3\n").groups
    assert group.device.name == "T4-16GB 8GiB"
    assert group.device.memory_bytes == 7680 * 2**20
    assert dict(group.device.sources)["memory_bytes"] == "nvidia-smi"


def test_an_unknown_gpu_is_assumed_with_a_warning(tmp_path):
    with pytest.warns(Suspicious, match="the catalogue has no 'GeForce 9'; figures of A100-40GB-SXM are assumed"):
        (group,) = found(tmp_path, nvidia_smi="GeForce 9, 24576, 4\n").groups
    assert (group.device.name, group.device.memory_bytes) == ("GeForce 9", 24 * 2**30)
    assert dict(group.device.sources)["peak_flops"] == "assumed, as A100-40GB-SXM"


def test_mixed_gpus_warn(tmp_path):
    with pytest.warns(Suspicious, match="A100-SXM4-80GB is taken, Tesla T4 left out"):
        (group,) = found(tmp_path, nvidia_smi=A100 + "Tesla T4, 15360, 3\n").groups
    assert group.devices_per_node == 4


def test_nodes_of_a_slurm_job_and_their_network(tmp_path):
    env = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_CLUSTER_NAME": "big"}
    for card in ("mlx5_0", "mlx5_1"):
        port = tmp_path / "sys/class/infiniband" / card / "ports/1"
        port.mkdir(parents=True)
        (port / "rate").write_text("200 Gb/sec (4X HDR)\n")
    cluster = found(tmp_path, env, nvidia_smi=A100, links=A100_LINKS)
    (group,) = cluster.groups
    assert (cluster.name, group.count, group.nic_count) == ("big", 3, 2)
    assert (group.nic.kind, group.nic.bytes_per_s) == ("infiniband", 25e9)
    assert "n[1-3]" in dict(cluster.origin)["nodes"]
    assert load_cluster(parse(dump_cluster(cluster), "x")) == cluster


@pytest.mark.parametrize(("speed", "rate"), [("25000\n", 25e9 / 8), ("-1\n", 1.25e9)])
def test_ethernet(tmp_path, speed, rate):
    card = tmp_path / "sys/class/net/eth0"
    (card / "device").mkdir(parents=True)
    (card / "speed").write_text(speed)
    (group,) = found(tmp_path, {"SLURM_NNODES": "2"}, nvidia_smi=H200).groups
    assert (group.nic.kind, group.nic.bytes_per_s) == ("ethernet", rate)


def test_a_machine_without_drivers_is_its_timed_cpu(tmp_path):
    begin = time.perf_counter()
    cluster = found(tmp_path)
    assert time.perf_counter() - begin < 10
    (group,) = cluster.groups
    assert group.device.kind == "cpu"
    assert 1 <= group.devices_per_node <= cpu.MOST_DEVICES
    assert 1e8 < group.device.peak("float32") * group.devices_per_node < 1e14
    assert 1e8 < group.device.memory_bytes_per_s * group.devices_per_node < 1e13
    assert dict(group.device.sources)["peak_flops"].startswith("measured")
    assert load_cluster(parse(dump_cluster(cluster), "x")) == cluster


def test_a_containers_limits_count(tmp_path):
    control = tmp_path / "sys/fs/cgroup"
    control.mkdir(parents=True)
    (control / "cpu.max").write_text("100000 100000\n")
    (control / "memory.max").write_text("1073741824\n")
    assert cpu.usable_cores(tmp_path) == 1
    assert cpu.memory_bytes(tmp_path) == 2**30
    (control / "cpu.max").write_text("max 100000\n")
    (control / "memory.max").write_text("max\n")
    assert cpu.usable_cores(tmp_path) >= 1
    assert cpu.memory_bytes(tmp_path) > 2**30


def test_this_machine():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Suspicious)
        cluster = discover()
    assert cluster.device_count >= 1
    assert cluster.origin


def test_odd_names_still_make_a_file_that_loads(monkeypatch):
    def run(command):
        return "\x1b[4mGPU of\x00 the future" + "!" * 300 + ", 81920, 4\n" if command == drivers.NVIDIA_QUERY else ""

    with pytest.warns(Suspicious, match="the catalogue has no"):
        found = discover({"SLURM_CLUSTER_NAME": "a/b\n"}, run)
    assert found.name == "a-b"
    assert found.groups[0].device.name.startswith("[4mGPU of the future!")
    assert load_cluster(parse(dump_cluster(found), "f")).groups == found.groups
    with pytest.warns(Suspicious):
        assert discover({"SLURM_CLUSTER_NAME": "\x07"}, run).name == "this-machine"


def test_a_driver_that_prints_other_bytes_is_read():
    assert run_command(["printf", r"GPU \377"]) == "GPU \ufffd"
