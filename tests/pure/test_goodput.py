"""Goodput: Young's and Daly's laws, published figures, and a simulation of failures that knows none of the formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cost_model.goodput import (
    Exposure,
    Goodput,
    best_interval_s,
    chosen_interval_s,
    daly_interval_s,
    expected_first_order_s,
    expected_s,
    goodput,
    young_interval_s,
)
from nebula.cost_model.repair import away

exposures = st.builds(
    Exposure,
    failures_per_s=st.just(0.0) | st.floats(1e-9, 1e-2),
    save_s=st.floats(0.0, 600.0),
    restart_s=st.floats(0.0, 3600.0),
    least_interval_s=st.floats(0.01, 100.0),
    durable_s=st.floats(0.0, 600.0),
    interval_s=st.just(0.0) | st.floats(1.0, 1e5),
    degraded=st.floats(0.0, 0.9),
    planned_restarts_per_s=st.floats(0.0, 1e-3),
    planned_restart_s=st.floats(0.0, 3600.0),
)


def shares(time: Goodput) -> list[float]:
    return [time.useful, time.checkpointing, time.lost_work, time.restart, time.degraded]


@given(exposures)
def test_the_shares_sum_to_one_and_none_is_negative(job):
    assert sum(shares(goodput(job))) == pytest.approx(1.0)
    assert min(shares(goodput(job))) >= -1e-12


@given(exposures.filter(lambda job: job.failures_per_s < 1e-3 and job.interval_s < 1e4))
def test_goodput_is_above_zero_and_at_most_one(job):
    assert 0 < goodput(job).useful <= 1


@given(exposures, st.floats(1.0, 100.0))
def test_fewer_failures_are_never_less_goodput(job, factor):
    fewer = goodput(replace(job, failures_per_s=job.failures_per_s / factor))
    assert fewer.useful >= goodput(job).useful * (1 - 1e-9)


@given(exposures)
def test_without_failures_only_the_users_own_saves_cost_anything(job):
    safe = replace(job, failures_per_s=0.0, degraded=0.0, planned_restarts_per_s=0.0)
    interval_s = chosen_interval_s(safe)
    kept = 1.0 if not job.interval_s else interval_s / (interval_s + job.save_s)
    assert goodput(safe).useful == pytest.approx(kept)
    assert math.isinf(goodput(replace(safe, interval_s=0.0)).interval_s)


@given(st.floats(0.01, 1e3), st.floats(1.0, 1e7), st.floats(0.2, 5.0))
def test_the_best_interval_is_the_minimum_of_the_exact_time(save_s, mtbf_s, factor):
    def time_s(interval_s: float) -> float:
        return expected_s(1.0, interval_s, save_s=save_s, restart_s=0.0, mtbf_s=mtbf_s)

    best_s = best_interval_s(save_s, mtbf_s)
    assert time_s(best_s) <= time_s(factor * best_s) * (1 + 1e-9)
    assert time_s(daly_interval_s(save_s, mtbf_s)) <= time_s(best_s) * (1.0002 if save_s < mtbf_s / 2 else 1.06)


@pytest.mark.parametrize(("mtbf_s", "minutes"), [(24 * 3600, 117), (6 * 3600, 57), (15 * 60, 9.1)])
def test_the_intervals_that_daly_prints(mtbf_s, minutes):
    """Captions of his figures 3 to 5: a restart takes 10 minutes, a save 5."""
    assert daly_interval_s(300.0, mtbf_s) / 60 == pytest.approx(minutes, rel=0.006)
    assert best_interval_s(300.0, mtbf_s) / 60 == pytest.approx(minutes, rel=0.01)


@given(st.floats(1e-6, 1e-3), st.floats(0.0, 1e-2), st.floats(0.0, 1e-2))
def test_first_order_and_exact_times_agree_where_failures_are_rare(interval, save, restart):
    """In units of the mean time between failures: what is left is of second order."""
    costs = {"save_s": save * interval, "restart_s": restart * interval, "mtbf_s": 1.0}
    exact, first = expected_s(1.0, interval, **costs), expected_first_order_s(1.0, interval, **costs)
    assert first <= exact * (1 + 1e-9)
    assert exact - first <= interval**2


@given(st.floats(0.01, 1e3), st.floats(0.0, 30.0).map(lambda digits: 10**digits))
def test_young_s_interval_is_daly_s_where_saves_are_short(save_s, mtbf_s):
    ratio = young_interval_s(save_s, mtbf_s) / (best_interval_s(save_s, mtbf_s) + save_s)
    assert abs(ratio - 1) <= math.sqrt(save_s / mtbf_s) + 1e-12


@given(exposures.filter(lambda job: job.failures_per_s > 0))
def test_the_shares_are_those_of_the_expected_time(job):
    job = replace(job, degraded=0.0, planned_restarts_per_s=0.0, planned_restart_s=0.0)
    time = goodput(job)
    restart_s = job.restart_s + job.durable_s
    mtbf_s = 1 / job.failures_per_s
    exact = expected_s(1.0, time.interval_s, save_s=job.save_s, restart_s=restart_s, mtbf_s=mtbf_s)
    assert time.useful * exact == pytest.approx(1.0) or (math.isinf(exact) and time.useful < 1e-300)


def simulated(rng: np.random.Generator, job: Exposure, interval_s: float, intervals: int) -> np.ndarray:
    """Seconds of useful, saving, lost and restarting time until so many checkpoints stand, failure by failure."""
    spent = np.zeros(4)
    useful = saving = clock = 0.0
    standing, made = 0, 0
    at_stand: list[float] = []
    fails_at = rng.exponential(1 / job.failures_per_s)
    while standing < intervals:
        end = clock + interval_s + job.save_s
        if fails_at < end:
            while at_stand and at_stand[0] <= fails_at:
                standing += 1
                at_stand.pop(0)
            spent[2] += fails_at - clock + (made - standing) * (interval_s + job.save_s)
            useful -= (made - standing) * interval_s
            saving -= (made - standing) * job.save_s
            made, at_stand = standing, []
            clock = fails_at
            while True:  # a failure during a restart starts it again
                next_at = clock + rng.exponential(1 / job.failures_per_s)
                if next_at > clock + job.restart_s:
                    break
                spent[3] += next_at - clock
                clock = next_at
            spent[3] += job.restart_s
            clock, fails_at = clock + job.restart_s, next_at
            continue
        clock, made = end, made + 1
        useful, saving = useful + interval_s, saving + job.save_s
        at_stand.append(end + job.durable_s)
        while at_stand and at_stand[0] <= clock:
            standing += 1
            at_stand.pop(0)
    spent[:2] = useful, saving
    return spent


@pytest.mark.parametrize(("save_s", "durable_s"), [(60.0, 0.0), (5.0, 500.0)], ids=["synchronous", "asynchronous"])
def test_a_simulation_of_failures_agrees_within_its_standard_error(save_s, durable_s):
    rng = np.random.default_rng(20_060_201)
    job = Exposure(failures_per_s=1 / 3600, save_s=save_s, durable_s=durable_s, restart_s=400.0, least_interval_s=1.0)
    time = goodput(job)
    runs = np.array([simulated(rng, job, time.interval_s, 200) for _ in range(150)])
    parts = runs / runs.sum(axis=1, keepdims=True)
    totals = runs.sum(axis=0) / runs.sum()
    error = parts.std(axis=0, ddof=1) / math.sqrt(len(runs))
    expected = np.array([time.useful, time.checkpointing, time.lost_work, time.restart])
    assert error[0] < 0.004
    assert np.all(np.abs(totals - expected) < 3.5 * error + 1e-4), (totals, expected, error)


def erlang_b(servers: int, load: float) -> float:
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked


@given(st.integers(1, 200), st.integers(0, 10), st.floats(1e-3, 50.0))
def test_a_job_that_waits_is_erlang_s_loss_system(nodes, spares, load):
    found = away(nodes=nodes, spares=spares, losses_per_s=load, repair_s=1.0, continues=False)
    assert found.degraded == pytest.approx(erlang_b(spares + 1, load))


@given(st.integers(1, 200), st.floats(1e-3, 50.0))
def test_without_spares_each_node_fails_and_is_repaired_on_its_own(nodes, load):
    found = away(nodes=nodes, spares=0, losses_per_s=load, repair_s=1.0, continues=True)
    assert found.degraded == pytest.approx(load / nodes / (1 + load / nodes))
    assert found.uncovered_per_s == pytest.approx(load * (1 - found.degraded))


@given(st.integers(1, 100), st.integers(0, 10), st.floats(1e-3, 50.0), st.booleans())
def test_a_spare_more_and_going_on_never_lose_capacity(nodes, spares, load, continues):
    found = away(nodes=nodes, spares=spares, losses_per_s=load, repair_s=1.0, continues=continues)
    more = away(nodes=nodes, spares=spares + 1, losses_per_s=load, repair_s=1.0, continues=continues)
    going_on = away(nodes=nodes, spares=spares, losses_per_s=load, repair_s=1.0, continues=True)
    assert more.degraded <= found.degraded + 1e-12
    assert going_on.degraded <= found.degraded + 1e-12
