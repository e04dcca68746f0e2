"""A quick profile of this machine, for real: its file calibrates the cluster, and a plan made with it says measured."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from nebula.cli.main import app
from nebula.cluster.schema import load_cluster

CLUSTER = """\
name: here
devices: {core: {like: cpu, memory: 2GiB}}
nodes:
  - {name: here, count: 1, device: core, devices_per_node: 2, intra: {kind: gloo, bandwidth: 1GB/s, latency: 200us}}
"""
RUN = """\
model: {preset: ernie-3.0-small}
cluster: cluster.yaml
job: {global_batch: 8, precision: fp32, steps: 2}
"""


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_profile_calibrates_a_cluster_that_plans(tmp_path):
    path, calibration = tmp_path / "cluster.yaml", tmp_path / "calibration.yaml"
    path.write_text(CLUSTER)
    told = json.loads(run("profile", "--cluster", path, "-o", calibration, "--quick", "--json"))
    assert told == yaml.safe_load(calibration.read_text())
    assert told["processes"] == 2
    assert len(told["measured"]["products_s"]) == told["fits"]["products"]["rows"]
    assert {name.split()[0] for name in told["measured"]["collectives_s"]} == {"all_reduce", "broadcast", "all_gather"}

    path.write_text(CLUSTER + "calibration: calibration.yaml\n")
    device = load_cluster(path).groups[0].device
    assert 1e9 < device.peak_flops["float32"] < 1e13
    assert 1e7 < device.memory_bytes_per_s * device.memory_efficiency < 1e12

    (tmp_path / "run.yaml").write_text(RUN)
    answer = json.loads(run("plan", tmp_path / "run.yaml", "--json"))
    provenance = dict(map(tuple, answer["plan"]["prediction"]["provenance"]))
    assert set(provenance.values()) == {"measured"}


def test_a_device_without_room_is_refused_before_anything_starts(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER.replace("2GiB", "256MiB"))
    result = CliRunner().invoke(app, ["profile", "--cluster", str(path)])
    assert result.exit_code == 2
    assert "core has 256 MiB; a profile needs devices of at least 2 GiB" in result.output
