"""What faults cost a group of two replicas: killed and frozen workers one by one, kills at random, and no fault at all.

The small ERNIE with its Adam state on this machine's cores, wall time. Kills are SIGKILLs to the worker of a node drawn
with a fixed seed, a frozen one gets SIGSTOP; kills at random come at exponential intervals. Goodput is what was done in
a time as a share of what the undisturbed job does in it, so that a step which one replica does alone, and slower,
counts as slower; beside it stands what `nebula status` accounts for, the productive part of the job's time.
NEBULA_BENCH_KILLS and NEBULA_BENCH_SECONDS set how many kills (and half as many freezes), and how long each run at
random lasts.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
from elastic_job import Job

from nebula.elastic.agent.hang import percentile
from tests.bench.rows import Row

SEED = 6
KILLS = int(os.environ.get("NEBULA_BENCH_KILLS", "30"))
SECONDS = float(os.environ.get("NEBULA_BENCH_SECONDS", "600"))
SETTLED = 6
"""Steps that both do before the next kill."""


def rows() -> list[Row]:
    """Rows of all scenarios."""
    undisturbed, median_s, goodput = at_random(0.0, SECONDS / 2)
    found = [
        Row(name="two replicas undisturbed: a step, median", value=median_s, unit="s"),
        Row(name="two replicas undisturbed: steps per second", value=undisturbed, unit="/s"),
        Row(
            name="two replicas undisturbed: goodput by the job's account",
            value=100 * goodput,
            unit="%",
            promise=99.0,
            more_is_better=True,
        ),
    ]
    found += one_by_one(KILLS, "kill", signal.SIGKILL, promise=1.5)
    found += one_by_one((KILLS + 1) // 2, "freeze", signal.SIGSTOP)
    for mtbf_s, promise in ((60.0, 92.0), (20.0, 80.0)):
        rate, _, goodput = at_random(mtbf_s, SECONDS)
        name = f"goodput, a kill in {mtbf_s:.0f} s, {SECONDS:.0f} s long"
        found += [
            Row(name=name, value=100 * rate / undisturbed, unit="%", promise=promise, more_is_better=True),
            Row(name=f"{name}, by the job's account", value=100 * goodput, unit="%"),
        ]
    return found


def one_by_one(count: int, fault: str, number: signal.Signals, promise: float | None = None) -> list[Row]:
    """The longest step of those who go on, and from a fault until the victim's successor is a member.

    Args:
        promise: seconds of the longest step.
    """
    draw, gaps, back = random.Random(SEED), [], []
    with job() as one:
        for _ in range(count):
            one.wait_step(one.last_step() + SETTLED, 120)
            members = one.log().count(" is here")
            step, struck_s = one.last_step(), time.monotonic()
            one.worker(draw.choice("ab")).send_signal(number)
            one.wait(lambda members=members: one.log().count(" is here") > members, 60)
            back.append(time.monotonic() - struck_s)
            one.wait_step(step + SETTLED, 120)
            gaps.append(max(row["took_s"] for row in one.steps()[step : step + SETTLED]))
        wrong = misplaced([row["step"] for row in one.steps()])
    print(f"   load {os.getloadavg()[0]:.1f}", flush=True)
    gap, again = f"{fault}: longest gap of the other", f"{fault}: until there are two members again"
    return [
        Row(name=f"{gap}, median of {count}", value=median(gaps), unit="s"),
        Row(name=f"{gap}, p95", value=percentile(gaps, 0.95), unit="s"),
        Row(name=f"{gap}, most", value=max(gaps), unit="s", promise=promise),
        Row(name=f"{again}, median", value=median(back), unit="s"),
        Row(name=f"{again}, p95", value=percentile(back, 0.95), unit="s"),
        Row(name=f"{fault}: steps lost or done twice", value=wrong, unit="", promise=0),
    ]


def misplaced(steps: Sequence[int]) -> int:
    """Of the steps that were written down, how many are missing, there twice, or out of order.

    >>> misplaced([1, 2, 3]), misplaced([1, 3]), misplaced([1, 2, 2, 3]), misplaced([1, 3, 2])
    (0, 1, 1, 1)
    """
    missing = set(range(1, max(steps, default=0) + 1)).difference(steps)
    return len(missing) + sum(after <= before for before, after in pairwise(steps))


def at_random(mtbf_s: float, seconds: float) -> tuple[float, float, float]:
    """Steps per second, the median step and the productive share, under kills at exponential intervals; 0: none."""
    draw = random.Random(SEED)
    with job() as one:
        one.wait_step(SETTLED, 120)
        first, began_s, kills, before = one.last_step(), time.monotonic(), 0, account(one)
        next_s = draw.expovariate(1 / mtbf_s) if mtbf_s else seconds
        while time.monotonic() - began_s < seconds:
            time.sleep(min(next_s, seconds - (time.monotonic() - began_s)))
            if mtbf_s and time.monotonic() - began_s < seconds:
                one.worker(draw.choice("ab")).send_signal(signal.SIGKILL)
                kills, next_s = kills + 1, draw.expovariate(1 / mtbf_s)
        took_s, steps, after = time.monotonic() - began_s, one.steps(), account(one)
    print(
        f"   {kills} kills, {steps[-1]['step'] - first} steps in {took_s:.0f} s; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    goodput = (after["productive"] - before["productive"]) / (sum(after.values()) - sum(before.values()))
    return (steps[-1]["step"] - first) / took_s, median(step["took_s"] for step in steps[first:]), goodput


def account(one: Job) -> dict[str, float]:
    """Seconds of the job so far, by category."""
    return dict(one.client().status().account_s)


@contextmanager
def job() -> Iterator[Job]:
    """Two replicas that train, longer than anybody watches."""
    with tempfile.TemporaryDirectory() as folder:
        one = Job(Path(folder), steps=100_000, every=1000, nodes="2:2", options=("--replicas", 2))
        one.options = (*one.options, "--node-failures", "1000000")
        try:
            yield one.controller().agents("a", "b")
        finally:
            one.close()
