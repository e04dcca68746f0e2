"""The small decoder with experts, trained by nebula.launch.training: dealt over ranks as it is alone."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import toy_plans
from safetensors.numpy import load_file
from test_launch_emulated import TRAINING, cluster

from nebula.launch.training import train
from nebula.plan.files import save_plan

DECODER = replace(TRAINING, preset="ernie-4.5-small", steps=6)
DEALT = toy_plans.dealt(
    toy_plans.unlike(((0, 3), [((0,), 3), ((1,), 1)]), ((3, 6), [((2,), 2), ((3,), 2)]), micro_batches=2, rows=8), 2, 2
)


def run(folder, where, plan):
    folder.mkdir()
    save_plan(plan, folder / "plan.json")
    assert train(folder / "plan.json", DECODER, run_dir=folder, cluster=where, out=io.StringIO()) == 0
    return [json.loads(line)["loss"] for line in (folder / "steps.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_dealt_experts_train_as_one_process_does(tmp_path):
    alone = run(tmp_path / "serial", cluster(kind="cpu", emulated=False), toy_plans.plan(rows=8, micro_batches=1))
    dealt = run(tmp_path / "dealt", cluster(), DEALT)
    assert alone[-1] < alone[0]
    np.testing.assert_allclose(dealt, alone, rtol=1e-5)
    whole, gathered = (load_file(tmp_path / name / "weights.safetensors") for name in ("serial", "dealt"))
    assert set(whole) == set(gathered)
    assert any(name.endswith("router.balance") for name in whole)
    for name, array in whole.items():
        np.testing.assert_allclose(gathered[name], array, atol=1e-4)
