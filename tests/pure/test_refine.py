"""Refined plans: never slower than the best explored one, as good as trying all where that can be tried, and marked."""

from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nebula.cli.main import app
from nebula.cost_model.executed import plan_memory, predict_priced
from nebula.models.describe import decoder_graph
from nebula.plan.job import RECOMPUTE, Objective
from nebula.plan.legality import executable, violations
from nebula.plan.values import Job, Plan, RankPlace, Sharding
from nebula.planner.explore.changes import changes, other_tensor_degrees
from nebula.planner.explore.refine import climbing, pricing_of, refine
from nebula.planner.explore.search import explore
from nebula.planner.options import fits
from nebula.planner.search import INTERRUPTION
from tests.pure.cost_samples import cluster, device, plan
from tests.pure.decoder_samples import GROUPED, MIXED

DENSE = decoder_graph("dense", replace(GROUPED, layers=6), dtype="float32")
EXPERTS = decoder_graph("mixed", replace(MIXED, layers=3), dtype="float32")
LAYERS, JOB = len(DENSE.layers), Job(global_batch=8)


def on(nodes=2, per_node=2, **more):
    """Nodes of devices that a small model keeps busy."""
    slow = {"memory_bytes": 16e9, "peak_flops": {"float32": 1e10}, "memory_bytes_per_s": 1e9} | more
    return cluster(nodes, per_node, kind=device(**slow))


def two_types(**second):
    """Two nodes of two devices, each of a type of its own."""
    one, other = on(1), on(1, name="e", **second)
    return replace(one, groups=(one.groups[0], replace(other.groups[0], name="m")))


def by_hand(boundaries, **more) -> Plan:
    own = plan(boundaries, **({"per_node": 2, "micro_batches": 8, "job": JOB} | more))
    return replace(own, engine="executor")


def climbed(at, start, fixed):
    *_, last = climbing(at, start, fixed, 1000)
    return last


