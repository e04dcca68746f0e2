"""Slow nodes are found by their own work; spikes, noise and steps that all do slowly accuse nobody."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.elastic.policy.slow import Pace, Scores, Slowness, factors

LIMITS = Slowness()
NODES = {0: "a", 1: "b", 2: "c", 3: "d"}
ENOUGH = LIMITS.windows * LIMITS.window_steps + 1


def run(work_s, steps=ENOUGH, nodes=NODES, scores=None, generation=1):
    """Scores after so many steps of which rank r's step n takes work_s(r, n)."""
    scores, done = scores or Scores(), dict.fromkeys(nodes, 0.0)
    for step in range(steps):
        for rank in nodes:
            scores = scores.told(generation, {rank: Pace(steps=step, work_s=done[rank])}, LIMITS)
            done[rank] += work_s(rank, step)
    return scores


def test_a_node_that_is_always_slow_is_found_with_its_factor():
    assert run(lambda rank, step: 0.3 if rank == 2 else 0.1).slow(NODES, LIMITS) == ("c", pytest.approx(3.0))


def test_it_is_named_once_and_the_next_one_then():
    scores = run(lambda rank, step: (0.1, 0.1, 0.3, 0.2)[rank])
    assert scores.slow(NODES, LIMITS)[0] == "c"
    assert scores.accuse("c").slow(NODES, LIMITS) == ("d", pytest.approx(2.0))
    assert scores.accuse("c").accuse("d").slow(NODES, LIMITS) is None


def test_nothing_is_said_before_all_windows_are_there():
    scores = run(lambda rank, step: 0.3 if rank == 2 else 0.1, steps=ENOUGH - 1)
    assert scores.slow(NODES, LIMITS) is None


@given(seed=st.integers(0, 10**6), rank=st.sampled_from(sorted(NODES)), times=st.floats(2.0, 1e4))
def test_spikes_of_less_than_half_of_the_windows_accuse_nobody(seed, rank, times):
    """Steps of one rank, all of two windows, take any time longer; the others are 10 % noisy."""
    rng = random.Random(seed)
    spiked = range(LIMITS.window_steps, 3 * LIMITS.window_steps)

    def work_s(one, step):
        return 0.1 * rng.uniform(0.95, 1.05) * (times if one == rank and step in spiked else 1.0)

    assert run(work_s).slow(NODES, LIMITS) is None


@given(factor=st.floats(1.0, 100.0), seed=st.integers(0, 10**6))
def test_steps_that_all_do_slowly_accuse_nobody(factor, seed):
    rng = random.Random(seed)
    assert run(lambda rank, step: 0.1 * factor * rng.uniform(0.9, 1.1)).slow(NODES, LIMITS) is None


@given(factor=st.floats(2.0, 50.0), seed=st.integers(0, 10**6), rank=st.sampled_from(sorted(NODES)))
def test_a_slow_node_is_found_under_noise(factor, seed, rank):
    rng = random.Random(seed)
    found = run(lambda one, step: 0.1 * rng.uniform(0.9, 1.1) * (factor if one == rank else 1.0)).slow(NODES, LIMITS)
    assert found is not None
    assert found[0] == NODES[rank]
    assert found[1] == pytest.approx(factor, rel=0.25)


def test_a_node_is_as_slow_as_its_slowest_rank():
    nodes = {0: "a", 1: "a", 2: "b", 3: "b"}
    found = run(lambda rank, step: 0.3 if rank == 3 else 0.1, nodes=nodes).slow(nodes, LIMITS)
    assert found == ("b", pytest.approx(3.0))


def test_a_new_generation_begins_anew_and_a_rank_that_began_anew_does_too():
    slow = run(lambda rank, step: 0.3 if rank == 2 else 0.1)
    assert slow.told(2, {0: Pace(steps=5, work_s=1.0)}, LIMITS).slow(NODES, LIMITS) is None
    again = slow.told(1, {2: Pace(steps=0, work_s=0.0)}, LIMITS)
    assert again.since[2] == Pace(steps=0, work_s=0.0)


def test_hardly_any_work_says_nothing():
    assert run(lambda rank, step: 2e-4 if rank == 2 else 1e-5).slow(NODES, LIMITS) is None
    assert factors({"a": 1.0}, LIMITS) == {"a": 1.0}
