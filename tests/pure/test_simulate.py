"""Simulation event by event: pipelines drawn by hand, and the bubbles that the papers give in formulas."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from schedule_samples import timed

from nebula.cost_model.simulate import Durations, Sends, timeline
from nebula.plan.schedule import actions


def durations(forward, backward, *, sends=0.0, returns=0.0) -> Durations:
    last = len(forward) - 1
    return Durations(
        forward_s=tuple(forward),
        backward_s=tuple(backward),
        send_forward_s=tuple(sends if s < last else 0.0 for s in range(last + 1)),
        send_backward_s=tuple(returns if s > 0 else 0.0 for s in range(last + 1)),
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


@pytest.mark.parametrize("schedule", ["1f1b", "fthenb"])
@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 4), (4, 1), (4, 3), (4, 8), (3, 20)])
def test_equal_stages_take_m_plus_p_minus_1_turns(schedule, stages, micro_batches):
    found = timeline(durations([1.0] * stages, [2.0] * stages), schedule, micro_batches)
    assert found.end_s == pytest.approx(3 * (micro_batches + stages - 1))


def test_every_action_of_a_schedule_happens_once_and_in_order():
    found = timeline(durations([1, 3, 2], [2, 2, 5]), "1f1b", 5)
    for stage, expected in enumerate(actions("1f1b", 3, 5)):
        assert [(e.kind, e.micro_batch) for e in found.of(stage)] == [(a.kind, a.micro_batch) for a in expected]


def test_weights_wait_for_nobody_by_hand():
    found = timeline(replace(durations([1, 1], [2, 2]), weight_s=(1, 1)), "zb-h1", 2)
    assert times(found, 0) == [
        ("F", 0, 0, 1),
        ("F", 1, 1, 2),
        ("I", 0, 3, 4),
        ("W", 0, 4, 5),
        ("I", 1, 5, 6),
        ("W", 1, 6, 7),
    ]
    assert [e[0] for e in times(found, 1)] == ["F", "I", "F", "I", "W", "W"]
    assert found.end_s == 7


def test_a_message_beside_compute_occupies_nobody():
    found = timeline(replace(durations([1, 1], [1, 1], sends=0.5), sends=Sends.BESIDE), "1f1b", 2)
    assert times(found, 0)[:4] == [("F", 0, 0, 1), ("send", 0, 1, 1.5), ("F", 1, 1, 2), ("send", 1, 2, 2.5)]
    assert times(found, 1)[0] == ("F", 0, 1.5, 2.5)


def test_messages_beside_compute_queue_on_their_way():
    found = timeline(replace(durations([1, 1], [1, 1], sends=3, returns=1), sends=Sends.BESIDE), "fthenb", 2)
    assert times(found, 0)[:4] == [("F", 0, 0, 1), ("send", 0, 1, 4), ("F", 1, 1, 2), ("send", 1, 4, 7)]
    assert times(found, 1) == [
        ("F", 0, 4, 5),
        ("F", 1, 7, 8),
        ("B", 0, 8, 9),
        ("send", 0, 9, 10),
        ("B", 1, 9, 10),
        ("send", 1, 10, 11),
    ]


def test_stages_on_one_device_hand_over_at_once():
    found = timeline(durations([1, 1], [1, 1]), "zb-v", 1, 2)
    assert [(e.chunk, e.start_s) for e in found.of(0) if e.kind == "F"] == [(0, 0), (1, 1)]


def end_s(schedule, devices, micro_batches, chunks=1, forward=1.0, backward=2.0, weights=1.0):
    stages = devices * chunks
    equal = durations([forward] * stages, [backward] * stages)
    return timeline(replace(equal, weight_s=(weights,) * stages), schedule, micro_batches, chunks).end_s


@pytest.mark.parametrize(
    ("devices", "micro_batches", "chunks"), [(2, 4, 2), (4, 8, 3), (4, 10, 2), (4, 13, 2), (3, 3, 4)]
)
def test_interleaving_has_a_bubble_of_p_minus_1_over_mv(devices, micro_batches, chunks):
    """Narayanan et al., SC 2021, section 2.2.2."""
    ideal = 3.0 * micro_batches * chunks
    bubble = end_s("interleaved", devices, micro_batches, chunks) / ideal - 1
    assert bubble == pytest.approx((devices - 1) / (micro_batches * chunks))


@pytest.mark.parametrize(("backward", "weights"), [(2.0, 1.0), (2.2, 0.9), (1.8, 0.8)])
def test_zb_h1_has_the_published_bubble(backward, weights):
    """(p - 1) (T_F + T_B - T_W) with T_B the gradients of the inputs alone: arXiv 2401.10241, section 2.3, table 2."""
    end = end_s("zb-h1", 4, 16, 1, 1.0, backward, weights)
    assert end == pytest.approx(16 * (1 + backward) + 3 * (1 + backward - 2 * weights))
    assert end < end_s("1f1b", 4, 16, 1, 1.0, backward, weights)


@pytest.mark.parametrize("devices", [2, 4, 8, 12])
def test_dualpipe_waits_less_than_half_as_long(devices):
    """At most (p/2 - 1) (F&B + B - 3 W): arXiv 2412.19437, table 2, where pairs hand over when both are done.

    With F = I = W, as the forward of a pair hands over at once here, (p/2 - 1) (F + B - 2 W).
    """
    for micro_batches in (2 * devices, 4 * devices):
        bubble = end_s("dualpipe", devices, micro_batches, 2) - micro_batches * 3
        assert bubble == pytest.approx((devices / 2 - 1) * (1 + 2 - 2 * 1))
        unlike = end_s("dualpipe", devices, micro_batches, 2, 1.0, 2.2, 0.9) - micro_batches * 3.2
        assert unlike <= (devices / 2 - 1) * (3.2 + 2.2 - 3 * 0.9) + 1e-9
        assert unlike < (end_s("1f1b", devices, micro_batches, 1, 1.0, 2.2) - micro_batches * 3.2) / 2


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_zb_v_waits_only_for_its_first_and_last_micro_batch(devices):
    """Equal F, I and W: without bubbles but for the p - 1 forwards until the last device has work (section 6)."""
    end = end_s("zb-v", devices, 4 * devices, 2)
    assert end - 3 * 2 * 4 * devices == pytest.approx(devices - 1)


@given(timed(), st.floats(0, 3))
def test_more_communication_is_never_faster(case, factor):
    found, asked = case
    slower = replace(
        found,
        send_forward_s=tuple((1 + factor) * s for s in found.send_forward_s),
        send_backward_s=tuple((1 + factor) * s for s in found.send_backward_s),
    )
    assert timeline(slower, *asked).end_s >= timeline(found, *asked).end_s * (1 - 1e-12)
    beside = timeline(replace(found, sends=Sends.BESIDE), *asked).end_s
    assert timeline(replace(found, sends=Sends.OCCUPY), *asked).end_s >= beside * (1 - 1e-12)
