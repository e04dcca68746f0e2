"""The space beyond the engines: its prices against evaluate, its search against trying everything, its bounds."""

from __future__ import annotations

import math
import random
import re
import time
from dataclasses import replace

import numpy as np
import pytest

from nebula.cluster.values import Cluster, Link, NodeGroup, Site
from nebula.cost_model.eager import paddle_execution
from nebula.cost_model.evaluate import evaluate
from nebula.cost_model.executed import predict_executed
from nebula.cost_model.peak import CONTEXT_BYTES
from nebula.errors import BadInput, Infeasible
from nebula.models.describe import decoder_graph
from nebula.plan.job import Objective
from nebula.plan.legality import executable, violations
from nebula.plan.schedule import alive, device_of, waiting
from nebula.plan.values import Job, MadeFrom, Sharding
from nebula.planner.explore.baselines import alone, as_slowest, is_mixed, told
from nebula.planner.explore.bounds import Bounds
from nebula.planner.explore.deal import balanced, every_balanced, runs
from nebula.planner.explore.layers import Layers
from nebula.planner.explore.options import flights
from nebula.planner.explore.plans import plan_of
from nebula.planner.explore.pools import pools_of
from nebula.planner.explore.price import WayPrices
from nebula.planner.explore.search import _Explorer, explore
from nebula.planner.explore.sets import Policy
from nebula.planner.explore.space import Space, experts_of
from nebula.planner.explore.ways import Inner, Outer, Way
from nebula.planner.pool import places
from tests.pure.cost_samples import cluster as bare_cluster
from tests.pure.cost_samples import device as bare_device
from tests.pure.decoder_samples import GROUPED, MIXED

DENSE = decoder_graph("dense", replace(GROUPED, layers=4), dtype="float32")
EXPERTS = decoder_graph("mixed", replace(MIXED, layers=3), dtype="float32")
MADE_FROM = MadeFrom(model="", model_hash="", cluster="", cluster_hash="")
JOB = Job(global_batch=8)


def device(**more):
    """A real device with room for a process and its communicators."""
    return bare_device(**({"memory_bytes": 16e9, "emulated": False} | more))


def cluster(nodes, per_node, *, kind=None, **more) -> Cluster:
    return bare_cluster(nodes, per_node, kind=kind or device(), **more)


def prices(graph, on: Cluster, job: Job = JOB) -> WayPrices:
    return WayPrices(Layers(graph, on, job), pools_of(on))


def mixed_cluster(emulated=False, **second) -> Cluster:
    """Two types of devices, four of each, in nodes of two."""
    one = cluster(2, 2, kind=device(emulated=emulated))
    two = cluster(2, 2, kind=device(name="e", emulated=emulated, **second))
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
    devices = np.concatenate([grid.reshape(-1) for grid in at.at.grids(way)])
    plan = plan_of(way, at.deal(way), places(on, devices.tolist()), job, MADE_FROM)
    return plan, predict_executed(graph, on, plan, paddle_execution(job, on, way.inner.recompute))


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


