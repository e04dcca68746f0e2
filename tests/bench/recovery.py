"""How soon an elastic job of two workers sees a failure and trains on: killed workers, a lost node, a lost controller.

The small ERNIE with its Adam state on this machine's cores, wall time. A kill is a SIGKILL to the worker of a node
drawn with a fixed seed, once it has done some steps. NEBULA_BENCH_KILLS sets how many (warm; half as many cold),
NEBULA_BENCH_LOSSES how many nodes are lost, and controllers. The control is the same job without a fault.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from json import loads
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
from elastic_job import Job

from nebula.elastic.agent.hang import percentile
from tests.bench.rows import Row, say_load, spread

SEED = 6
KILLS = int(os.environ.get("NEBULA_BENCH_KILLS", "60"))
LOSSES = int(os.environ.get("NEBULA_BENCH_LOSSES", "20"))
BETWEEN = 4
"""Steps that a generation does before the next fault."""


def rows() -> list[Row]:
    """Rows of all scenarios."""
    warm, cold = kills(KILLS, spares=True), kills(KILLS // 2, spares=False)
    return [*undisturbed(), *warm, *cold, *nodes(LOSSES), *controllers(LOSSES)]


def kills(count: int, *, spares: bool) -> list[Row]:
    """Workers killed one after the other."""
    draw, name = random.Random(SEED), "with a warm spare" if spares else "cold"
    seen, told, whole = [], [], []
    with job(steps=100_000, spares=spares) as one:
        for number in range(count):
            settle(one, spares=spares)
            victim = one.worker(draw.choice("ab"))
            killed_s = time.time()
            victim.send_signal(signal.SIGKILL)
            failed = one.wait(lambda number=number: nth(one, "failed", number), 60)
            back = one.wait(lambda number=number: nth(one, "stepping", number), 120)
            seen.append(failed["wall_s"] - killed_s)
            whole.append(back["wall_s"] - killed_s)
            told.append(back["seconds"])
    say(name, told)
    lost = max(one["lost_steps"] for one in told)
    promised = 2.0 if spares else 5.0
    return [
        Row(name=f"SIGKILL to the failure event, median, {name}", value=median(seen), unit="s"),
        Row(
            name=f"SIGKILL to the failure event, p95 of {count}, {name}",
            value=percentile(seen, 0.95),
            unit="s",
            promise=0.5,
        ),
        Row(name=f"kill to the first new step, median, {name}", value=median(whole), unit="s", promise=promised),
        Row(name=f"kill to the first new step, p95 of {count}, {name}", value=percentile(whole, 0.95), unit="s"),
        Row(name=f"steps lost to a kill, most, {name}", value=lost, unit="", promise=1),
    ]


def nodes(count: int) -> list[Row]:
    """An agent and its worker killed together, then started again."""
    gone, back = [], []
    with job(steps=100_000) as one:
        for number in range(count):
            settle(one, spares=True)
            killed_s = time.time()
            one.kill("b")
            gone.append(one.wait(lambda number=number: nth(one, "stepping", 2 * number), 120)["wall_s"] - killed_s)
            step = one.last_step()
            one.wait_step(step + 2)
            started_s = time.time()
            one.agents("b")
            back.append(one.wait(lambda number=number: nth(one, "stepping", 2 * number + 1), 120)["wall_s"] - started_s)
    say_load("nodes")
    return [
        *spread("node lost to stepping on the rest", gone, middle_s=6.0),
        *spread("node back to stepping with it", back, middle_s=10.0),
    ]


def controllers(count: int) -> list[Row]:
    """A controller killed and started again; workers go on."""
    took = []
    with job(steps=100_000) as one:
        for _ in range(count):
            settle(one, spares=True)
            workers = [one.worker(node).pid for node in "ab"]
            one.kill("controller")
            started_s = time.time()
            before = one.log().count("is connected again")
            one.controller()
            one.wait(lambda before=before: one.log().count("is connected again") == before + 2, 30)
            took.append(time.time() - started_s)
            assert workers == [one.worker(node).pid for node in "ab"]
    say_load("controllers")
    return spread("controller killed to both agents connected again", took, most_s=3.0)


def undisturbed() -> list[Row]:
    """The same job without faults: seconds of a step, and restarts, of which there may be none."""
    with job(steps=60) as one:
        assert one.ends(timeout_s=300) == 0
        steps = [step["took_s"] for step in one.steps()]
        restarts = len(events(one, "failed")) + len(events(one, "hang"))
        say_load("undisturbed")
        return [
            Row(name="undisturbed: a step, median of 60", value=median(steps), unit="s"),
            Row(name="undisturbed: a step, p95 of 60", value=percentile(steps, 0.95), unit="s"),
            Row(name="undisturbed: restarts", value=restarts, unit="", promise=0),
        ]


@contextmanager
def job(*, steps: int, spares: bool = True) -> Iterator[Job]:
    """A job whose agents are connected."""
    with tempfile.TemporaryDirectory() as folder:
        one = Job(Path(folder), steps=steps, every=1000)
        one.options = ("--node-failures", "1000000")
        one.agent_options = [] if spares else ["--no-spares"]
        try:
            yield one.controller().agents("a", "b")
        finally:
            one.close()


def settle(one: Job, *, spares: bool) -> None:
    """Waits until all ranks step, and spares are ready where there are any."""
    one.wait_step(one.last_step() + BETWEEN, 120)
    if spares:
        one.wait(lambda: all(ready(one, node) for node in "ab"), 60)


def ready(one: Job, node: str) -> bool:
    """Whether a node has a spare that has done its imports."""
    import psutil

    children = psutil.Process(one.processes[node].pid).children()
    idle = [child for child in children if not Job._trains(child)]
    return bool(idle) and all(os.sched_getscheduler(child.pid) == os.SCHED_IDLE and asleep(child) for child in idle)


def asleep(process: Any) -> bool:
    """Whether a spare waits for its order: it reads from its standard input."""
    return (
        Path(f"/proc/{process.pid}/wchan").read_text().startswith(("pipe", "anon_pipe"))
        and process.cpu_times().user > 0.3
    )


def events(one: Job, kind: str) -> list[dict[str, Any]]:
    """What has happened, from the store."""
    with sqlite3.connect(one.folder / "run" / "job.db") as db:
        texts = [row[0] for row in db.execute("SELECT value FROM entries WHERE key LIKE 'event/%' ORDER BY key")]
    return [event for event in map(loads, texts) if event["kind"] == kind]


def nth(one: Job, kind: str, number: int) -> dict[str, Any] | None:
    """The event of that kind and number, once it is there."""
    found = events(one, kind)
    return found[number] if len(found) > number else None


def say(name: str, told: Sequence[dict[str, float]]) -> None:
    """Where the time went."""
    stages = dict.fromkeys(stage for one in told for stage in one if stage not in ("all", "lost_steps"))
    parts = ", ".join(f"{stage} {median(one.get(stage, 0.0) for one in told):.2f}" for stage in stages)
    print(f"   recovery {name}, median of each stage in s: {parts}; load {os.getloadavg()[0]:.1f}", flush=True)
