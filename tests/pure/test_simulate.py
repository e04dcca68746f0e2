"""Schedules: a pipeline drawn by hand, the formulas of the field, and closed form against simulation event by event."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cost_model.simulate import Durations, last_backward_s, timeline
from nebula.plan.schedule import actions

CLOSE = 1e-9
"""Largest relative difference between closed form and simulation, for rounding alone."""


def durations(forward, backward, *, sends=0.0, returns=0.0, transit=0.0) -> Durations:
    last = len(forward) - 1
    return Durations(
        forward_s=tuple(forward),
        backward_s=tuple(backward),
        send_forward_s=tuple(sends if s < last else 0.0 for s in range(last + 1)),
        send_backward_s=tuple(returns if s > 0 else 0.0 for s in range(last + 1)),
        transit_s=transit,
    )


def times(found, stage):
    return [(e.kind, e.micro_batch, e.start_s, e.end_s) for e in found.of(stage)]


def test_two_stages_three_micro_batches_by_hand():
    found = timeline(durations([1, 2], [2, 3]), "1f1b", 3)
    assert times(found, 0) == [
        ("F", 0, 0, 1),
        ("F", 1, 1, 2),
        ("B", 0, 6, 8),
        ("F", 2, 8, 9),
        ("B", 1, 11, 13),
        ("B", 2, 16, 18),
    ]
    assert times(found, 1) == [
        ("F", 0, 1, 3),
        ("B", 0, 3, 6),
        ("F", 1, 6, 8),
        ("B", 1, 8, 11),
        ("F", 2, 11, 13),
        ("B", 2, 13, 16),
    ]
    assert found.end_s == 18


def test_a_send_occupies_its_sender():
    found = timeline(durations([1, 1], [1, 1], sends=0.5, returns=0.25), "1f1b", 1)
    assert times(found, 0) == [("F", 0, 0, 1), ("send", 0, 1, 1.5), ("B", 0, 3.75, 4.75)]
    assert times(found, 1) == [("F", 0, 1.5, 2.5), ("B", 0, 2.5, 3.5), ("send", 0, 3.5, 3.75)]


def test_transit_delays_the_receiver_alone():
    found = timeline(durations([1, 1], [1, 1], transit=0.5), "1f1b", 2)
    assert times(found, 0)[1] == ("F", 1, 1, 2)
    assert times(found, 1)[0] == ("F", 0, 1.5, 2.5)


@pytest.mark.parametrize("schedule", ["1f1b", "fthenb"])
@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 4), (4, 1), (4, 3), (4, 8), (3, 20)])
def test_equal_stages_take_m_plus_p_minus_1_turns(schedule, stages, micro_batches):
    found = timeline(durations([1.0] * stages, [2.0] * stages), schedule, micro_batches)
    assert found.end_s == pytest.approx(3 * (micro_batches + stages - 1))


def test_every_action_of_a_schedule_happens_once_and_in_order():
    found = timeline(durations([1, 3, 2], [2, 2, 5]), "1f1b", 5)
    for stage, expected in enumerate(actions("1f1b", 3, 5)):
        assert [(e.kind, e.micro_batch) for e in found.of(stage)] == [(a.kind, a.micro_batch) for a in expected]


positive = st.floats(1e-3, 1e3) | st.sampled_from([1.0, 2.0, 0.5])


@st.composite
def cases(draw):
    stages = draw(st.integers(1, 6))
    several = st.lists(positive, min_size=stages, max_size=stages)
    found = Durations(
        forward_s=tuple(draw(several)),
        backward_s=tuple(draw(several)),
        send_forward_s=(*draw(several)[1:], 0.0),
        send_backward_s=(0.0, *draw(several)[1:]),
        transit_s=draw(st.sampled_from([0.0, 0.3])),
    )
    return found, draw(st.integers(1, 30)), draw(st.sampled_from(["1f1b", "fthenb"]))


@given(cases())
def test_the_closed_form_equals_the_simulation(case):
    found, micro_batches, schedule = case
    simulated = timeline(found, schedule, micro_batches)
    ends = [max(e.end_s for e in simulated.of(s)) for s in range(found.stages)]
    forward = np.add(found.forward_s, found.send_forward_s)
    backward = np.add(found.backward_s, found.send_backward_s)
    closed = last_backward_s(forward, backward, micro_batches, schedule, found.transit_s)
    assert closed == pytest.approx(ends, rel=CLOSE)


def test_many_cases_at_once_equal_one_at_a_time():
    rng = np.random.default_rng(0)
    forward, backward = rng.random((7, 5)), rng.random((7, 5))
    together = last_backward_s(forward, backward, 40)
    alone = [last_backward_s(f, b, 40) for f, b in zip(forward, backward, strict=True)]
    assert together == pytest.approx(np.array(alone))


@given(cases(), st.integers(0, 5), st.floats(0, 10))
def test_a_slower_stage_never_shortens_the_step(case, which, more):
    found, micro_batches, schedule = case
    forward, backward = np.array(found.forward_s), np.array(found.backward_s)
    slower = forward.copy()
    slower[which % len(slower)] += more
    before = last_backward_s(forward, backward, micro_batches, schedule).max()
    assert last_backward_s(slower, backward, micro_batches, schedule).max() >= before * (1 - 1e-12)
