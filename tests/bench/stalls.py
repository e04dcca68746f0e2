"""What checkpoints every 10 steps cost a training: for how long it stands still, and how much longer it takes in all.

The small ERNIE with its Adam state, data parallel on two processes of this machine's CPU, wall time. Runs that save and
runs that do not follow each other in turn, so that both see the same machine. Training stands still while it waits for
the save before and for copies to host memory; that files are written beside it is in what it takes in all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from nebula.elastic.agent.hang import percentile
from tests.bench.rows import Row

ROUNDS, STEPS, WARM, EVERY = 2, 80, 10, 10
RUN = """
model: {{preset: ernie-3.0-small}}
cluster:
  name: host
  devices: {{core: {{like: cpu}}}}
  nodes:
    - name: host
      count: 1
      device: core
      devices_per_node: 2
      intra: {{kind: memory, bandwidth: 10GB/s, latency: 10us}}
job: {{global_batch: 8, steps: {steps}, precision: fp32}}
objective: {{fixed: {{data: 2}}}}
checkpoint: {{every: {every}, keep: 2}}
"""


def rows() -> list[Row]:
    """Shares of the time, over all rounds."""
    plain_s: list[float] = []
    saving_s: list[float] = []
    stalls_s: list[float] = []
    for _ in range(ROUNDS):
        plain_s += trained(every=10 * STEPS)[0]
        steps_s, stalled_s = trained(every=EVERY)
        saving_s += steps_s
        stalls_s += stalled_s
    interval_s = EVERY * median(plain_s)
    share = [100 * stall_s / interval_s for stall_s in stalls_s]
    return [
        Row(name="a step without checkpoints, median", value=1e3 * median(plain_s), unit="ms"),
        Row(name="stall of a save, median", value=1e3 * median(stalls_s), unit="ms"),
        Row(name=f"stall, of {EVERY} steps' time, median of {len(share)}", value=median(share), unit="%", promise=3.0),
        Row(name=f"stall, of {EVERY} steps' time, 99th percentile", value=percentile(share, 0.99), unit="%"),
        Row(
            name=f"all steps and stalls against none saved, load {os.getloadavg()[0]:.1f}",
            value=100 * ((sum(saving_s) + sum(stalls_s)) / sum(plain_s) - 1),
            unit="%",
        ),
    ]


def trained(*, every: int) -> tuple[list[float], list[float]]:
    """Seconds of each step, and for which each save but the last held it up."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run.yaml").write_text(RUN.format(steps=STEPS, every=every))
        command = [sys.executable, "-m", "nebula.cli.main", "train", "run.yaml", "-o", "run"]
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        steps = [json.loads(line) for line in (Path(folder) / "run" / "steps.jsonl").read_text().splitlines()]
        saves = [json.loads(line) for line in (Path(folder) / "run" / "saves.jsonl").read_text().splitlines()]
    assert {step["clock"] for step in steps} == {"wall"}
    return [step["took_s"] for step in steps[WARM:]], [save["stall_s"] for save in saves[:-1]]


if __name__ == "__main__":
    for row in rows():
        print(row.text())
