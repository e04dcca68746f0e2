"""How often a rank that does not hang counts as hanging: traces of step times with all that makes steps uneven."""

from __future__ import annotations

import random
import threading
import time
from collections import deque

import pytest

from nebula.elastic.agent.hang import Patience, percentile
from nebula.errors import RunFailed
from nebula.runtime.progress import Progress, Section, Watched
from nebula.runtime.save import LONG_S, Save

STEPS, KEPT = 10_000, 255
"""So many steps may have one false alarm; so many an agent judges by."""


def trace(seed, *, median_s, sigma, warm_up=0.0, burst=(0, 0.0)):
    """Seconds of steps: a log-normal law, a slow beginning, and bursts of load of 20 steps.

    Args:
        sigma: of the logarithm.
        warm_up: how many times longer the first 5 steps take.
        burst: after every so many steps, and how many times longer it makes 20 of them.
    """
    rng = random.Random(seed)
    for step in range(STEPS):
        took_s = median_s * rng.lognormvariate(0.0, sigma)
        took_s *= warm_up if warm_up and step < 5 else 1.0
        took_s *= burst[1] if burst[0] and step % burst[0] < 20 and step >= burst[0] else 1.0
        yield took_s


def alarms(times):
    """Steps that count as a hang; a process's first step is judged by nothing before it."""
    kept, found, patience = deque(maxlen=KEPT), 0, Patience()
    for took_s in times:
        found += took_s > patience.seconds(Section.DATA, kept)
        kept.append(took_s)
    return found


@pytest.mark.parametrize("median_s", [0.02, 0.3, 2.0, 20.0])
@pytest.mark.parametrize(
    "uneven",
    [
        {"sigma": 0.1},
        {"sigma": 0.6},
        {"sigma": 0.2, "warm_up": 20.0},
        {"sigma": 0.2, "burst": (1000, 4.0)},
    ],
    ids=["even", "heavy tails", "warm-up", "bursts of load"],
)
def test_at_most_one_false_alarm_in_ten_thousand_steps(median_s, uneven):
    assert max(alarms(trace(seed, median_s=median_s, **uneven)) for seed in range(3)) <= 1


@pytest.mark.parametrize("median_s", [0.02, 0.3, 2.0])
def test_a_hang_is_seen_within_what_is_promised(median_s):
    times = list(trace(0, median_s=median_s, sigma=0.6))[-KEPT:]
    assert Patience().seconds(Section.FORWARD, times) <= max(2.0, 5.0 * percentile(times, 0.99))


def waited(tmp_path, takes_s, after_s, long_s=LONG_S):
    """What an agent sees of a rank that waits for a save which takes some seconds: for how long it has been silent."""
    watched = Watched(tmp_path / "progress")
    rank = Progress(tmp_path / "progress")
    rank.enter(Section.CHECKPOINT)

    def copies():
        time.sleep(takes_s)
        raise RunFailed("enough")

    save = Save(tmp_path / "saving", 1, [], copies, {}, 1, 1)
    save.began_s = time.monotonic()
    save.thread.start()
    waits = threading.Thread(target=save.wait, args=(rank.touch, long_s))
    waits.start()
    time.sleep(after_s)
    silent_s = time.monotonic() - watched.changed_s
    assert waits.is_alive()
    waits.join()
    return silent_s


def test_who_waits_for_a_long_save_says_so_all_the_time(tmp_path):
    assert waited(tmp_path, takes_s=1.5, after_s=1.0) < 0.8


def test_nobody_says_so_of_a_save_that_takes_too_long(tmp_path):
    assert waited(tmp_path, takes_s=1.5, after_s=1.0, long_s=0.1) > 0.7
