"""How often a job that is well is taken to hang: thousands of real steps, while bursts of other work slow the host.

Two workers of a small model of one's own on this machine's cores; every few seconds, at times drawn from a seed,
processes that compute take the cores for a while. NEBULA_BENCH_STEPS sets how many steps.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
from elastic_job import RUN, Job

from tests.bench.recovery import events
from tests.bench.rows import Row

SEED = 6
STEPS = int(os.environ.get("NEBULA_BENCH_STEPS", "10000"))
SCRIPT = Path(__file__).with_name("alarms_training.py")
MODEL = f'{{{{layer: "{SCRIPT.stem}:factory", inputs: {{{{x: {{{{shape: [rows, 64], dtype: float32}}}}}}}}}}}}'
SPINNERS = 4


def rows() -> list[Row]:
    """Alarms among the steps, and how uneven the steps were."""
    run = RUN.replace("{{preset: ernie-3.0-small, seq_len: 16}}", MODEL).replace("global_batch: 2", "global_batch: 32")
    run += "objective: {{fixed: {{data: 2}}}}\n"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / SCRIPT.name).symlink_to(SCRIPT)
        job = Job(Path(folder), steps=STEPS, run=run, options=("--script", f"{SCRIPT} {STEPS}"))
        over = threading.Event()
        bursts = threading.Thread(target=disturb, args=(over,))
        try:
            job.controller().agents("a", "b")
            bursts.start()
            job.end_well("controller", timeout_s=3600)
            failed = [*events(job, "hang"), *events(job, "failed")]
        finally:
            over.set()
            job.close()
            bursts.join()
    for event in failed:
        print(f"   {event['because']}", flush=True)
    return [
        Row(name=f"false alarms in {STEPS} steps, load {os.getloadavg()[0]:.1f}", value=len(failed), unit="", promise=1)
    ]


def disturb(over: threading.Event) -> None:
    """Takes the cores for up to three seconds, again and again."""
    draw = random.Random(SEED)
    while not over.wait(draw.uniform(2.0, 8.0)):
        spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(SPINNERS)]
        over.wait(draw.uniform(0.5, 3.0))
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