CASES = {
    "dense": (DENSE, on()),
    "four nodes": (DENSE, on(4)),
    "experts": (EXPERTS, on()),
    "two types": (DENSE, two_types(peak_flops={"float32": 4e9})),
    "a slow bus": (DENSE, cluster(2, 2, kind=on().groups[0].device, intra=1e6)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_refined_plan_is_never_slower_and_is_legal_priced_and_marked(name):
    graph, where = CASES[name]
    for fixed in ({}, {"pipeline": 2}):
        found = explore(graph, where, JOB, Objective(fixed=fixed))
        better = refine(found, graph, where, Objective(fixed=fixed))
        chosen = better.plan
        assert chosen.prediction.step_time_s <= found.plan.prediction.step_time_s
        assert chosen.prediction == predict_priced(pricing_of(graph, where, JOB), chosen)
        assert fits(chosen)
        assert violations(chosen, layers=len(graph.layers), cluster=where) == ()
        assert chosen.engine == "executor"
        assert better.gap >= 0.0
        assert better.priced >= found.priced


def test_every_change_is_legal_and_keeps_job_and_ranks():
    start = by_hand((0, 2, 5, LAYERS), data=2, tensor=2, rows=2, micro_batches=2, sharding=Sharding(stage=1, degree=2))
    found = list(changes(start, {}))
    assert {kind for kind, _ in found} == {"layers", "recompute", "tensor", "layers far apart"}
    for _, changed in found:
        assert changed.stages != start.stages
        assert violations(changed, layers=LAYERS, cluster=None) == ()
        assert [set(stage.ranks) for stage in changed.stages] == [set(stage.ranks) for stage in start.stages]


def test_what_is_fixed_stays():
    start = by_hand((0, 2, 5, LAYERS), data=2, tensor=2, rows=2, micro_batches=2)
    assert {kind for kind, _ in changes(start, {"recompute": "none", "tensor": 2})} == {"layers", "layers far apart"}


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_from_any_deal_it_comes_to_one_as_good_as_the_best_of_all(stages):
    at = pricing_of(DENSE, on(4), JOB)
    deals = [(0, *inner, LAYERS) for inner in combinations(range(1, LAYERS), stages - 1)]
    least_s = min(at.step(by_hand(deal)).step_s for deal in deals)
    fixed = {"recompute": "none"}
    for deal in (deals[0], deals[-1]):
        found = climbed(at, by_hand(deal), fixed)
        assert found.ended
        assert found.step_s == pytest.approx(least_s, rel=0.02)
        assert found.step_s < 0.8 * at.step(by_hand(deal)).step_s


def test_only_stages_that_need_it_compute_again():
    """The first stage holds two micro-batches, the second one: room for the first without recomputation is missing."""
    where, bounds = on(), (0, 4, LAYERS)
    held = [plan_memory(pricing_of(DENSE, where, JOB), by_hand(bounds, recompute=p))[0] for p in ("none", "full")]
    limit = sum(memory.total_bytes for memory in held) / 2 / JOB.memory_fraction
    tight = on(memory_bytes=limit)
    at, start = pricing_of(DENSE, tight, JOB), by_hand(bounds, recompute="full")
    found = climbed(at, start, {}).plan
    priced = {}
    for policies in product(RECOMPUTE, repeat=2):
        stages = (replace(s, recompute=p) for s, p in zip(start.stages, policies, strict=True))
        one = replace(start, stages=tuple(stages))
        if all(m.total_bytes <= m.limit_bytes for m in plan_memory(at, one)):
            priced[policies] = at.step(one).step_s
    assert ("none", "none") not in priced
    assert found.stages[1].recompute == "none"
    assert at.step(found).step_s <= min(priced.values()) * (1 + 1e-6)
    assert at.step(found).step_s < priced["full", "full"]
    assert "recompute " in found.split


def test_a_stage_behind_a_slow_bus_gets_another_tensor_degree():
    one, other = on(1), on(1)
    slow_bus = replace(other.groups[0], name="m", intra=replace(other.groups[0].intra, bytes_per_s=1e5))
    where = replace(one, groups=(one.groups[0], slow_bus))
    start = by_hand((0, 4, LAYERS), tensor=2, rows=2, micro_batches=4)
    start = replace(start, ranks=tuple(RankPlace(node, rank) for node in ("n/0", "m/0") for rank in range(2)))
    at = pricing_of(DENSE, where, JOB)
    found = climbed(at, start, {"recompute": "none"})
    assert found.steps["tensor"] >= 1
    assert (found.plan.stages[1].tensor, found.plan.stages[1].data) == (1, 2)


def test_replicas_are_joined_or_halved_with_their_rows():
    start = by_hand((0, 4, LAYERS), data=2, tensor=2, rows=2, micro_batches=2, sharding=Sharding(stage=1, degree=2))

    def shape(stage):
        cut = stage.sharding
        return stage.data, stage.tensor, stage.replicas[0].micro_batch_rows, cut.stage, cut.degree

    found = list(other_tensor_degrees(start, {}))
    shapes = {tuple(map(shape, one.stages)) for one in found}
    same, wide, flat = (2, 2, 2, 1, 2), (1, 4, 4, 0, 1), (4, 1, 1, 1, 4)
    assert shapes == {(wide, same), (flat, same), (same, wide), (same, flat)}
    assert found[0].split.startswith("data 1|2 · tensor 4|2 · pipeline 2")
    assert {executable(one, "npu").engine for one in found} == {"executor"}


def test_the_answer_says_what_its_bound_covers_and_that_it_stopped():
    where = on(4)
    found = explore(DENSE, where, JOB, Objective(fixed={"pipeline": 3, "schedule": "1f1b"}))
    worse = by_hand((0, 1, 2, LAYERS))
    worse = replace(worse, prediction=predict_priced(pricing_of(DENSE, where, JOB), worse))
    poor = replace(found, plan=worse, candidates=(worse,), bound_s=0.99 * worse.prediction.step_time_s)
    better = refine(poor, DENSE, where)
    assert better.plan.bound_s == 0.0
    assert "covers the plans without refinement: this plan is faster" in better.notes[0]
    assert better.plan.because.startswith("Refined (")
    assert better.candidates[1] == worse
    assert better.plan.runner_up.step_time_s == worse.prediction.step_time_s
    stopped = refine(found, DENSE, where, tries=0)
    assert stopped.plan == found.plan
    assert "0 changes were priced, and more are left" in stopped.notes[0]


def test_an_interruption_keeps_what_was_found():
    where, asked = on(4), []
    worse = by_hand((0, 1, 2, LAYERS))
    worse = replace(worse, prediction=predict_priced(pricing_of(DENSE, where, JOB), worse))
    poor = replace(explore(DENSE, where, JOB), plan=worse, candidates=(worse,))

    def interrupted():
        asked.append(None)
        if len(asked) > 12:
            raise KeyboardInterrupt
        return False

    better = refine(poor, DENSE, where, enough=interrupted)
    assert better.ended_by == INTERRUPTION
    assert better.plan.prediction.step_time_s < worse.prediction.step_time_s


def test_it_is_asked_for_beside_an_exploration():
    small = [str(Path(__file__).parents[2] / "examples" / "ernie-small.yaml"), "cluster.devices.small-npu.memory=16GiB"]
    alone = CliRunner().invoke(app, ["plan", *small, "--refine"])
    assert (alone.exit_code, "add --explore" in alone.stderr) == (2, True)
    done = CliRunner().invoke(app, ["plan", *small, "job.global_batch=8", "--explore", "--refine"])
    assert (done.exit_code, "efin" in done.stdout) == (0, True)
    cheapest = CliRunner().invoke(app, ["plan", *small, "--explore", "--refine", "objective.minimise=cost"])
    assert (cheapest.exit_code, "leave out minimise" in cheapest.stderr) == (2, True)
