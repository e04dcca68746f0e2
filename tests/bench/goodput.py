"""What kills at random leave of a job of two workers: of one that begins anew together, and of two replicas.

The small ERNIE with its Adam state on this machine's cores, wall time, under the default engine and with `--replicas`.
Kills are SIGKILLs to the worker of a node drawn with a fixed seed, at exponential intervals. Goodput is the steps that
were done in a time as a share of what the undisturbed job does in it, so that a step which is done again counts once,
and one that a replica does alone, and slower, as slower. Beside it stands what `nebula status` accounts for, which is
what the undisturbed job is held to. NEBULA_BENCH_SECONDS sets how long each of the six runs lasts.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
from elastic_job import Job

from tests.bench.rows import Row, say_load

SEED = 6
SECONDS = float(os.environ.get("NEBULA_BENCH_SECONDS", "600"))
ENGINES = {"default engine": (), "two replicas": ("--replicas", 2)}
STRUCK = {60.0: 92.0, 20.0: 80.0}
"""Mean seconds between two kills, and the goodput that is promised, in percent."""
SETTLED = 6
"""Steps before the time begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was done in a time.

    Attributes:
        step_s: the median.
        spent_s: of each category of the job's account, in that time.
    """

    kills: int
    steps: int
    took_s: float
    step_s: float
    spent_s: Mapping[str, float]

    @property
    def steps_per_s(self) -> float:
        """New steps."""
        return self.steps / self.took_s

    def share(self, category: str) -> float:
        """Of the job's account, in percent."""
        return 100 * self.spent_s[category] / sum(self.spent_s.values())


def rows() -> list[Row]:
    """Rows of both engines."""
    return [row for engine in ENGINES for row in of_engine(engine)]


def of_engine(engine: str) -> list[Row]:
    """The undisturbed job, then those that are struck."""
    calm = run(engine)
    found = [
        Row(name=f"{engine}, undisturbed: a step, median", value=calm.step_s, unit="s"),
        Row(name=f"{engine}, undisturbed: steps per second", value=calm.steps_per_s, unit="/s"),
        Row(name=f"{engine}, undisturbed: held up by saving", value=calm.share("saving"), unit="%"),
        accounted(f"{engine}, undisturbed", calm, 99.0),
    ]
    for mtbf_s, promise in STRUCK.items():
        name, struck = f"{engine}, a kill in {mtbf_s:.0f} s", run(engine, mtbf_s)
        share = 100 * struck.steps_per_s / calm.steps_per_s
        done = Row(name=f"{name}: goodput by steps", value=share, unit="%", promise=promise, more_is_better=True)
        found += [done, accounted(name, struck, None)]
    return found


def accounted(name: str, run: Run, promise: float | None) -> Row:
    """The productive part of a job's time."""
    value = run.share("productive")
    return Row(name=f"{name}: goodput by its account", value=value, unit="%", promise=promise, more_is_better=True)


def run(engine: str, mtbf_s: float = 0.0) -> Run:
    """Trains for SECONDS under kills at exponential intervals; 0: none."""
    with job(engine) as one:
        one.wait_step(SETTLED, 120)
        first, began_s, before = one.last_step(), time.monotonic(), account(one)
        kills = strike(one, mtbf_s, began_s + SECONDS)
        took_s, steps, after = time.monotonic() - began_s, one.steps(), account(one)
    found = Run(
        kills=kills,
        steps=steps[-1]["step"] - first,
        took_s=took_s,
        step_s=median(step["took_s"] for step in steps[first:]),
        spent_s={category: spent_s - before[category] for category, spent_s in after.items()},
    )
    told = ", ".join(f"{category} {found.share(category):.1f} %" for category in after if found.share(category) >= 0.05)
    say_load(f"{engine}, {kills} kills, {found.steps} steps in {took_s:.0f} s ({told})")
    return found


def strike(one: Job, mtbf_s: float, until_s: float) -> int:
    """Kills workers at random until a moment; how many."""
    draw, kills = random.Random(SEED), 0
    while (left_s := until_s - time.monotonic()) > 0:
        next_s = draw.expovariate(1 / mtbf_s) if mtbf_s else left_s
        time.sleep(min(next_s, left_s))
        if next_s < left_s:
            one.worker(draw.choice("ab")).send_signal(signal.SIGKILL)
            kills += 1
    return kills


def account(one: Job) -> dict[str, float]:
    """Seconds of the job so far, by category."""
    return dict(one.client().status().account_s)


@contextmanager
def job(engine: str) -> Iterator[Job]:
    """Two workers that train, longer than anybody watches."""
    with tempfile.TemporaryDirectory() as folder:
        one = Job(Path(folder), steps=100_000, every=1000, nodes="2:2", options=ENGINES[engine])
        one.options = (*one.options, "--node-failures", 1_000_000)
        try:
            yield one.controller().agents("a", "b")
        finally:
            one.close()
