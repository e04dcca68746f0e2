"""How soon a rank that hangs is seen: stopped, in a dead loop, holding the interpreter's lock, waiting for data.

Two workers of the small ERNIE with its Adam state on this machine's cores, wall time; `nebula chaos` kinds on nodes in
turn, wherever their workers are in a step. What is promised follows from the job's own steps: max(2 s, 5 x the 99th
percentile). NEBULA_BENCH_HANGS sets how many.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median

from nebula.elastic.agent.hang import long_step, percentile
from tests.bench.recovery import Job, events, nth, settle
from tests.bench.rows import Row, say_load

HANGS = int(os.environ.get("NEBULA_BENCH_HANGS", "20"))
KINDS = ("freeze", "loop", "lock", "data")
LEARNED = 120
"""Steps before the first, from which the job learns how long a step may take."""
KEPT = 256
"""Of so many steps the promise follows, not counting those that hung."""


def rows() -> list[Row]:
    """From the fault to the moment at which it was seen, and what was promised then."""
    seen, told, share, well, since, false = [], [], [], [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        one = Job(Path(folder), steps=100_000, every=1000, options=("--node-failures", 1_000_000, "--allow-faults"))
        one.agent_options = ["--allow-faults"]
        try:
            one.controller().agents("a", "b").wait_step(LEARNED, 240)
            false = len(events(one, "hang")) + len(events(one, "failed"))
            for number in range(HANGS):
                settle(one, spares=True)
                well += [step["took_s"] for step in one.steps()[since:]]
                promised_s = max(2.0, 5.0 * long_step(well[-KEPT:]))
                kind, began_s = KINDS[number % len(KINDS)], time.time()
                one.client().inject("ab"[number // len(KINDS) % 2], kind)
                event = one.wait(lambda number=number: nth(one, "hang", number), 120)
                now_s = time.time()
                if kind == "data":
                    began_s = max(began_s, (one.folder / "run" / "steps.jsonl").stat().st_mtime)
                told.append(now_s - began_s)
                seen.append(event["wall_s"] - began_s)
                share.append(seen[-1] / promised_s)
                print(f"   {kind}: {seen[-1]:.2f} s, promised {promised_s:.2f} s", flush=True)
                one.wait(lambda number=number: nth(one, "stepping", number), 120)
                since = len(one.steps())
        finally:
            one.close()
    say_load("hangs")
    return [
        Row(name=f"hangs seen in the {LEARNED} steps before the first", value=false, unit="", promise=0),
        Row(name=f"hang to its being seen, median of {HANGS}", value=median(seen), unit="s"),
        Row(name="hang to its being seen, p95", value=percentile(seen, 0.95), unit="s"),
        Row(name="hang to its event, with stacks, p95", value=percentile(told, 0.95), unit="s"),
        Row(
            name="hang to its being seen, most, as a share of max(2 s, 5 x p99 of a step)",
            value=max(share),
            unit="",
            promise=1.0,
        ),
    ]
