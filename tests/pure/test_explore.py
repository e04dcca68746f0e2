"""The space beyond the engines: its prices against evaluate, its search against trying everything, its bounds."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import numpy as np
import pytest

from nebula.cluster.values import Cluster, NodeGroup
from nebula.cost_model.evaluate import evaluate
from nebula.cost_model.executed import paddle_execution, predict_executed
from nebula.errors import BadInput, Infeasible
from nebula.models.describe import decoder_graph
from nebula.plan.job import Objective
from nebula.plan.legality import executable, violations
from nebula.plan.values import Job, MadeFrom, Sharding
from nebula.planner.explore.baselines import baselines
from nebula.planner.explore.bounds import Bounds
from nebula.planner.explore.layers import Layers
from nebula.planner.explore.plans import plan_of
from nebula.planner.explore.price import WayPrices, balanced
from nebula.planner.explore.search import TOLERANCE, explore, pools_of
from nebula.planner.explore.ways import Inner, Outer, Space, Way, experts_of
from tests.pure.cost_samples import cluster as bare_cluster
from tests.pure.cost_samples import device as bare_device
from tests.pure.decoder_samples import GROUPED, MIXED

DENSE = decoder_graph("dense", replace(GROUPED, layers=4), dtype="float32")
EXPERTS = decoder_graph("mixed", replace(MIXED, layers=3), dtype="float32")
MADE_FROM = MadeFrom(model="", model_hash="", cluster="", cluster_hash="")
JOB = Job(global_batch=8)


def device(**more):
    """A device with room for a process and its communicators."""
    return bare_device(**({"memory_bytes": 16e9} | more))


def cluster(nodes, per_node, *, kind=None, **more) -> Cluster:
    return bare_cluster(nodes, per_node, kind=kind or device(), **more)


def prices(graph, on: Cluster, job: Job = JOB) -> WayPrices:
    return WayPrices(Layers(graph, on, job), pools_of(on))


def mixed_cluster(**second) -> Cluster:
    """Two types of devices, four of each, in nodes of two."""
    one, two = cluster(2, 2), cluster(2, 2, kind=device(name="e", **second))
    groups: tuple[NodeGroup, ...] = (one.groups[0], replace(two.groups[0], name="m"))
    return replace(one, groups=groups)


def every_way(graph, on: Cluster, job: Job):
    """All ways, by naive loops that share nothing with the search."""
    sizes, layers, experts = [len(d) for d in pools_of(on).devices], len(graph.layers), experts_of(graph)
    per_node = min(g.devices_per_node for g in on.groups)
    counts = [
        tuple(n if i == j else 0 for j in range(len(sizes))) for i, s in enumerate(sizes) for n in range(1, s + 1)
    ]
    for tensor in (t for t in range(1, per_node + 1) if per_node % t == 0):
        for expert in (e for e in range(1, experts + 1) if experts % e == 0):
            for data in range(1, max(sizes) + 1):
                group = tensor * data
                together = tuple(s // group for s in sizes)
                for rows in (r for r in range(1, 9) if job.global_batch % (r * data) == 0):
                    m = job.global_batch // (rows * data)
                    for stages in {*counts, *([together] if min(together) and len(sizes) > 1 else [])}:
                        p = sum(stages)
                        fitting = all(n * group <= s for n, s in zip(stages, sizes, strict=True))
                        if group % expert or p > layers or not fitting:
                            continue
                        schedules = [("1f1b", 1)] if p == 1 else [("1f1b", 1), ("zb-h1", 1)] * (m >= p)
                        schedules += [("interleaved", v) for v in range(2, 9) if p > 1 and p * v <= layers and m >= p]
                        if p > 1 and 2 * p <= layers and m >= 2 * p:
                            schedules += [("zb-v", 2), ("dualpipe-v", 2)]
                        shardings = [Sharding()] + [Sharding(stage=s, degree=data) for s in (1, 2, 3) if data > 1]
                        for recompute in ("none", "selective", "full"):
                            for schedule, chunks in schedules:
                                for sharding in shardings:
                                    inner = Inner(tensor, 1, expert, rows, recompute)
                                    yield Way(inner, Outer(data, stages, schedule, chunks, sharding))


def predicted(way: Way, at: WayPrices, graph, on: Cluster, job: Job = JOB):
    boundaries = at.deal(way).boundaries
    plan = plan_of(way, boundaries, at.grids(way), on, job, MADE_FROM)
    return plan, predict_executed(graph, on, plan, paddle_execution(job, way.inner.recompute))


def test_a_way_is_priced_as_its_plan_is():
    chosen = random.Random(11).sample(list(every_way(EXPERTS, cluster(2, 4), JOB)), 60)
    at = prices(EXPERTS, cluster(2, 4))
    for way in chosen:
        plan, found = predicted(way, at, EXPERTS, cluster(2, 4))
        priced = at.price(way)
        assert priced.step_s == pytest.approx(found.step_time_s, rel=1e-9), way
        assert priced.peak_share == pytest.approx(max(m.total_bytes / m.limit_bytes for m in found.memory)), way
        assert not violations(plan, layers=len(EXPERTS.layers), cluster=cluster(2, 4)), way


def test_evaluate_takes_the_policy_of_a_plan_beyond_fleet():
    at, on = prices(DENSE, cluster(1, 4)), cluster(1, 4)
    way = Way(Inner(2, 1, 1, 1, "full"), Outer(1, (2,), "interleaved", 2, Sharding()))
    plan, found = predicted(way, at, DENSE, on)
    assert evaluate(DENSE, on, plan).step_time_s == found.step_time_s
    unlike = replace(plan, stages=(replace(plan.stages[0], recompute="none"), *plan.stages[1:]))
    with pytest.raises(BadInput, match="under one policy"):
        evaluate(DENSE, on, unlike)


CASES = {
    "dense": (DENSE, cluster(1, 4)),
    "dense, slow network": (DENSE, cluster(4, 1, nic=1e7)),
    "experts": (EXPERTS, cluster(2, 2)),
    "experts, fast links": (EXPERTS, cluster(1, 4, intra=1e12)),
    "experts, slow kernels": (EXPERTS, cluster(2, 4, kind=device(kernel_s=1e-3))),
    "two types": (DENSE, mixed_cluster(peak_flops={"float32": 3e11}, kernel_s=2e-5)),
    "two types of experts": (EXPERTS, mixed_cluster(peak_flops={"float32": 2e12})),
}


@pytest.mark.parametrize("name", CASES)
def test_the_search_finds_the_best_of_all_ways(name):
    graph, on = CASES[name]
    at = prices(graph, on)
    times = []
    for way in every_way(graph, on, JOB):
        try:
            times.append(at.price(way).step_s)
        except BadInput:
            continue
    best_s = min(times)
    answer = explore(graph, on, JOB)
    assert answer.plan.prediction is not None
    found_s = answer.plan.prediction.step_time_s
    assert best_s <= found_s * (1 + 1e-9)
    assert found_s <= best_s * (1.0 + TOLERANCE)
    assert answer.bound_s <= best_s * (1 + 1e-9)
    assert answer.gap <= TOLERANCE + 1e-9


def test_bounds_are_below_prices():
    for graph, on in CASES.values():
        at = prices(graph, on)
        space = Space(
            job=JOB,
            devices=tuple(len(d) for d in at.pools.devices),
            per_node=min(g.devices_per_node for g in on.groups),
            layers=len(graph.layers),
            experts=experts_of(graph),
            tokens=int(graph.tokens_per_row),
            fixed={},
        )
        bounds = Bounds(space=space, prices=at)
        for inner in (Inner(1, 1, 1, 1, "none"), Inner(2, 1, 1, 2, "full")):
            try:
                work = bounds.work(inner)
            except BadInput:
                continue
            if not math.isfinite(bounds.least_seconds(inner, work)):
                continue
            for bound_s, outer in bounds.outers(inner, work, math.inf):
                priced = at.price(Way(inner, outer))
                assert bound_s <= priced.step_s * (1 + 1e-9), outer
                assert bounds.least_seconds(inner, work) <= priced.step_s * (1 + 1e-9)


def test_what_is_found_says_that_no_engine_runs_it_yet():
    answer = explore(DENSE, cluster(2, 2), JOB, Objective(fixed={"schedule": "interleaved", "pipeline": 2}))
    assert "interleaved" in answer.plan.split
    assert "pipeline 2 × 3 virtual stages" in answer.plan.split
    assert executable(answer.plan, "npu").engine is None


def test_stages_on_two_types_beat_the_faster_type_alone():
    both = mixed_cluster(peak_flops={"float32": 5e11})
    together, alone = (explore(DENSE, on, JOB).plan for on in (both, replace(both, groups=both.groups[:1])))
    assert together.prediction.step_time_s <= alone.prediction.step_time_s
    assert {place.node.split("/")[0] for place in together.ranks} <= {"n", "m"}


def test_a_mixed_cluster_is_compared_with_its_fast_part_and_with_all_as_slow():
    both = mixed_cluster(peak_flops={"float32": 5e11})
    answer = explore(DENSE, both, JOB)
    fast, slow = baselines(DENSE, both, JOB, Objective(), answer, lambda _: False)
    assert re.match(r"For comparison, on the 4 d alone a step takes .*, \d+% more\.", fast)
    assert re.match(r"For comparison, with all devices as slow as e a step takes .*, \d+% (more|less)\.", slow)
    assert baselines(DENSE, cluster(1, 4), JOB, Objective(), answer, lambda _: False) == ()


def test_an_interruption_gives_the_best_so_far_with_its_gap():
    def stop(progress):
        if progress.priced == 3:
            raise KeyboardInterrupt

    answer = explore(EXPERTS, cluster(2, 4), JOB, on_progress=stop)
    assert answer.priced == 3
    assert answer.bound_s <= explore(EXPERTS, cluster(2, 4), JOB).plan.prediction.step_time_s
    assert explore(EXPERTS, cluster(2, 4), JOB, enough=lambda gap: True).gap >= 0.0


def test_what_fits_nowhere_is_refused():
    with pytest.raises(Infeasible, match="does not fit on 4 devices"):
        explore(DENSE, cluster(1, 4, kind=device(memory_bytes=1e3)), JOB)
    with pytest.raises(Infeasible, match="relax one"):
        explore(DENSE, cluster(1, 4), JOB, Objective(fixed={"pipeline": 9}))


def test_other_aims_are_refused():
    with pytest.raises(BadInput, match="searched for the shortest step"):
        explore(DENSE, cluster(1, 4), JOB, Objective(minimise="cost"))


def test_layers_are_dealt_so_that_the_slowest_stage_is_fastest():
    rng = np.random.default_rng(3)
    for _ in range(50):
        times = rng.uniform(0.1, 1.0, (3, 7))
        sums = np.concatenate([np.zeros((3, 1)), times.cumsum(axis=1)], axis=1)
        runs = [s[None, :] - s[:, None] for s in sums]
        for run in runs:
            run[np.tril_indices(8)] = np.inf
        bounds = balanced(runs)
        slowest = max(run[a, b] for run, a, b in zip(runs, bounds, bounds[1:], strict=False))
        every = (max(runs[0][0, a], runs[1][a, b], runs[2][b, 7]) for a in range(1, 6) for b in range(a + 1, 7))
        assert slowest == pytest.approx(min(every))
