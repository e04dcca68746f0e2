"""Scaling curves: what is kept at every size, what efficiency is against, and sizes without a plan."""

from dataclasses import replace

import pytest

from nebula.errors import BadInput
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.scaling import batch_at, doubled_sizes, scaling
from nebula.planner.search import search
from tests.pure.cost_samples import chain, cluster, device

GRAPH, WHERE, JOB = chain(3), cluster(nodes=4, per_node=2), Job(global_batch=16)


def curve(**more):
    return scaling(GRAPH, WHERE, JOB, **({"sizes": (2, 4, 8)} | more))


def test_weak_scaling_keeps_the_rows_of_a_device():
    points = curve()
    assert [(p.devices, p.global_batch) for p in points] == [(2, 4), (4, 8), (8, 16)]
    assert points[-1].outcome.plan.prediction == search(GRAPH, WHERE, JOB).plan.prediction
    assert points[0].efficiency == 1.0


def test_strong_scaling_keeps_the_batch_and_is_never_more_efficient_than_weak_here():
    points = curve(curve="strong")
    assert {p.global_batch for p in points} == {16}
    for point in points:
        base = points[0]
        by_time = base.outcome.step_time_s * base.devices / (point.outcome.step_time_s * point.devices)
        assert point.efficiency == pytest.approx(by_time)
    assert all(strong.efficiency <= weak.efficiency + 1e-9 for strong, weak in zip(points, curve(), strict=True))


def test_without_communication_weak_scaling_is_perfect():
    quiet = cluster(nodes=8, per_node=1, nic=1e18)
    group = replace(quiet.groups[0], nic=replace(quiet.groups[0].nic, latency_s=0.0))
    silent = replace(quiet, groups=(group,), tiers=tuple(replace(t, latency_s=0.0) for t in quiet.tiers))
    fixed = Objective(fixed={"tensor": 1, "pipeline": 1, "sharding": 0, "micro_batch_rows": 1})
    points = scaling(GRAPH, silent, JOB, fixed, sizes=(2, 4, 8))
    assert [p.efficiency for p in points] == pytest.approx([1.0, 1.0, 1.0], rel=1e-6)


def test_sizes_without_a_plan_are_rows_with_a_reason():
    points = curve(sizes=(3, 4, 8))
    assert [bool(p.outcome.plan) for p in points] == [False, True, True]
    assert "3 devices are no whole nodes" in points[0].outcome.reason
    assert points[0].efficiency == 0.0
    assert points[1].efficiency == 1.0


def test_what_does_not_fit_says_so():
    small = cluster(nodes=2, per_node=2, kind=device(memory_bytes=1e4))
    (point,) = scaling(GRAPH, small, JOB, sizes=(4,))
    assert point.outcome.plan is None
    assert "does not fit" in point.outcome.reason
    assert "\n" not in point.outcome.reason


def test_a_weak_batch_must_be_whole():
    with pytest.raises(BadInput, match=r"15 rows × 3 / 8 devices is no whole number of rows"):
        batch_at(replace(JOB, global_batch=15), WHERE, 3, "weak")
    assert batch_at(JOB, WHERE, 4, "weak") == 8
    assert batch_at(JOB, WHERE, 3, "strong") == 16


def test_sizes_double_up_to_the_whole_cluster():
    assert doubled_sizes(WHERE) == (2, 4, 8)
    assert doubled_sizes(cluster(nodes=5, per_node=8)) == (8, 16, 32, 40)


def test_nodes_that_are_left_out_are_left_out_at_every_size():
    points = curve(objective=Objective(exclude=("n/0",)), sizes=(4, 8))
    assert [p.outcome.devices for p in points] == [2, 6]
    assert all(place.node != "n/0" for p in points for place in p.outcome.plan.ranks)
