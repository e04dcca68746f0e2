"""What a fault costs a group of two replicas, killed and frozen workers one by one, beside no fault at all.

The small ERNIE with its Adam state on this machine's cores, wall time. Kills are SIGKILLs to the worker of a node drawn
with a fixed seed, a frozen one gets SIGSTOP. NEBULA_BENCH_KILLS sets how many kills (and half as many freezes). What
kills at random leave of a job is told by the benchmark goodput.
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

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
from elastic_job import Job

from tests.bench.rows import Row, say_load, spread

SEED = 6
KILLS = int(os.environ.get("NEBULA_BENCH_KILLS", "30"))
SETTLED, CALM = 6, 60
"""Steps that both do before the next fault, and those that are done without one."""


def rows() -> list[Row]:
    """Rows of all scenarios."""
    return [
        *undisturbed(),
        *one_by_one(KILLS, "kill", signal.SIGKILL, promise=1.5),
        *one_by_one((KILLS + 1) // 2, "freeze", signal.SIGSTOP),
    ]


def undisturbed() -> list[Row]:
    """What a step takes where nothing fails."""
    with job() as one:
        one.wait_step(SETTLED + CALM, 240)
        took_s = [row["took_s"] for row in one.steps()[SETTLED:]]
    say_load("undisturbed")
    return spread("two replicas undisturbed: a step", took_s)


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
    say_load(fault)
    return [
        *spread(f"{fault}: longest gap of the other", gaps, most_s=promise),
        *spread(f"{fault}: until there are two members again", back),
        Row(name=f"{fault}: steps lost or done twice", value=wrong, unit="", promise=0),
    ]


def misplaced(steps: Sequence[int]) -> int:
    """Of the steps that were written down, how many are missing, there twice, or out of order.

    >>> misplaced([1, 2, 3]), misplaced([1, 3]), misplaced([1, 2, 2, 3]), misplaced([1, 3, 2])
    (0, 1, 1, 1)
    """
    missing = set(range(1, max(steps, default=0) + 1)).difference(steps)
    return len(missing) + sum(after <= before for before, after in pairwise(steps))


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
