"""By what searches compare plans: what is said of all plans on so many devices holds for each of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cost_model.economy import DAY_S, outlook
from nebula.plan.conditions import Conditions, PowerUse, Reliability
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.pool import equal_devices
from nebula.planner.scale import VALUES, AimScale, Question, Rates, by_step_time
from nebula.planner.search import search
from nebula.planner.stages import least_largest
from tests.pure.cost_samples import chain, cluster, device

GRAPH = chain(4, hidden=256, tokens=256)
PRICED = cluster(4, 2, nic=2e8, kind=device(price_per_hour=2.0, power_w=300.0))
JOB = Job(global_batch=16, tokens=1e12)
POOL = equal_devices(PRICED, "float32")

CONDITIONS = st.builds(
    Conditions,
    reliability=st.builds(
        Reliability,
        failures_per_device_hour=st.floats(0.0, 0.1) | st.floats(0.0, 300.0).map(lambda digits: 10**-digits),
        node_mtbf_s=st.sampled_from([0.0, 1e4, 1e6, 1e40]),
        storage_bytes_per_s=st.floats(1e4, 1e9),
        saves=st.sampled_from(["synchronous", "asynchronous"]),
        interval_s=st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
        lost_nodes=st.sampled_from(["continue", "wait"]),
        spares=st.integers(0, 2),
    ),
    power=st.builds(PowerUse, idle_share=st.floats(0.0, 1.0), pue=st.floats(1.0, 2.0)),
)


def scale(objective, conditions=None, on=PRICED):
    return AimScale(
        Question(graph=GRAPH, cluster=on, job=JOB, objective=objective, conditions=conditions or Conditions()),
        equal_devices(on, "float32"),
    )


@settings(max_examples=150)
@given(st.sampled_from(sorted(VALUES)), CONDITIONS, st.integers(1, 8), st.floats(1e-4, 1e5), st.floats(0.0, 1.0))
def test_no_plan_comes_to_less_than_its_rates_say(aim, conditions, ranks, step_s, share):
    asked = scale(Objective(minimise=aim), conditions)
    exact = asked.exact(np.arange(ranks), step_s, share * step_s)
    assert asked.rates(ranks).least(step_s, share * step_s) <= exact * (1 + 1e-9)


@given(st.floats(0.0, 10.0), st.floats(0.1, 10.0), st.floats(0.0, 5.0), st.floats(0.0, 100.0), st.floats(0.0, 5.0))
def test_steps_that_are_of_no_use_come_to_no_less_than_there_is_to_beat(busy, step, busy_s, to_beat, more_s):
    rates = Rates(step=step, busy=busy)
    assert rates.least(rates.most_s(to_beat, busy_s) + more_s, busy_s) >= to_beat * (1 - 1e-9)


@pytest.mark.parametrize("aim", sorted(VALUES))
def test_a_plan_comes_to_what_its_report_says(aim):
    found = search(GRAPH, PRICED, JOB).plan
    devices, prediction = np.arange(found.world_size), found.prediction
    exact = scale(Objective(minimise=aim)).exact(devices, prediction.step_time_s, prediction.computing_s)
    assert exact == pytest.approx(VALUES[aim](outlook(GRAPH, PRICED, found)), rel=1e-12)


def test_a_step_beyond_a_limit_comes_to_nothing_that_counts():
    step_s = 10.0
    days = scale(Objective(minimise="days")).exact(np.arange(8), step_s, 0.0)
    asked = scale(Objective(deadline_s=days * DAY_S * 1.0001))
    assert asked.exact(np.arange(8), step_s, 0.0) == step_s
    assert math.isinf(asked.exact(np.arange(8), step_s * 1.001, 0.0))
    assert step_s < asked.rates(8).limit_s < step_s * 1.01


def test_step_times_are_their_own_scale():
    times = by_step_time(POOL)
    assert times.exact(np.arange(4), 3.0, 1.0) == times.rates(4).least(3.0, 1.0) == 3.0
    assert times.refused(4) == ""


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=7))
def test_the_largest_part_of_a_chain_is_the_least_of_all_cuts(weights):
    found = least_largest(np.array(weights))
    for parts in range(1, len(weights) + 1):
        every = [max(map(sum, cut)) for cut in cuts(weights, parts)]
        assert found[parts - 1] == pytest.approx(min(every), abs=1e-9)


def cuts(members, parts):
    if parts == 1:
        yield [members]
        return
    for first in range(1, len(members) - parts + 2):
        for rest in cuts(members[first:], parts - 1):
            yield [members[:first], *rest]
