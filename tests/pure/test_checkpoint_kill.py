"""A process that is killed at any moment of a save leaves a whole checkpoint: no load is ever torn."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import checkpoint_saver as saver
import numpy as np
import pytest

from nebula.checkpoint.folder import checkpoints, newest, sweep
from nebula.checkpoint.reader import Reader

LONGEST_S = 0.06
"""From the first checkpoint of a process to its end: about ten saves."""


def kill_while_saving(folder: Path, rng: random.Random) -> int:
    """Starts a saver, kills it at a random moment and returns how many half-written folders it left."""
    with subprocess.Popen(
        [sys.executable, saver.__file__, str(folder)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"saving\n"
        time.sleep(rng.uniform(0, LONGEST_S))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    return sum(path.name.startswith(".") for path in folder.iterdir())


def check_whole(folder: Path) -> int:
    """Every checkpoint that a reader accepts holds what its step saved; the newest step."""
    complete = [one for one in checkpoints(folder) if one.complete]
    for one in complete:
        reader = Reader(one.path)
        reader.verify()
        assert np.array_equal(reader.read("model/weight"), saver.content(one.step))
        for rank in range(saver.RANKS):
            assert (reader.read(f"random/{rank}") == one.step % 256).all()
    assert all(one.complete for one in checkpoints(folder))
    assert 1 <= len(complete) <= saver.KEEP + 1
    return complete[-1].step


@pytest.mark.parametrize(
    "kills", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(900)])], ids=lambda n: f"{n} kills"
)
def test_no_kill_tears_a_checkpoint(tmp_path, kills, capsys):
    seed = random.SystemRandom().randrange(2**32)
    rng, before, torn = random.Random(seed), 0, 0
    for kill in range(kills):
        torn += bool(kill_while_saving(tmp_path, rng))
        step = check_whole(tmp_path)
        assert step > before, f"seed {seed}, kill {kill}: a checkpoint was lost"
        before = step
    assert torn >= kills // 5, f"seed {seed}: only {torn} of {kills} kills fell into a save"
    with capsys.disabled():
        print(f"\n{kills} kills, {torn} of them within a save or a removal, {before} checkpoints, 0 torn loads")


def test_what_a_kill_leaves_is_swept(tmp_path):
    (tmp_path / ".saving-step-00000009-dead").mkdir()
    (tmp_path / ".saving-step-00000009-dead" / "rank-00000.safetensors").write_bytes(b"half")
    (tmp_path / ".removing-step-00000001").mkdir()
    (tmp_path / ".notes").mkdir()
    assert newest(tmp_path) is None
    assert sweep(tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == [".notes"]
