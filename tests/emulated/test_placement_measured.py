"""A placement that is predicted to be faster is faster when it runs: the small ERNIE on two nodes of two devices."""

import json
from pathlib import Path

import pytest

from nebula.cluster.schema import load_cluster
from nebula.launch.training import train
from nebula.models.describe import graph
from nebula.plan.files import save_plan
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.placed_answer import placed_search
from nebula.planner.search import search
from nebula.runtime.training import Training

WHERE = load_cluster(Path(__file__).parents[2] / "examples/clusters/emulated-4.yaml")
ERNIE = graph("ernie-3.0-small", dtype="float32")
STEPS = 3


def trained(folder, find):
    """Predicted and measured seconds of the last step under the plan that is found, and the losses."""
    fixed = {"data": 2, "pipeline": 2, "tensor": 1, "sharding": 0}
    own = find(ERNIE, WHERE, Job(global_batch=8), Objective(fixed=fixed)).plan
    folder.mkdir()
    save_plan(own, folder / "plan.json")
    training = Training(preset="ernie-3.0-small", seq_len=ERNIE.tokens_per_row // 2, steps=STEPS, evaluate=False)
    assert train(folder / "plan.json", training, run_dir=folder, cluster=WHERE) == 0
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return own.prediction.step_time_s, steps[-1]["took_s"], [step["loss"] for step in steps]


@pytest.mark.slow
def test_replicas_in_one_node_train_alike_in_half_the_time(tmp_path):
    told_s, took_s, losses = trained(tmp_path / "placed", placed_search)
    first_told_s, first_took_s, first_losses = trained(tmp_path / "first", search)
    assert took_s == pytest.approx(told_s, rel=0.05)
    assert first_took_s == pytest.approx(first_told_s, rel=0.05)
    assert took_s < 0.55 * first_took_s
    assert losses == pytest.approx(first_losses, rel=1e-5)
