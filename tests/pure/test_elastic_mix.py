"""Mixes of jobs on a cluster: nodes that are lent exist, work is conserved, and simple cases are worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.elastic.policy.values import Bounds
from nebula.elastic.simulate.mix import WAYS, Mix, MixedJob, drawn, schedule
from nebula.errors import BadInput

NODES = 16
SIZES = [Bounds(least=1, most=4), Bounds(least=2, most=8, unit=2), Bounds(least=4, most=16, unit=4)]
jobs = st.lists(
    st.builds(MixedJob, at_s=st.floats(0, 1e5), bounds=st.sampled_from(SIZES), work_s=st.floats(1.0, 1e6)),
    min_size=1,
    max_size=12,
).map(lambda found: sorted(found, key=lambda job: job.at_s))


@given(jobs=jobs, way=st.sampled_from(sorted(WAYS)), pause_s=st.sampled_from([0.0, 60.0]))
def test_nodes_that_are_lent_exist_and_nobody_who_runs_is_sent_back(jobs, way, pause_s):
    def lend(running, sizes, nodes):
        lent = WAYS[way](running, sizes, nodes)
        assert sum(lent) <= nodes
        for had, has, bounds in zip(running, lent, sizes, strict=True):
            assert has == 0 or bounds.usable(has) == has
            assert has or not had
            assert way == "elastic" or not had or has == had
        assert any(lent) or not sizes
        return lent

    went = schedule(jobs, NODES, pause_s, lend)
    assert 0.0 < went.use <= 1.0 + 1e-9
    assert min(went.waits_s) >= 0.0
    for job, wait_s, in_all_s in zip(jobs, went.waits_s, went.turnarounds_s, strict=True):
        assert in_all_s >= (wait_s + job.work_s / job.bounds.most) * (1 - 1e-9)
    assert way == "elastic" or went.resizes == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_job_alone_takes_its_most(way):
    went = schedule([MixedJob(at_s=5.0, bounds=Bounds(least=1, most=8), work_s=800.0)], 8, 10.0, WAYS[way])
    assert (went.span_s, went.use, went.resizes) == (100.0, 1.0, 0)


def test_a_second_job_waits_or_shares():
    two = [MixedJob(at_s=at_s, bounds=Bounds(least=2, most=8), work_s=800.0) for at_s in (0.0, 50.0)]
    rigid = schedule(two, 8, 10.0, WAYS["rigid"])
    assert rigid.waits_s == (0.0, 50.0)
    assert rigid.span_s == 200.0
    elastic = schedule(two, 8, 10.0, WAYS["elastic"])
    assert elastic.waits_s == (0.0, 0.0)
    assert elastic.resizes == 2
    # 400 left on 6 nodes after a pause of 10 s, then the second grows from 2 to 8 with another pause
    first_s = 60.0 + 400.0 / 6
    assert elastic.turnarounds_s[0] == pytest.approx(first_s)
    assert elastic.span_s == pytest.approx(first_s + 10.0 + (800.0 - 2 * (first_s - 50.0)) / 8)


def test_a_large_head_of_the_queue_holds_up_rigid_alone():
    mixed = [
        MixedJob(at_s=0.0, bounds=Bounds(least=2, most=4), work_s=400.0),
        MixedJob(at_s=1.0, bounds=Bounds(least=8, most=8), work_s=800.0),
        MixedJob(at_s=2.0, bounds=Bounds(least=2, most=4), work_s=40.0),
    ]
    assert schedule(mixed, 8, 0.0, WAYS["rigid"]).waits_s[2] > 100.0
    assert schedule(mixed, 8, 0.0, WAYS["rigid, backfilled"]).waits_s[2] == 0.0
    assert schedule(mixed, 8, 0.0, WAYS["elastic"]).waits_s[2] == 0.0


def test_a_mix_is_the_same_for_the_same_seed():
    mix = Mix(
        nodes=64,
        jobs=50,
        gap_s=600.0,
        sizes=[(size, 1.0) for size in SIZES],
        length_median_s=3600.0,
        length_sigma=1.0,
        pause_s=1.0,
    )
    assert drawn(mix, 3) == drawn(mix, 3) != drawn(mix, 4)
    with pytest.raises(BadInput, match=r"a job of 16 nodes cannot wait for a cluster of 8"):
        Mix(nodes=8, jobs=1, gap_s=1.0, sizes=[(SIZES[2], 1.0)], length_median_s=1.0, length_sigma=0.0, pause_s=0.0)
