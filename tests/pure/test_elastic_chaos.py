"""Schedules of faults: what is drawn, what is refused, and what is read from a job's events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.elastic.chaos.run import Injected, Result, outcomes
from nebula.elastic.chaos.schema import load_schedule
from nebula.elastic.chaos.values import Fault, Kind, Schedule, Weather
from nebula.elastic.protocol import control_pb2 as wire
from nebula.errors import BadInput
from nebula.report.chaos_text import chaos_text


def load(tmp_path, text):
    path = tmp_path / "faults.yaml"
    path.write_text(text)
    return load_schedule(path)


def test_a_schedule_is_read(tmp_path):
    found = load(tmp_path, "faults: [{fault: kill, at: 10s}, {fault: loop, at_step: 4, node: a}]\nfor: 1min\nseed: 3\n")
    assert found.faults == (Fault(kind=Kind.KILL, at_s=10.0), Fault(kind=Kind.LOOP, at_step=4, node="a"))
    assert (found.lasts_s, found.seed) == (60.0, 3)
    assert found.by_step() == [found.faults[1]]
    assert found.timed() == [(10.0, found.faults[0])]


def test_what_happens_to_lines_is_read(tmp_path):
    text = (
        "faults: [{fault: link, at: 1s, seconds: 5s, delay: 100ms, rate: 2MB/s, loss: 0.05},"
        "{fault: partition, at: 2s, seconds: 5s}, {fault: partition, at: 3s, seconds: 5s, way: in}]\nfor: 1min\n"
    )
    assert [fault.weather for fault in load(tmp_path, text).faults] == [
        Weather(delay_s=0.1, bytes_per_s=2e6, loss=0.05),
        Weather(out=False, into=False),
        Weather(into=False),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("faults: [{fault: burn, at: 1s}]\nfor: 1s\n", "burn"),
        ("faults: [{fault: kill}]\nfor: 1s\n", "give one of at, at_step and every, not 0"),
        ("faults: [{fault: kill, at: 1s, every: 2s}]\nfor: 1s\n", "not 2 of them"),
        ("faults: [{fault: slow, at: 1s}]\nfor: 1s\n", "say for how long"),
        ("faults: []\nfor: 1s\n", "faults"),
        ("faults: [{fault: kill, at: 1s}]\n", "for"),
        ("faults: [{fault: kill, when: 1s}]\nfor: 1s\n", "when"),
        (
            "faults:\n  - {fault: kill, at: 1s}\n  - {fault: link, at: 1s, seconds: 2}\nfor: 1s\n",
            r"yaml:3:5.*how bad the lines",
        ),
        ("faults: [{fault: link, at: 1s, delay: 50ms}]\nfor: 1s\n", "say for how long"),
        ("faults: [{fault: link, at: 1s, seconds: 1, loss: 1.5}]\nfor: 1s\n", "loss"),
        ("faults: [{fault: link, at: 1s, seconds: 1, rate: 0B/s}]\nfor: 1s\n", "rate"),
        ("faults: [{fault: kill, at: 1s, delay: 50ms}]\nfor: 1s\n", "go with `fault: link`"),
        ("faults: [{fault: kill, at: 1s, way: out}]\nfor: 1s\n", "goes with `fault: partition`"),
        ("faults: [{fault: partition, at: 1s}]\nfor: 1s\n", "say for how long"),
        ("faults: [{fault: partition, at: 1s, seconds: 1, way: up}]\nfor: 1s\n", "way"),
        ("faults: [{fault: certificate, at: 1s}]\nfor: 1s\n", "say for how long"),
        ("faults: [{fault: torn, at: 1s, node: a}]\nfor: 1s\n", "leave out `node: a`"),
    ],
)
def test_mistakes_are_said(tmp_path, text, words):
    with pytest.raises(BadInput, match=words):
        load(tmp_path, text)


@given(st.integers(0, 100), st.floats(1, 50))
def test_what_is_drawn_depends_on_the_seed_alone_and_is_in_order(seed, mean_s):
    schedule = Schedule(faults=(Fault(kind=Kind.KILL, every_s=mean_s),), lasts_s=600.0, seed=seed)
    times = [at_s for at_s, _ in schedule.timed()]
    assert times == [at_s for at_s, _ in schedule.timed()] == sorted(times)
    assert all(0 < at_s < 600 for at_s in times)


def test_as_many_faults_come_as_their_mean_says():
    counts = [
        len(Schedule(faults=(Fault(kind=Kind.KILL, every_s=20.0),), lasts_s=600.0, seed=seed).timed())
        for seed in range(200)
    ]
    assert 28.5 < sum(counts) / len(counts) < 31.5


def event(number, wall_s, kind, lost=0):
    return wire.Event(number=number, wall_s=wall_s, kind=kind, because=f"{kind} {number}", seconds={"lost_steps": lost})


def test_what_came_of_each_fault_is_read_from_the_events():
    kill, slow = Fault(kind=Kind.KILL, at_s=0.0), Fault(kind=Kind.SLOW, at_s=0.0, seconds=1.0)
    done = [
        Injected(fault=kill, node="a", wall_s=10.0),
        Injected(fault=slow, node="b", wall_s=20.0),
        Injected(fault=kill, node="b", wall_s=30.0, refused="no such node"),
    ]
    told = [
        event(1, 5.0, "failed"),
        event(2, 10.2, "failed"),
        event(3, 12.0, "stepping", lost=1),
        event(4, 31.0, "joined"),
    ]
    first, second, third = outcomes(done, told)
    assert (round(first.seen_s, 3), first.back_s, first.lost_steps, first.because) == (0.2, 2.0, 1, "failed 2")
    assert (second.seen_s, second.back_s, second.because) == (-1.0, -1.0, "nothing was noticed")
    assert third.because == "no such node"
    text = chaos_text(Result(outcomes=[first, second, third], phase="running", steps=9, seconds=40.0))
    assert "kill         a                0.20     2.00      1  failed 2" in text
    assert "3 faults in 40 s, 9 steps meanwhile; the job is running" in text


def test_every_kind_says_what_it_means():
    assert all(kind.meaning for kind in Kind)
