"""The fast path against the simulation event by event, for every schedule, and its own laws."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from schedule_samples import pipelines, timed

from nebula.cost_model.closed_form import last_backward_s
from nebula.cost_model.fronts import program_of
from nebula.cost_model.one_f_one_b import NARROW, one_f_one_b_seconds
from nebula.cost_model.simulate import Durations, Sends, timeline
from nebula.plan.schedule import SCHEDULES, shape_of

CLOSE = 1e-9
"""Largest relative difference between fast path and simulation, for rounding alone."""


def fast(found, schedule, micro_batches, chunks, cases=1):
    occupied = found.sends is Sends.OCCUPY
    forward, backward, sent, returned, weights = (
        np.tile(row, (cases, 1))
        for row in (found.forward_s, found.backward_s, found.send_forward_s, found.send_backward_s, found.weight_s)
    )
    if occupied:
        forward, backward, beside = forward + sent, backward + returned, ()
    else:
        beside = sent, returned
    return last_backward_s(forward, backward, micro_batches, schedule, chunks, weights, *beside)


@given(timed(), st.sampled_from([1, 30]))
def test_the_fast_path_equals_the_simulation(case, cases):
    """To 1e-9 of the time; the largest difference in 6,000 such cases was 6e-15."""
    found, asked = case
    lanes = timeline(found, *asked).by_stage()
    ends = np.array([max(event.end_s for event in own) for own in lanes])
    assert fast(found, *asked, cases) == pytest.approx(np.tile(ends, (cases, 1)), rel=CLOSE)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_long_steps_equal_the_simulation_whether_they_settle_or_not(schedule):
    """256 micro-batches, so that almost all of the steady state is repeated; to 1e-9 of the time."""
    rng = np.random.default_rng(1)
    least = SCHEDULES[schedule].chunks[0]
    for spread in (0.0, 0.02):
        base = 1 + spread * rng.random(4 * least)
        for sends_s in (0.0, 0.4, 4.0):  # 4: messages are what the pipeline waits for
            found = timed_by(base, tuple(sends_s * base))
            lanes = timeline(found, schedule, 256, least).by_stage()
            ends = [max(event.end_s for event in own) for own in lanes]
            assert fast(found, schedule, 256, least)[0] == pytest.approx(ends, rel=CLOSE)


def timed_by(base, sends_s):
    return Durations(
        forward_s=tuple(base),
        backward_s=tuple(2 * base),
        send_forward_s=(*sends_s[:-1], 0.0),
        send_backward_s=(0.0, *sends_s[1:]),
        weight_s=tuple(base),
        sends=Sends.BESIDE,
    )


@given(pipelines(most_devices=8, most_micro_batches=24), st.integers(1, 40))
def test_a_longer_step_repeats_its_steady_state_more_often_and_nothing_else(pipeline, more):
    name, devices, micro_batches, chunks = pipeline
    assume(name != "fthenb")
    # whole groups of interleaving; 24 micro-batches are whole periods of every schedule
    some = 600 + (0 if name == "interleaved" else micro_batches)
    long, longer = (program_of(name, shape_of(name, devices, m * devices, chunks)) for m in (some, some + 24 * more))
    assert 0 < long.periods < longer.periods
    assert np.array_equal(long.opening.needed, longer.opening.needed)
    assert np.array_equal(long.closing.needed, longer.closing.needed)


def test_many_cases_at_once_equal_one_at_a_time():
    rng = np.random.default_rng(0)
    for schedule, chunks in (("1f1b", 1), ("fthenb", 1), ("interleaved", 3), ("dualpipe", 2)):
        forward, backward = rng.random((2, 30, 6 * chunks))
        weights = backward * rng.random((30, 1))
        forward[::3], backward[::3] = 1.0, 2.0
        together = last_backward_s(forward, backward, 40, schedule, chunks, weights)
        each = zip(forward, backward, weights, strict=True)
        alone = [last_backward_s(f, b, 40, schedule, chunks, w) for f, b, w in each]
        assert together == pytest.approx(np.array(alone))
        nested = last_backward_s(*(a.reshape(5, 6, -1) for a in (forward, backward)), 40, schedule, chunks)
        assert nested.shape == (5, 6, 6)


@given(timed(sends=[Sends.OCCUPY]), st.integers(0, 23), st.floats(0, 10))
def test_a_slower_stage_never_shortens_the_step(case, which, more):
    found, (schedule, micro_batches, chunks) = case
    forward, backward = np.array(found.forward_s), np.array(found.backward_s)
    slower = forward.copy()
    slower[which % len(slower)] += more
    before = last_backward_s(forward, backward, micro_batches, schedule, chunks).max()
    assert last_backward_s(slower, backward, micro_batches, schedule, chunks).max() >= before * (1 - 1e-12)


@pytest.mark.parametrize("count", [1, NARROW + 1])
def test_one_stage_sends_nothing_back(count):
    ones = np.ones((1, count))
    found = one_f_one_b_seconds(ones, 2 * ones, 3 * ones, np.full(count, 4), 0 * ones)
    assert list(found) == [15.0] * count
