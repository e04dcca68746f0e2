"""A tensor group that a module's heads do not divide by: the module is computed by every rank, and learns the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import toy_plans
from test_launch_emulated import cluster

from nebula.launch import launch
from nebula.plan.files import save_plan

SCRIPT = Path(__file__).with_name("whole_heads_script.py")


@pytest.mark.slow
def test_an_ernie_with_three_task_heads_learns_alike_at_tensor_two(tmp_path):
    serial = tmp_path / "serial.json"
    subprocess.run([sys.executable, str(SCRIPT), str(serial)], check=True, env=ranks.base_environment(2), timeout=120)
    save_plan(toy_plans.plan(rows=4, tensor=2, stages=(0, 6), micro_batches=1), tmp_path / "plan.json")
    assert (
        launch(tmp_path / "plan.json", SCRIPT, [str(tmp_path / "cut.json")], cluster=cluster(), log_dir=tmp_path) == 0
    )
    alone, cut = (json.loads(path.read_text()) for path in (serial, tmp_path / "cut.json"))
    assert alone[-1] < 0.8 * alone[0]
    assert cut == pytest.approx(alone, rel=1e-5)
