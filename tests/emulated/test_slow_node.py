"""A slow emulated device is found by its rank's own work in virtual time, although all ranks' steps take as long."""

import json
from pathlib import Path

import pytest
import ranks

from nebula.elastic.policy.slow import Pace, Scores, Slowness
from nebula.emulator.table import Fault

WORKER = Path(__file__).with_name("slow_worker.py")
LIMITS, NODES = Slowness(), {0: "a", 1: "b"}
STEPS = LIMITS.windows * LIMITS.window_steps + 2


def scored(folder, faults):
    """The node that is found, and by how much each rank's step takes longer than rank 0's."""
    folder.mkdir()
    ranks.run_emulated(2, WORKER, [folder, STEPS], folder, faults=faults)
    told = [json.loads((folder / f"work.{rank}.json").read_text()) for rank in NODES]
    scores = Scores()
    for done in range(1, STEPS):
        for rank in NODES:
            scores = scores.told(1, {rank: Pace(steps=done, work_s=told[rank]["work_s"][done])}, LIMITS)
    took_s = [sum(one["took_s"][2:]) for one in told]
    return scores.slow(NODES, LIMITS), took_s[1] / took_s[0]


@pytest.mark.slow
def test_a_slow_device_is_found_and_alike_ones_are_not(tmp_path):
    found, ratio = scored(tmp_path / "alike", [])
    assert found is None
    assert ratio == pytest.approx(1.0, rel=0.05)
    found, ratio = scored(tmp_path / "slow", [Fault(rank=1, first_step=0, last_step=STEPS, factor=3.0)])
    assert found is not None
    assert found[0] == "b"
    assert 2.0 < found[1] < 3.5
    assert ratio == pytest.approx(1.0, rel=0.1)
