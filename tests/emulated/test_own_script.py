"""examples/train.py, a user's own script: alone, under `nebula launch`, and started by hand, it learns the same.

So does examples/vision.py, whose model someone else wrote.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import ranks

ROOT = Path(__file__).parents[2]
SCRIPT, RUN = "examples/train.py", "examples/own-layer.yaml"
NEBULA = str(Path(sys.executable).with_name("nebula"))


def run(*words: str | Path, **environment: str) -> str:
    """What a command in the repository's root prints on stdout."""
    env = ranks.base_environment(2) | environment
    done = subprocess.run(list(map(str, words)), cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def losses(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"^step \d+ · loss ([\d.]+)$", text, re.MULTILINE)]


@pytest.fixture(scope="module")
def alone() -> list[float]:
    return losses(run(sys.executable, SCRIPT))


def test_alone_it_learns(alone):
    assert len(alone) == 20
    assert alone[-1] < 0.7 * alone[0]


def test_planned_and_launched_on_emulated_devices(alone, tmp_path):
    run(NEBULA, "plan", RUN, "-o", tmp_path / "plan.json")
    cluster = ROOT / "examples" / "clusters" / "emulated-4.yaml"
    said = run(NEBULA, "launch", "--cluster", cluster, "--logs", tmp_path / "log", tmp_path / "plan.json", SCRIPT)
    assert len(list((tmp_path / "log").glob("workerlog.*"))) == 4
    assert losses(said) == pytest.approx(alone, abs=2e-4)


@pytest.mark.slow
def test_started_by_hand_on_the_plain_cpu(alone, tmp_path):
    run(NEBULA, "plan", RUN, "cluster.nodes.0.count=1", "objective.fixed.data=2", "-o", tmp_path / "plan.json")
    words = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", tmp_path / "log"]
    run(*words, SCRIPT, NEBULA_PLAN=str(tmp_path / "plan.json"))
    assert losses((tmp_path / "log" / "workerlog.0").read_text()) == pytest.approx(alone, abs=2e-4)


@pytest.mark.slow
def test_a_vision_model_of_paddle_is_planned_and_launched_in_two_stages(tmp_path):
    script, cluster = "examples/vision.py", ROOT / "examples" / "clusters" / "emulated-2.yaml"
    run(NEBULA, "plan", "examples/own-vision.yaml", "-o", tmp_path / "plan.json")
    said = run(NEBULA, "launch", "--cluster", cluster, "--logs", tmp_path / "log", tmp_path / "plan.json", script)
    assert len(list((tmp_path / "log").glob("workerlog.*"))) == 2
    own = losses(run(sys.executable, script))
    assert len(own) == 4
    assert losses(said) == pytest.approx(own, abs=2e-4)
