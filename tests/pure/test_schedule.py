"""The schedule language: complete orders that never wait for themselves, places of stages, and what is held at once."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from schedule_samples import pipelines

from nebula.cost_model.simulate import Durations, timeline
from nebula.errors import BadInput
from nebula.plan.schedule import SCHEDULES, actions, alive, device_of, in_flight, virtual_stage_of


def words(own):
    return " ".join(f"{a.kind}{a.micro_batch}.{a.chunk}" for a in own)


@given(pipelines())
def test_every_micro_batch_passes_every_virtual_stage_once_in_each_way(pipeline):
    name, devices, micro_batches, chunks = pipeline
    lists = actions(*pipeline)
    done = Counter(
        (a.kind, virtual_stage_of(name, d, a.chunk, devices), a.micro_batch) for d, own in enumerate(lists) for a in own
    )
    assert set(done.values()) == {1}
    forward, whole, inputs, weights = ({k[1:] for k in done if k[0] == kind} for kind in "FBIW")
    half = (micro_batches + 1) // 2
    entered = {
        (v, i)
        for v in range(devices * chunks)
        for i in range(micro_batches)
        if name != "dualpipe" or (i < half) == (v < devices)
    }
    assert forward == entered
    assert inputs == weights
    assert whole | inputs == entered
    assert not whole & inputs


@given(pipelines())
def test_a_backward_follows_its_forward_and_weights_follow_inputs(pipeline):
    for own in actions(*pipeline):
        place = {a: index for index, a in enumerate(own)}
        for action, index in place.items():
            before = {"F": None, "B": "F", "I": "F", "W": "I"}[action.kind]
            assert before is None or place[action._replace(kind=before)] < index


@given(pipelines(most_devices=10, most_micro_batches=60))
def test_no_schedule_waits_for_itself(pipeline):
    name, devices, micro_batches, chunks = pipeline
    ones, zeros = (1.0,) * (devices * chunks), (0.0,) * (devices * chunks)
    durations = Durations(forward_s=ones, backward_s=ones, send_forward_s=zeros, send_backward_s=zeros)
    found = timeline(durations, name, micro_batches, chunks)
    assert found.end_s >= 2 * micro_batches * chunks / SCHEDULES[name].chains


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("1f1b", [0, 1, 2, 3]),
        ("interleaved", [0, 1, 2, 3, 0, 1, 2, 3]),
        ("zb-v", [0, 1, 2, 3, 3, 2, 1, 0]),
        ("dualpipe", [0, 1, 2, 3, 3, 2, 1, 0]),
    ],
)
def test_where_virtual_stages_lie(schedule, expected):
    chunks = len(expected) // 4
    assert [device_of(schedule, v, 4, chunks) for v in range(len(expected))] == expected
    assert [virtual_stage_of(schedule, d, v // 4, 4) for v, d in enumerate(expected)] == list(range(len(expected)))


def test_megatron_s_interleaving():
    first, last = actions("interleaved", 2, 4, 2)
    assert words(first) == ("F0.0 F1.0 F0.1 F1.1 F2.0 B0.1 F3.0 B1.1 F2.1 B0.0 F3.1 B1.0 B2.1 B3.1 B2.0 B3.0")
    assert words(last).startswith("F0.0 F1.0 F0.1 B0.1 F1.1 B1.1 F2.0 B0.0")


def test_the_two_ends_of_dualpipe_mirror_each_other():
    first, last = actions("dualpipe", 2, 4, 2)
    assert words(first) == "F0.0 F2.1 F1.0 B2.1 F3.1 B0.0 B3.1 I1.0 W1.0"
    swapped = [a._replace(chunk=1 - a.chunk, micro_batch=(a.micro_batch + 2) % 4) for a in last]
    assert words(swapped) == words(first)


@pytest.mark.parametrize("micro_batches", [1, 3, 8, 40])
def test_1f1b_holds_p_minus_d_and_fthenb_all(micro_batches):
    assert [in_flight("1f1b", 4, d, micro_batches) for d in range(4)] == [min(4 - d, micro_batches) for d in range(4)]
    assert [in_flight("fthenb", 4, d, micro_batches) for d in range(4)] == [micro_batches] * 4


@pytest.mark.parametrize(("devices", "chunks"), [(2, 2), (4, 3), (8, 6)])
def test_interleaving_holds_1_plus_p_minus_1_over_pv_of_a_pipeline(devices, chunks):
    """Korthikanti et al., arXiv 2205.05198, section 4.2.3: L (1 + (p - 1) / (p v)) layers on the first device."""
    held = in_flight("interleaved", devices, 0, 4 * devices, chunks)
    assert held / chunks == pytest.approx(devices * (1 + (devices - 1) / (devices * chunks)))
    last = in_flight("interleaved", devices, devices - 1, 4 * devices, chunks)
    assert last == held - 2 * (devices - 1)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_zero_bubble_and_bidirectional_schedules_hold_alike_on_all_devices(devices):
    """ZB-H1 and ZB-V: p stages (arXiv 2401.10241, sections 2.1 and 6); DualPipe p + 1 (arXiv 2412.19437, table 2)."""
    wanted = {"zb-h1": (1, devices), "zb-v": (2, 2 * devices), "dualpipe": (2, devices + 1)}
    for name, (chunks, held) in wanted.items():
        assert {in_flight(name, devices, d, 4 * devices, chunks) for d in range(devices)} == {held}


@given(pipelines(most_micro_batches=90), st.data())
def test_what_is_alive_is_counted_along_the_actions(pipeline, data):
    """Short steps stand for long ones in `in_flight`; here all actions are counted."""
    name, devices, micro_batches, chunks = pipeline
    device = data.draw(st.integers(0, devices - 1))
    now, most = 0, 0
    for action in actions(*pipeline)[device]:
        now += (action.kind == "F") - (action.kind in "BW")
        most = max(most, now)
    assert now == 0
    assert in_flight(name, devices, device, micro_batches, chunks) == most
    assert sum(alive(name, devices, device, micro_batches, chunks)) == most


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("1f1", 4, 8, 1), "schedule '1f1' does not exist; did you mean '1f1b'?"),
        (("1f1b", 4, 8, 2), "4 devices × chunks 2 = 8 virtual stages, but a device holds 1 of them"),
        (("interleaved", 4, 8, 1), "make it 2 or more × 4 virtual stages or take 1f1b"),
        (("zb-v", 4, 8, 3), "4 devices × chunks 3 = 12 virtual stages, but a device holds 2 of them"),
        (("dualpipe", 3, 8, 2), "device d holds stages d and 3 - 1 - d, .* take an even number of devices"),
        (("zb-h1", 0, 8, 1), "0 devices; a pipeline has at least 1"),
        (("zb-h1", 4, 0, 1), "0 micro-batches; a step has at least 1"),
    ],
)
def test_impossible_combinations_are_refused(asked, sentence):
    with pytest.raises(BadInput, match=sentence):
        actions(*asked)


def test_stages_that_no_devices_hold_are_refused():
    durations = Durations(forward_s=(1,) * 7, backward_s=(1,) * 7, send_forward_s=(0,) * 7, send_backward_s=(0,) * 7)
    with pytest.raises(BadInput, match="7 virtual stages / 2 chunks per device is not a whole number of devices"):
        timeline(durations, "interleaved", 4, 2)
