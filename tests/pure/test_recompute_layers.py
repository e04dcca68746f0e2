"""The first layers of a stage compute again, the others keep what they have: priced on fleet and beyond it."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cost_model.evaluate import evaluate, plan_pricing, predicted_timeline
from nebula.cost_model.executed import predict_priced
from nebula.cost_model.flows import plan_flows
from nebula.cost_model.memory_timeline import memory_timelines
from nebula.cost_model.operations import operation_rows
from nebula.graph.kept import kept_bytes, shared_before
from nebula.models.describe import decoder_graph
from nebula.plan.files import dumps, loads
from nebula.plan.job import Objective
from nebula.plan.legality import executable, violations
from nebula.plan.values import Job
from nebula.planner.explore.changes import changes
from nebula.planner.explore.layers import Layers
from nebula.planner.explore.pools import pools_of
from nebula.planner.explore.price import WayPrices
from nebula.planner.explore.search import explore
from nebula.planner.explored_way import explored_way
from tests.pure.brute_cases import wide_model
from tests.pure.cost_samples import chain, cluster, device, plan
from tests.pure.decoder_samples import GROUPED
from tests.pure.test_cost_evaluate import rectified_chain

MODEL = decoder_graph("dense", replace(GROUPED, layers=6), dtype="float32")
LAYERS = len(MODEL.layers)
ON = cluster(4, 2, kind=device(memory_bytes=16e9))
JOB = Job(global_batch=8)


def again(own, *counts):
    """The plan whose stages compute so many of their first layers again; 0 of them: none."""
    stages = []
    for stage, count in zip(own.stages, counts, strict=True):
        held = stage.layers[1] - stage.layers[0]
        policy = stage.recompute if count else "none"
        stages.append(replace(stage, recompute=policy, recompute_layers=count if count < held else 0))
    return replace(own, stages=tuple(stages))


def two(policy="full", **more):
    """Two stages of four layers on devices of their own; interleaved ones of two are beyond fleet."""
    own = plan((0, 4, LAYERS), recompute=policy, **({"per_node": 2, "micro_batches": 8, "job": JOB} | more))
    if own.schedule != "interleaved":
        return own
    runs = ((0, 2), (2, 4), (4, 6), (6, LAYERS))
    return replace(own, stages=tuple(replace(s, layers=r) for s, r in zip(own.stages * 2, runs, strict=True)))


SCHEDULES = ["1f1b", "zb-h1", "interleaved"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("policy", ["selective", "full"])
def test_all_of_a_stage_is_what_it_was_and_none_of_it_as_without(schedule, policy):
    own, plain = two(policy, schedule=schedule), two("none", schedule=schedule)
    sizes = [s.layers[1] - s.layers[0] for s in own.stages]
    every = replace(own, stages=tuple(replace(s, recompute_layers=n) for s, n in zip(own.stages, sizes, strict=True)))
    assert evaluate(MODEL, ON, every) == evaluate(MODEL, ON, own)
    assert evaluate(MODEL, ON, again(own, *[0] * len(sizes))) == evaluate(MODEL, ON, plain)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_layer_that_keeps_makes_the_step_shorter_and_the_device_fuller(schedule):
    own = two(schedule=schedule)
    sizes = [s.layers[1] - s.layers[0] for s in own.stages]
    # the first layer, the embedding, is never computed again
    found = [evaluate(MODEL, ON, again(own, n, *sizes[1:])) for n in range(1, sizes[0] + 1)]
    for fewer, more in pairwise(found):
        assert fewer.parts.recompute_s <= more.parts.recompute_s
        assert fewer.step_time_s < more.step_time_s
        assert fewer.memory[0].activations_bytes > more.memory[0].activations_bytes
        assert fewer.memory[1] == more.memory[1]
        assert fewer.parts.total_s == pytest.approx(fewer.step_time_s, rel=1e-12)


def test_fleet_counts_layer_by_layer():
    graph, own = chain(6), plan((0, 6), recompute="full", micro_batches=2)
    full, none = (evaluate(graph, cluster(), each) for each in (own, again(own, 0)))
    for count in range(1, 6):
        found = evaluate(graph, cluster(), again(own, count))
        share = count / 6
        assert found.parts.recompute_s == pytest.approx(share * full.parts.recompute_s)
        both = full.memory[0].activations_bytes, none.memory[0].activations_bytes
        assert found.memory[0].activations_bytes == pytest.approx(share * both[0] + (1 - share) * both[1])


def test_what_one_layer_returns_and_the_next_keeps_lies_there_once():
    own = plan((0, 3), micro_batches=1, recompute="full")
    graph = rectified_chain(3)
    one = evaluate(graph, cluster(), own).memory[0].activations_bytes / 3
    # a layer that is computed again keeps its input, one that is not its input and what it returns
    held = [evaluate(graph, cluster(), again(own, n)).memory[0].activations_bytes / one for n in range(4)]
    assert held == [4, 4, 4, 3]


def test_neighbours_of_unlike_policies_share_what_both_keep():
    graph = rectified_chain(4)
    kept = [kept_bytes(graph, i, i + 1) for i in range(4)]

    def everything(block):
        return block.operators

    shared = shared_before(graph.blocks, graph.layers, everything, 2)
    whole, last = shared_before(graph.blocks, graph.layers), shared_before(graph.blocks, graph.layers, everything)
    assert shared[3] == whole[3] > 0
    assert shared[1] == last[1] == 0
    assert shared[2] == 0
    assert kept[3] == 2 * shared[3]


@settings(deadline=None)
@given(
    counts=st.tuples(st.integers(0, 4), st.integers(0, LAYERS - 4)),
    policy=st.sampled_from(["selective", "full"]),
    schedule=st.sampled_from(["1f1b", "zb-h1"]),
)
def test_stages_count_each_for_itself(counts, policy, schedule):
    own = again(two(policy, schedule=schedule), *counts)
    found = evaluate(MODEL, ON, own)
    alone = [evaluate(MODEL, ON, again(two(policy, schedule=schedule), *c)) for c in ((counts[0], 0), (0, counts[1]))]
    assert [found.memory[0], found.memory[1]] == [alone[0].memory[0], alone[1].memory[1]]
    priced = replace(own, prediction=found)
    steps = predicted_timeline(MODEL, ON, priced)
    for shown, held in zip(memory_timelines(MODEL, ON, priced, steps), found.memory, strict=True):
        assert shown.peak_bytes <= held.total_bytes * (1 + 1e-9)
    rows = operation_rows(MODEL, ON, priced)
    assert sum(row.step_s for row in rows) == pytest.approx(found.parts.compute_s + found.parts.recompute_s)


def test_beyond_fleet_layers_count_one_by_one():
    own = two(schedule="zb-h1")
    pricing = plan_pricing(MODEL, ON, again(own, 2, 3))
    part = pricing.step(again(own, 2, 3)).stages[1]
    every = [pricing.step(again(own, 2, n)).stages[1].again_s for n in range(1, LAYERS - 4 + 1)]
    assert part.again_s == pytest.approx(every[2])
    # equal layers are computed again for equal times
    assert every[1] - every[0] == pytest.approx(every[2] - every[1]) == every[0]


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_collectives_run_again_for_the_layers_that_do(schedule):
    own = replace(two(schedule=schedule, tensor=2, rows=1), sequence_parallel=schedule != "1f1b")

    def sent(each):
        return sum(flow.bytes for flow in plan_flows(MODEL, ON, each) if flow.axis == "tensor")

    none, some, more, full = (sent(again(own, n, LAYERS - 4)) for n in (1, 2, 3, 4))
    assert some - none == pytest.approx(more - some) == pytest.approx(full - more)
    assert some > none


def test_it_is_in_the_plan_file_and_in_words():
    own = again(two(), 3, 0)
    assert "recompute full of the first 3 layers|none" in own.split
    assert own.stages[0].policy_runs == (("full", 0, 3), ("none", 3, 4))
    assert loads(dumps(own), "text") == own
    old = json.loads(dumps(two()))
    del old["checksum"]
    for stage in old["stages"]:
        del stage["recompute_layers"]
    assert loads(json.dumps(old), "text") == two()


def test_it_is_legal_for_layers_that_there_are_and_engines_run_it():
    own = again(two(), 3, 1)
    assert violations(own, layers=LAYERS, cluster=ON) == ()
    assert executable(own, "emulated").engine == "fleet"
    assert executable(replace(again(two(), 3, 1), schedule="zb-h1", engine="executor"), "npu").engine == "executor"
    for stage, sentence in (
        (
            replace(own.stages[0], recompute_layers=5),
            "recompute_layers 5 in stage 0: it holds 4 layers, and 0 means all",
        ),
        (replace(own.stages[0], recompute_layers=-1), "recompute_layers -1 in stage 0"),
        (replace(own.stages[0], recompute="none"), "its policy is none, so that no layer is computed again"),
    ):
        (broken,) = violations(replace(own, stages=(stage, own.stages[1])), layers=LAYERS, cluster=ON)
        assert sentence in broken.sentence


def test_single_changes_keep_it_legal():
    for _, changed in changes(again(two(), 3, 3), {}):
        assert violations(changed, layers=LAYERS, cluster=ON) == ()


def tight(share):
    """Four devices that hold a pipeline of four with all layers computed again, and so much of what they would keep."""
    asked = {"pipeline": 4, "tensor": 1, "data": 1, "micro_batch_rows": 2, "schedule": "1f1b"}
    roomy = cluster(2, 2, kind=device(memory_bytes=64e9))
    least, most = (
        max(
            held.total_bytes
            for held in explore(
                DEEP, roomy, DEEP_JOB, Objective(fixed={**asked, "recompute": policy})
            ).plan.prediction.memory
        )
        for policy in ("full", "none")
    )
    room = (least + share * (most - least)) / DEEP_JOB.memory_fraction
    return cluster(2, 2, kind=device(memory_bytes=room)), asked


DEEP, DEEP_JOB = wide_model(18, 1024, False), Job(global_batch=32, precision="bf16")


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_as_few_layers_are_computed_again_as_fit(share):
    where, asked = tight(share)
    found, full = (
        explore(DEEP, where, DEEP_JOB, Objective(fixed={**asked, "recompute": "full"}, allow=allow)).plan
        for allow in (("recompute_layers",), ())
    )
    assert found.prediction.step_time_s < full.prediction.step_time_s
    # early stages hold more micro-batches, so that more of their layers are computed again
    counts = [0 if s.recompute == "none" else s.recompute_layers or s.layers[1] - s.layers[0] for s in found.stages]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
    for index, (stage, held) in enumerate(zip(found.stages, found.prediction.memory, strict=True)):
        assert held.share <= 1.0
        if counts[index]:
            (fewer,) = again(replace(found, stages=(replace(stage, recompute="full"),)), counts[index] - 1).stages
            stages = (*found.stages[:index], fewer, *found.stages[index + 1 :])
            without = predict_priced(plan_pricing(DEEP, where, found), replace(found, stages=stages))
            assert without.memory[index].share > 1.0
    way = explored_way(found, where)
    assert (way.inner.layers, way.inner.recompute) == ("fewest", "full")
    prices = WayPrices(Layers(DEEP, where, DEEP_JOB), pools_of(where))
    assert prices.price(way).step_s == pytest.approx(found.prediction.step_time_s)
    assert prices.price(way).again == tuple(counts)


def test_where_all_fit_as_they_are_none_is_computed_again_and_each_plan_is_named_once():
    where, asked = tight(1.01)
    found = explore(DEEP, where, DEEP_JOB, Objective(fixed=asked, allow=("recompute_layers",)))
    assert {stage.recompute for stage in found.plan.stages} == {"none"}
    assert len({plan.stages for plan in found.candidates}) == len(found.candidates)
    assert any("recompute_layers" in note for note in found.notes)