CASES = {
    "dense": (DENSE, cluster(1, 4)),
    "dense, slow network": (DENSE, cluster(4, 1, nic=1e7)),
    "experts": (EXPERTS, cluster(2, 2)),
    "experts, fast links": (EXPERTS, cluster(1, 4, intra=1e12)),
    "experts, slow kernels": (EXPERTS, cluster(2, 4, kind=device(kernel_s=1e-3))),
    "two types": (DENSE, mixed_cluster(peak_flops={"float32": 3e11}, kernel_s=2e-5)),
    "two emulated types": (DENSE, mixed_cluster(emulated=True, peak_flops={"float32": 3e11}, kernel_s=2e-5)),
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
    assert found_s == pytest.approx(best_s, rel=1e-9)
    assert answer.bound_s <= best_s * (1 + 1e-9)
    assert 0.0 <= answer.gap <= 1e-9


def bounds_of(at: WayPrices, graph, on: Cluster) -> Bounds:
    space = Space(
        job=JOB,
        devices=tuple(len(d) for d in at.pools.devices),
        per_node=min(g.devices_per_node for g in on.groups),
        layers=len(graph.layers),
        experts=experts_of(graph),
        tokens=int(graph.tokens_per_row),
        fixed={},
    )
    return Bounds(space=space, prices=at)


def unlike_nodes() -> Cluster:
    """Nodes of two devices, then of four, one of them slow."""
    small, large = cluster(2, 2).groups[0], replace(cluster(2, 4).groups[0], name="m", slow=((1, 1.5),))
    return replace(cluster(2, 2), groups=(small, large))


@pytest.mark.parametrize("name", [*CASES, "unlike nodes"])
def test_bounds_are_below_prices(name):
    graph, on = (EXPERTS, unlike_nodes()) if name == "unlike nodes" else CASES[name]
    at = prices(graph, on)
    bounds = bounds_of(at, graph, on)
    for inner in (Inner(1, 1, 1, 1, "none"), Inner(2, 1, 1, 2, "full"), Inner(1, 1, 2, 1, "selective")):
        if not bounds.space.holds(inner):
            continue
        least_s = bounds.least_seconds(inner)
        assert bounds.least_of_fewer_rows(inner._replace(rows=8)) <= least_s * (1 + 1e-9)
        near = []
        for pool, devices in enumerate(bounds.space.devices):
            if inner.width <= devices:
                ranked = bounds.ranked(inner, pool, math.inf)
                near += [(float(s), ranked.outer(i)) for i, s in enumerate(ranked.bounds_s)]
        mixed = [bounds.mixed(inner, data) for data in bounds.space.data_degrees(inner)]
        for each in mixed:
            for way in each.ways():
                assert each.least_seconds() <= way.bound_s * (1 + 1e-9)
                near.append((way.bound_s, way.outer))
        assert near
        for bound_s, outer in near:
            way = Way(inner, outer)
            priced, m = at.price(way), way.micro_batches(JOB)
            placed_s = at.placed(way, at.deal(way), at.at.places(way)).least_seconds(m, outer.schedule)
            assert bound_s <= placed_s * (1 + 1e-9), outer
            assert placed_s <= priced.step_s * (1 + 1e-9), outer
            assert least_s <= bound_s * (1 + 1e-9), outer


def test_every_number_of_rows_is_bounded_by_a_multiple_of_it():
    """Of 6 and 8 rows none bounds the other: a tile that 6 fill may be filled but for a third by 8."""
    explorer = _Explorer(DENSE, cluster(1, 2), Job(global_batch=24), Objective(), lambda _: None, time.perf_counter)
    for inner in explorer.space.inners():
        explorer._list(inner)
    listed = {(n.what.inner.tensor, n.what.inner.rows) for n in explorer.heap}
    assert listed == {(tensor, rows) for tensor in (1, 2) for rows in (6, 8)}
    for node in list(explorer.heap):
        explorer._open(node)
    for node in [n for n in explorer.heap if isinstance(n.what, Policy)]:
        explorer._open(node)
    opened = [n.what for n in explorer.heap if isinstance(n.what, Inner)]
    assert len(opened) == len(set(opened)) == 2 * 3 * 6


def test_what_a_bound_says_does_not_fit_does_not():
    full, every = 0, 0
    for memory_bytes in (1.1e9, 1.2e9, 1.42e9):
        on = cluster(2, 4, kind=device(memory_bytes=memory_bytes, name="tight"))
        at = prices(EXPERTS, on)
        bounds = bounds_of(at, EXPERTS, on)
        for inner in (Inner(1, 1, 1, 4, "none"), Inner(2, 1, 1, 4, "full"), Inner(1, 1, 2, 4, "selective")):
            ranked = bounds.ranked(inner, 0, math.inf)
            kept = {ranked.outer(i) for i in range(len(ranked))}
            every += len(kept)
            assert bounds.may_fit(inner) or not kept
            left_out = [way for way in every_way(EXPERTS, on, JOB) if way.inner == inner and way.outer not in kept]
            full += len(left_out)
            assert all(at.price(way).peak_share > 1.0 for way in left_out)
    assert full > 10
    assert every > 10


def test_what_is_in_flight_is_at_least_what_the_bounds_say():
    for schedule, chunks in (("1f1b", 1), ("zb-h1", 1), ("zb-v", 2), ("dualpipe-v", 2), ("interleaved", 3)):
        for p in (2, 3, 5):
            for m in range(p * (1 if schedule in ("1f1b", "zb-h1", "interleaved") else 2), 5 * p):
                found, fresh = np.zeros((2, p * chunks), dtype=int)
                for home in range(p):
                    own = [s for s in range(p * chunks) if device_of(schedule, s, p, chunks) == home]
                    found[own] = alive(schedule, p, home, m, chunks)
                    fresh[own] = found[own] - waiting(schedule, p, home, m, chunks)
                assert (flights(schedule, p, chunks, m, whole=True) <= found).all(), (schedule, p, m)
                assert (flights(schedule, p, chunks, m, whole=False) <= fresh).all(), (schedule, p, m)


def test_what_is_found_says_who_runs_it():
    answer = explore(DENSE, cluster(2, 2), JOB, Objective(fixed={"schedule": "interleaved", "pipeline": 2}))
    assert "interleaved" in answer.plan.split
    assert "pipeline 2 × 3 virtual stages" in answer.plan.split
    assert executable(answer.plan, "npu").engine == "executor"
    assert executable(replace(answer.plan, sequence_parallel=True), "npu").engine == "executor"


def test_stages_on_two_types_beat_the_faster_type_alone():
    both = mixed_cluster(peak_flops={"float32": 5e11})
    together, alone = (explore(DENSE, on, JOB).plan for on in (both, replace(both, groups=both.groups[:1])))
    assert together.prediction.step_time_s <= alone.prediction.step_time_s
    assert {place.node.split("/")[0] for place in together.ranks} <= {"n", "m"}


def test_a_mixed_cluster_is_compared_with_its_fast_part_and_with_all_as_slow():
    both = mixed_cluster(peak_flops={"float32": 5e11})
    answer = explore(DENSE, both, JOB)
    asked = (DENSE, both, JOB, Objective(), lambda _: False)
    fast, slow = told(answer, (alone(*asked)[0], as_slowest(*asked)))
    assert re.match(r"For comparison, on the 4 d alone a step takes .*, \d+% more\.", fast)
    assert re.match(r"For comparison, with all devices as slow as e a step takes .*, \d+% (more|less)\.", slow)
    assert [is_mixed(on) for on in (both, cluster(1, 4))] == [True, False]


@pytest.mark.parametrize("graph", [DENSE, EXPERTS])
def test_close_groups_stay_within_a_site(graph):
    one, other = cluster(1, 2).groups[0], replace(cluster(1, 2).groups[0], name="m")
    apart = replace(
        cluster(1, 2),
        groups=(one, other),
        sites=(Site(name="east", groups=("n",)), Site(name="west", groups=("m",))),
        wan=Link(kind="wan", bytes_per_s=1e12, latency_s=0.0),
    )
    answer = explore(graph, apart, JOB)
    assert not violations(answer.plan, layers=len(graph.layers), cluster=apart)
    crossing = Way(Inner(2, 1, 1, 1, "none"), Outer(2, (1,), "1f1b", 1, Sharding(stage=1, degree=2)))
    plan, _ = predicted(crossing, prices(graph, apart), graph, apart)
    assert prices(graph, apart).at.crosses_wan(crossing)
    assert any(
        "may cross a WAN" in broken.sentence for broken in violations(plan, layers=len(graph.layers), cluster=apart)
    )


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
        own = [runs(times) for times in rng.uniform(0.1, 1.0, (3, 7))]
        bounds = balanced(own)
        slowest = max(run[b, a] for run, a, b in zip(own, bounds, bounds[1:], strict=False))
        every = (max(own[0][a, 0], own[1][b, a], own[2][7, b]) for a in range(1, 6) for b in range(a + 1, 7))
        assert slowest == pytest.approx(min(every))


def test_the_deals_of_all_numbers_of_stages_are_those_of_each():
    run_s = runs(np.random.default_rng(5).uniform(0.1, 1.0, 9))
    every = every_balanced(run_s, 9)
    for stages in range(1, 10):
        assert tuple(every[stages, : stages + 1].tolist()) == balanced([run_s] * stages)
        assert set(every[stages, stages:].tolist()) == {9}


def test_an_emulated_device_has_no_driver_and_no_allocator_that_take_memory():
    """What fits by its tensors is found on devices far smaller than a driver."""
    roomy = cluster(1, 2, kind=device(emulated=True))
    held = [memory.total_bytes for memory in explore(DENSE, roomy, JOB).plan.prediction.memory]
    assert max(held) < 0.5 * CONTEXT_BYTES
    tight = cluster(1, 2, kind=device(emulated=True, memory_bytes=1.1 * max(held) / JOB.memory_fraction))
    answer = explore(DENSE, tight, JOB)
    assert all(memory.context_bytes == memory.fragmentation_bytes == 0.0 for memory in answer.plan.prediction.memory)
    with pytest.raises(Infeasible, match="does not fit on 2 devices"):
        explore(DENSE, cluster(1, 2, kind=device(memory_bytes=tight.groups[0].device.memory_bytes)), JOB)


def test_a_way_says_what_it_is_in_words():
    inner = Inner(tensor=4, context=1, expert=1, rows=2, recompute="full")
    outer = Outer(data=2, stages=(1, 2), schedule="zb-h1", chunks=1, sharding=Sharding(stage=2, degree=2))
    told = "data 2 · tensor 4 · pipeline 3 · zb-h1 · sharding stage 2 over 2 · 2 rows · recompute full"
    assert Way(inner, outer).words == told
