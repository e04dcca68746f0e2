"""Ranks over gloo meet whoever comes first, and groups made one after the other never take each other's keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from test_launch_cpu import plain_environment

SCRIPT = Path(__file__).parent / "groups_script.py"


def test_groups_that_overlap_and_follow_each_other_sum_over_their_own_ranks(tmp_path):
    words = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "4", "--log_dir", str(tmp_path)]
    done = subprocess.run(
        [*words, str(SCRIPT), str(tmp_path / "sums")], env=plain_environment(), timeout=120, capture_output=True
    )
    logs = "\n".join(path.read_text()[-1500:] for path in tmp_path.glob("workerlog.*"))
    assert done.returncode == 0, logs
    for rank in range(4):
        sums = json.loads((tmp_path / f"sums.{rank}").read_text())
        assert len(sums) == 9
        assert all(total == sum(ranks) for ranks, total in sums)
