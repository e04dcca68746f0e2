"""A built-in model's training that is killed goes on from its checkpoint, under another plan, as if it had not been."""

import io
import json
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from test_launch_emulated import TRAINING, cluster
from toy_plans import plan

from nebula.checkpoint.folder import checkpoints
from nebula.checkpoint.policy import Policy
from nebula.errors import RunFailed
from nebula.launch.training import train
from nebula.plan.files import save_plan

STEPS, EVERY, KILLED = 7, 4, 6
SAVING = replace(TRAINING, steps=STEPS, checkpoint=Policy(every=EVERY, keep=2))
BEFORE, AFTER = {"data": 2, "stages": (0, 11), "micro_batches": 2}, {"stages": (0, 5, 11), "micro_batches": 2}


def start(folder, training, out=None, rows=8, **split):
    folder.mkdir(exist_ok=True)
    save_plan(plan(rows=rows, **split), folder / "plan.json", overwrite=True)
    return train(folder / "plan.json", training, run_dir=folder, cluster=cluster(), out=out or io.StringIO())


def steps(folder):
    path = folder / "steps.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def kill_a_rank(folder, after):
    """Kills one rank of the run in that folder once it has done `after` steps."""
    while len(steps(folder)) < after:
        time.sleep(0.02)
    ours = [child for child in psutil.Process().children(recursive=True) if str(folder) in child.cmdline()]
    workers = [child for child in ours if "entry/train.py" in " ".join(child.cmdline()[:3])]
    workers[-1].kill()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resumed")
    killer = threading.Thread(target=kill_a_rank, args=[folder / "killed", KILLED])
    killer.start()
    (folder / "killed").mkdir()
    with pytest.raises(
        RunFailed,
        match=f"(SIGKILL|the system kills a process).*; step {EVERY} is saved: nebula train --resume goes on from it",
    ):
        start(folder / "killed", SAVING, **BEFORE)
    killer.join()
    before = steps(folder / "killed")
    out = io.StringIO()
    start(folder / "killed", replace(SAVING, resume=True), out, **AFTER)
    return folder / "killed", before, out.getvalue()


def test_the_losses_go_on_as_those_of_the_run_that_was_killed(runs):
    folder, before, _ = runs
    assert [step["step"] for step in steps(folder)] == list(range(1, STEPS + 1))
    losses, expected = ([step["loss"] for step in run] for run in (steps(folder), before))
    assert len(expected) >= KILLED > EVERY + 1
    assert losses[:EVERY] == expected[:EVERY]
    assert np.allclose(losses[EVERY : len(expected)], expected[EVERY:], rtol=1e-5, atol=0)


def test_the_run_says_where_it_goes_on(runs):
    folder, _, out = runs
    path = folder / "checkpoints" / f"step-{EVERY:08}"
    assert f"resumed from {path}, saved under another plan (data 2 · " in out
    assert f"training goes on at step {EVERY + 1}\nstep {EVERY + 1} · loss" in out


def test_the_last_step_is_saved_too(runs):
    folder, _, _ = runs
    assert [one.step for one in checkpoints(folder / "checkpoints")] == [EVERY, STEPS]
    saves = [json.loads(line) for line in (folder / "saves.jsonl").read_text().splitlines()]
    assert [save["step"] for save in saves] == [EVERY, STEPS]
