"""`nebula launch` and its like from a shell: arguments reach the script, a failed rank ends the command with 4.

What cannot start replaces nothing that an earlier run left.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NEBULA = Path(sys.executable).with_name("nebula")
CLUSTER = """\
name: here
nodes: [{name: local, count: 1, device: cpu, devices_per_node: 1}]
"""
RUN = """\
model: {preset: ernie-3.0-small}
cluster: here.yaml
job: {global_batch: 2}
"""


EMULATED_RUN = """\
model: {preset: ernie-3.0-small}
cluster:
  name: two
  devices: {toy: {kind: npu, emulated: true, peak_flops: {fp32: 400e9}, memory: 8GiB, memory_bandwidth: 40GB/s}}
  nodes: [{name: one, count: 1, device: toy, devices_per_node: 2, intra: {kind: pcie, bandwidth: 2GB/s, latency: 10us}}]
job: {global_batch: 2}
"""


def nebula(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    settings = os.environ | env
    return subprocess.run([NEBULA, *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("launch")
    (path / "here.yaml").write_text(CLUSTER)
    (path / "run.yaml").write_text(RUN)
    planned = nebula("plan", "run.yaml", "-o", "plan.json", cwd=path)
    assert planned.returncode == 0, planned.stderr
    return path


def test_a_script_gets_its_own_arguments(folder):
    (folder / "script.py").write_text("import sys, nebula\nplan = nebula.init()\nprint(plan.engine, *sys.argv[1:])\n")
    arguments = ("--cluster", "here.yaml", "plan.json", "script.py", "--json", "--rate", "0.1")
    done = nebula("launch", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "serial --json --rate 0.1"


def test_a_failed_rank_ends_with_4_and_names_its_log(folder):
    (folder / "script.py").write_text("raise SystemExit('no data here')\n")
    done = nebula("launch", "--cluster", "here.yaml", "plan.json", "script.py", cwd=folder)
    assert done.returncode == 4
    assert "nebula: rank 0 failed" in done.stderr
    assert "workerlog.0" in done.stderr
    assert "no data here" in done.stdout


def test_a_plan_for_another_cluster_is_not_launched(folder):
    (folder / "script.py").write_text("")
    other = CLUSTER.replace("name: here", "name: elsewhere").replace("device: cpu", "device: T4-16GB")
    (folder / "other.yaml").write_text(other)
    done = nebula("launch", "--cluster", "other.yaml", "plan.json", "script.py", cwd=folder)
    assert done.returncode == 2
    assert "elsewhere" in done.stderr


def test_a_missing_script_is_named(folder):
    done = nebula("launch", "--cluster", "here.yaml", "plan.json", "nothing.py", cwd=folder)
    assert done.returncode == 2
    assert "nothing.py" in done.stderr


@pytest.mark.parametrize(("verb", "within"), [("train", ""), ("rehearse", "serial"), ("rehearse", "split")])
def test_without_a_compiler_nothing_is_replaced(tmp_path, verb, within):
    (tmp_path / "run.yaml").write_text(EMULATED_RUN)
    old = tmp_path / "old" / within
    (old / "checkpoints" / "step-00000010").mkdir(parents=True)
    left = [old / name for name in ("plan.json", "weights.safetensors", "steps.jsonl")]
    left.append(old / "checkpoints" / "step-00000010" / "manifest.json")
    for path in left:
        path.write_text("{}")
    done = nebula(verb, "run.yaml", "-o", "old", "--force", cwd=tmp_path, CXX="nonesuch")
    assert done.returncode == 2
    assert "CXX=nonesuch" in done.stderr
    assert [path.read_text() for path in left] == ["{}"] * len(left)
