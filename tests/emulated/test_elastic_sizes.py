"""An elastic job over emulated devices of two types: four nodes, three, two and four again, each under its own plan."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
from elastic_job import Job

STEPS = 32
RUN = """
model: {{preset: ernie-3.0-small, seq_len: 32}}
cluster:
  name: unlike
  devices:
    quick: {{kind: npu, emulated: true, peak_flops: {{fp32: 40e9}}, memory: 512MiB, memory_bandwidth: 20GB/s}}
    small: {{kind: npu, emulated: true, peak_flops: {{fp32: 20e9}}, memory: 512MiB, memory_bandwidth: 20GB/s}}
  nodes:
    - {{name: quick, count: 2, device: quick, devices_per_node: 1, intra: &bus {{kind: pcie, bandwidth: 1GB/s,
       latency: 20us}}, nic: &nic {{count: 1, bandwidth: 1GB/s, latency: 50us}}}}
    - {{name: small, count: 2, device: small, devices_per_node: 1, intra: *bus, nic: *nic}}
job: {{global_batch: 8, steps: {steps}, precision: fp32}}
checkpoint: {{every: {every}}}
"""


def plans(job):
    """Ranks and split of each generation, in order."""
    return re.findall(r"(\d) ranks begin under (.*?), (?:from|with)", job.log())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_three_two_and_four_nodes_of_two_types_train_as_undisturbed_ones(tmp_path):
    job = Job(tmp_path, steps=STEPS, nodes="2:4", run=RUN)
    calm = [sys.executable, "-m", "nebula.cli.main", "train", "run.yaml", "-o", "calm"]
    subprocess.run(calm, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    try:
        job.controller().agents("a", "b", "c", "d").wait_step(5, 120)
        for lost in "dc":
            told = job.log().count("training goes on")
            job.kill(lost)
            job.wait(lambda told=told: job.log().count("training goes on") > told, 120)
            job.wait_step(job.last_step() + 3)
        job.agents("c", "d")
        job.wait(lambda: job.log().count("4 ranks begin") == 2, 120)
        job.end_well("controller", timeout_s=300)
        assert job.log().count("from memory at step") == 3
        sizes = [int(count) for count, _ in plans(job)]
        assert [size for size, before in zip(sizes, [0, *sizes], strict=False) if size != before][:3] == [4, 3, 2]
        assert sizes[-1] == 4
        assert len({split for _, split in plans(job)}) >= 3
        undisturbed = (tmp_path / "calm" / "steps.jsonl").read_text()
        found = [one["loss"] for one in job.steps()]
        expected = [float(loss) for loss in re.findall(r'"loss": ([\d.e-]+)', undisturbed)]
        assert len(found) == len(expected) == STEPS
        assert max(abs(one - other) for one, other in zip(found, expected, strict=True)) < 1e-5
    finally:
        job.close()
