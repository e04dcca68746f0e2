"""An elastic job over a pipeline of emulated devices: four stages, two when a node is lost, four when it is back."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
from elastic_job import Job

CLUSTER = Path(__file__).parents[2] / "examples" / "clusters" / "emulated-4.yaml"


def run_file(steps):
    run = {
        "model": {"preset": "ernie-3.0-small"},
        "cluster": yaml.safe_load(CLUSTER.read_text()),
        "job": {"global_batch": 8, "steps": steps},
        "checkpoint": {"every": 10},
    }
    return yaml.safe_dump(run).replace("{", "{{").replace("}", "}}")


@pytest.mark.slow
def test_stages_are_dealt_anew_from_memory_when_a_node_is_lost_and_back(tmp_path):
    job = Job(tmp_path, nodes="1:2", run=run_file(36))
    job.agent_options = ["--devices", "2"]
    try:
        job.controller().agents("a", "b").wait_step(5, 120)
        job.worker("b").send_signal(signal.SIGKILL)
        job.wait(lambda: job.log().count("training goes on") == 1, 120)
        job.wait_step(14)
        job.kill("b")
        job.wait(lambda: job.log().count("training goes on") == 2, 120)
        job.wait_step(job.last_step() + 2)
        job.agents("b")
        assert job.ends(timeout_s=200) == 0
        log = job.log()
        assert log.count("4 ranks begin under") == 3
        assert log.count("2 ranks begin under") == 1
        assert log.count("from memory at step") == 3
        assert [one["step"] for one in job.steps()] == list(range(1, 37))
        assert job.steps()[-1]["loss"] < 16.0 < job.steps()[0]["loss"]
    finally:
        job.close()
