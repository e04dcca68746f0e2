"""What `none`, `selective` and `full` recomputation keep in the cost model is what they keep on the device."""

from __future__ import annotations

import json
from pathlib import Path

import ranks

WORKER = Path(__file__).with_name("recompute_memory_worker.py")


def test_each_policy_keeps_what_the_cost_model_says(tmp_path):
    logs = ranks.run_emulated(1, WORKER, [], tmp_path)
    found = json.loads((logs / "workerlog.0").read_text().strip().splitlines()[-1])
    assert len(found) == 6
    for case in found:
        assert case["measured"] == case["predicted"], case
    none, selective, full = (case["measured"] for case in found[:3])
    assert none > selective > full
