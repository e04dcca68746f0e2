"""An elastic job whose stages, or slices of weights, are dealt anew: over emulated devices, half of them, and all."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
from elastic_job import Job

CLUSTER = Path(__file__).parents[2] / "examples" / "clusters" / "emulated-4.yaml"
STEPS = 40


def run_file(**fixed):
    run = {
        "model": {"preset": "ernie-3.0-small", "seq_len": 32},
        "cluster": yaml.safe_load(CLUSTER.read_text()),
        "job": {"global_batch": 8, "steps": STEPS},
        "objective": {"fixed": fixed},
        "checkpoint": {"every": 10},
    }
    return yaml.safe_dump(run).replace("{", "{{").replace("}", "}}")


def degrees(job):
    """Of each generation in order: its ranks, and its data, tensor and pipeline degrees."""
    found = re.findall(r"(\d) ranks begin under data (\d) · tensor (\d) .*?pipeline (\d)", job.log())
    return [tuple(map(int, numbers)) for numbers in found]


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "steps.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fixed", "whole", "half"),
    [
        ({"data": 1, "tensor": 1}, (4, 1, 1, 4), (2, 1, 1, 2)),
        ({"data": 1, "pipeline": 2}, (4, 1, 2, 2), (2, 1, 1, 2)),
    ],
    ids=["stages", "slices"],
)
def test_stages_and_slices_are_dealt_anew_from_memory_when_a_node_is_lost_and_back(fixed, whole, half, tmp_path):
    job = Job(tmp_path, nodes="1:2", run=run_file(**fixed))
    calm = [sys.executable, "-m", "nebula.cli.main", "train", "run.yaml", "-o", "calm"]
    subprocess.run(calm, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    job.agent_options = ["--devices", "2"]
    try:
        job.controller().agents("a", "b").wait_step(4, 120)
        job.worker("b").send_signal(signal.SIGKILL)
        job.wait(lambda: job.log().count("training goes on") == 1, 120)
        job.wait_step(20)  # by then its copies of several steps are with its neighbour
        job.kill("b")
        job.wait(lambda: job.log().count("training goes on") == 2, 120)
        job.wait_step(job.last_step() + 2)
        job.agents("b")
        job.end_well("controller", timeout_s=200)
        assert degrees(job) == [whole, whole, half, whole]
        assert job.log().count("from memory at step") == 3
        assert [one["step"] for one in job.steps()] == list(range(1, STEPS + 1))
        undisturbed = losses(tmp_path / "calm")
        found = losses(tmp_path / "run")
        assert max(abs(one - other) for one, other in zip(found, undisturbed, strict=True)) < 1e-5
    finally:
        job.close()
