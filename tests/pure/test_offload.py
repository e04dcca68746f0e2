"""Optimizer states and activations in the host's memory: what the device no longer holds, and what the step takes."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cluster.topology import HostShare
from nebula.cluster.values import Host
from nebula.cost_model.eager import paddle_execution
from nebula.cost_model.evaluate import evaluate, plan_pricing, predicted_timeline
from nebula.cost_model.executed import predict_executed
from nebula.cost_model.memory_timeline import memory_timelines
from nebula.cost_model.offload import CONTENTION, copies_seconds
from nebula.cost_model.operations import operation_rows
from nebula.cost_model.peak import FRAGMENTATION
from nebula.errors import BadInput, Infeasible
from nebula.models.describe import decoder_graph
from nebula.plan.files import dumps, loads
from nebula.plan.job import OFFLOAD, Objective
from nebula.plan.values import Job, Sharding
from nebula.planner.explore.search import explore
from nebula.planner.search import search
from tests.pure.brute_cases import wide_model
from tests.pure.cost_samples import cluster, device, plan
from tests.pure.decoder_samples import GROUPED

MODEL = decoder_graph("dense", replace(GROUPED, layers=6), dtype="float32")
LAYERS = len(MODEL.layers)
JOB = Job(global_batch=8)
LINK, MEMORY = 2e9, 1e11


def on(link=LINK, memory=MEMORY, **more):
    host = Host(memory_bytes_per_s=memory, **more)
    return cluster(4, 2, kind=device(memory_bytes=16e9, host_bytes_per_s=link), host=host)


def real(where):
    """The same devices not emulated, of which a process fills the memory, whoever runs the plan."""
    groups = tuple(replace(group, device=replace(group.device, emulated=False)) for group in where.groups)
    return replace(where, groups=groups)


def offloading(offload, **more):
    """Two stages on devices of their own."""
    own = plan((0, 3, LAYERS), **({"per_node": 2, "micro_batches": 8, "job": JOB} | more))
    return replace(own, engine="executor", stages=tuple(replace(s, offload=offload) for s in own.stages))


def parts_sum(prediction):
    return pytest.approx(prediction.step_time_s, rel=1e-12) == prediction.parts.total_s


def executed(graph, where, of, recompute="none"):
    """A plan priced as one beyond fleet, whether or not it is."""
    return predict_executed(graph, where, of, paddle_execution(of.job, where, recompute))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_states_go_to_the_host_and_are_updated_there(precision):
    job = replace(JOB, precision=precision)
    own, other = (offloading(offload, job=job) for offload in ("none", "optimizer"))
    before, after = executed(MODEL, on(), own), evaluate(MODEL, on(), other)
    elements = [before.memory[i].optimizer_bytes / (8 if precision == "fp32" else 12) for i in range(2)]
    filled = executed(MODEL, real(on()), own).memory, evaluate(MODEL, real(on()), other).memory
    for held, less, count in zip(*filled, elements, strict=True):
        assert less.optimizer_bytes == 0.0
        assert (less.weights_bytes, less.gradients_bytes) == (held.weights_bytes, held.gradients_bytes)
        assert less.activations_bytes == held.activations_bytes
        # moments, the copy that is updated, and gradients on their way
        assert less.host_bytes == pytest.approx(count * (8 + 4 + (4 if precision == "fp32" else 2)))
        assert held.host_bytes == 0.0
    width = 4 if precision == "fp32" else 2
    touched = width + 2 * 8 + (2 * 4 if precision == "fp32" else 2 * 4 + 2)
    clip_s = 3 * width / 1e11
    host_bytes_per_s = 0.8 * MEMORY / 2
    each_s = clip_s + 2 * width / LINK + touched / host_bytes_per_s
    times = plan_pricing(MODEL, on(), own).step(own).stages
    busiest = max(range(2), key=lambda i: times[i].forward_s + times[i].backward_s)
    assert after.parts.optimizer_s == pytest.approx(each_s * elements[busiest], rel=1e-6)
    longer_s = after.step_time_s - before.step_time_s
    assert longer_s == pytest.approx(each_s * max(elements) - max(t.update_s for t in times), rel=1e-6)
    assert parts_sum(after)


def test_a_sharded_update_moves_a_share():
    shared = {"data": 2, "rows": 1, "micro_batches": 4}
    whole = offloading("optimizer", **shared)
    cut = offloading("optimizer", sharding=Sharding(stage=1, degree=2), **shared)
    one, half = (evaluate(MODEL, on(), each) for each in (whole, cut))
    assert half.parts.optimizer_s == pytest.approx(one.parts.optimizer_s / 2)
    assert half.memory[0].host_bytes == pytest.approx(one.memory[0].host_bytes / 2)


def test_stage_three_keeps_weights_as_it_computes_with_them():
    job = replace(JOB, precision="bf16")
    sharded = {"data": 2, "rows": 1, "micro_batches": 4, "sharding": Sharding(stage=3, degree=2), "job": job}
    before = executed(MODEL, on(), offloading("none", **sharded))
    after = evaluate(MODEL, on(), offloading("optimizer", **sharded))
    assert after.memory[0].weights_bytes == before.memory[0].weights_bytes
    assert after.memory[0].optimizer_bytes == 0.0


def test_activations_leave_but_for_two_layers():
    before, after = executed(MODEL, on(), offloading("none")), evaluate(MODEL, on(), offloading("activations"))
    pricing = plan_pricing(MODEL, on(), offloading("none"))
    kept = [pricing.kept_bytes(index, (1, 1, 0, 1, 1, 1, 0)) for index in MODEL.layers]
    first, flight = after.memory[0], 2
    assert first.host_bytes == pytest.approx(flight * sum(kept[:3]))
    # what was sent on stays until its gradient comes
    sent = before.memory[0].activations_bytes - flight * sum(kept[:3])
    assert first.activations_bytes == pytest.approx(sent)
    assert first.buffers_bytes == pytest.approx(2 * max(kept[:3]))
    assert first.optimizer_bytes == before.memory[0].optimizer_bytes
    assert first.total_bytes < before.memory[0].total_bytes
    # the last stage has one micro-batch in flight
    assert after.memory[1].host_bytes == pytest.approx(sum(kept[3:]))


def test_copies_take_what_no_pass_of_a_layer_hides():
    own = replace(plan((0, LAYERS), micro_batches=8, per_node=2, job=JOB), engine="executor")
    one = replace(own, stages=(replace(own.stages[0], offload="activations"),))
    pricing, slow = plan_pricing(MODEL, on(), own), on(link=1e7)
    (times,) = pricing.step(own).stages
    kept = sum(pricing.kept_bytes(index, (1, 1, 0, 1, 1, 1, 0)) for index in MODEL.layers)
    found = evaluate(MODEL, slow, one)
    # so slow a link that every layer waits for it: nothing is hidden but what the layer takes itself
    passes_s = times.forward_s + times.backward_s
    assert found.parts.offload_s == pytest.approx(8 * (2 * kept / 1e7 - (1 - CONTENTION) * passes_s), rel=0.02)
    assert parts_sum(found)
    # on a fast one they only delay what they run beside
    fast = evaluate(MODEL, on(link=1e15, memory=1e18), one)
    assert fast.parts.offload_s == pytest.approx(0.0, abs=1e-6)


def test_a_copy_beside_work_takes_the_longer_of_both():
    host = HostShare(bytes_per_s=1e9, memory_bytes_per_s=math.inf, memory_bytes=math.inf)
    assert copies_seconds(2.0, 1e9, host) == pytest.approx(CONTENTION)
    assert copies_seconds(1.0, 3e9, host) == pytest.approx(2.0 + CONTENTION)
    assert copies_seconds(0.0, 3e9, host) == 3.0


@settings(deadline=None)
@given(
    offload=st.sampled_from(OFFLOAD),
    recompute=st.sampled_from(["none", "selective", "full"]),
    link=st.floats(7, 12),
    memory=st.floats(9, 12),
    faster=st.floats(1.0, 10.0),
)
def test_laws(offload, recompute, link, memory, faster):
    of = offloading(offload, recompute=recompute)
    here, plain = on(10**link, 10**memory), executed(MODEL, on(), offloading("none", recompute=recompute), recompute)
    found = evaluate(MODEL, here, of) if offload != "none" else executed(MODEL, here, of, recompute)
    assert parts_sum(found)
    # offloading activations never makes a step shorter, and a faster host never makes it longer
    if offload in ("none", "activations"):
        assert found.step_time_s >= plain.step_time_s * (1 - 1e-12)
    quick = on(faster * 10**link, faster * 10**memory)
    again = evaluate(MODEL, quick, of) if offload != "none" else executed(MODEL, quick, of, recompute)
    assert again.step_time_s <= found.step_time_s * (1 + 1e-12)
    # a device never holds more, what it holds less than before lies on the host
    kept = executed(MODEL, real(here), offloading("none", recompute=recompute), recompute).memory
    left = evaluate(MODEL, real(here), of).memory if offload != "none" else kept
    for held, before in zip(left, kept, strict=True):
        assert held.total_bytes <= before.total_bytes * (1 + 1e-12)
        less = before.total_bytes - held.total_bytes
        assert less <= (1 + FRAGMENTATION) * held.host_bytes + 1e-6


def test_the_two_kinds_add_up():
    one, two, both = (evaluate(MODEL, on(), offloading(what)) for what in OFFLOAD[1:])
    for a, b, c in zip(one.memory, two.memory, both.memory, strict=True):
        assert a.host_bytes + b.host_bytes == pytest.approx(c.host_bytes)
    assert both.parts.offload_s == pytest.approx(two.parts.offload_s)
    assert both.parts.optimizer_s == pytest.approx(one.parts.optimizer_s)
    assert both.computing_s < two.computing_s


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
@pytest.mark.parametrize("offload", OFFLOAD[1:])
def test_the_memory_of_a_step_comes_to_its_peak(offload, schedule):
    own = offloading(offload, schedule=schedule)
    priced = replace(own, prediction=evaluate(MODEL, on(), own))
    steps = predicted_timeline(MODEL, on(), priced)
    assert steps.end_s <= priced.prediction.step_time_s
    for shown, stage in zip(memory_timelines(MODEL, on(), priced, steps), (0, 1), strict=True):
        assert shown.peak_bytes <= priced.prediction.memory[stage].total_bytes * (1 + 1e-9)
    assert operation_rows(MODEL, on(), priced)


def test_a_host_of_little_memory_is_full():
    own = offloading("both")
    needs = max(held.host_bytes for held in evaluate(MODEL, on(), own).memory)
    # half of a node for each of its two devices
    tight, roomy = on(memory_bytes=2 * needs), on(memory_bytes=2 * needs / 0.92)
    assert max(held.share for held in evaluate(MODEL, tight, own).memory) == pytest.approx(1 / 0.92)
    assert max(held.share for held in evaluate(MODEL, roomy, own).memory) == pytest.approx(1.0)


def test_it_is_in_the_plan_file_and_in_words():
    own = replace(offloading("both"), prediction=evaluate(MODEL, on(memory_bytes=1e9), offloading("both")))
    assert loads(dumps(own), "text") == own
    assert "offload both" in own.split
    first = replace(own, stages=(own.stages[0], replace(own.stages[1], offload="none")))
    assert "offload both|none" in first.split
    old = json.loads(dumps(offloading("none")))
    del old["checksum"]
    for stage in old["stages"]:
        # a file from before says nothing of it
        del stage["offload"]
    assert loads(json.dumps(old), "text") == offloading("none")


GRAPH, ROOM = wide_model(6, 256, False), 1.5 * 2**30
LEAN = Job(global_batch=2, precision="bf16", memory_fraction=1.0)


def test_what_fits_nowhere_may_fit_with_offload_and_the_answer_says_so():
    where = cluster(per_node=1, kind=device(memory_bytes=ROOM))
    with pytest.raises(Infeasible, match=r"offload optimizer would do, which `nebula plan --explore objective.allow="):
        search(GRAPH, where, LEAN)
    with pytest.raises(
        Infeasible, match=r"it would with offload optimizer, which objective.allow=\[offload\] explores"
    ):
        explore(GRAPH, where, LEAN)
    found = explore(GRAPH, where, LEAN, Objective(allow=("offload",)))
    assert found.plan.stages[0].offload in ("optimizer", "both")
    assert "offload" in found.plan.split
    (held,) = evaluate(GRAPH, where, found.plan).memory
    assert held.total_bytes <= ROOM
    assert held.host_bytes > 0


def test_what_no_offload_helps_is_not_advised_it():
    where = cluster(per_node=1, kind=device(memory_bytes=2**28))
    with pytest.raises(Infeasible) as caught:
        search(GRAPH, where, LEAN)
    assert "offload" not in str(caught.value)


def test_engines_are_not_asked_for_it():
    where = cluster(per_node=1, kind=device(memory_bytes=16e9))
    with pytest.raises(BadInput, match=r"objective.allow=\['offload'\] is for `nebula plan --explore`"):
        search(GRAPH, where, LEAN, Objective(allow=("offload",)))
    with pytest.raises(BadInput, match=r"objective.fixed.offload='both': no engine runs it yet"):
        search(GRAPH, where, LEAN, Objective(fixed={"offload": "both"}))


@pytest.mark.parametrize("offload", OFFLOAD)
def test_a_fixed_offload_is_kept(offload):
    where = cluster(1, 2, kind=device(memory_bytes=16e9))
    found = explore(GRAPH, where, LEAN, Objective(fixed={"offload": offload}))
    assert {stage.offload for plan in found.candidates for stage in plan.stages} == {offload}


def test_without_leave_nothing_is_offloaded():
    where = cluster(1, 2, kind=device(memory_bytes=16e9))
    found, more = (explore(GRAPH, where, LEAN, Objective(allow=allow)) for allow in ((), ("offload",)))
    assert {stage.offload for plan in found.candidates for stage in plan.stages} == {"none"}
    assert more.plan.prediction.step_time_s <= found.plan.prediction.step_time_s
    assert np.isfinite(more.bound_s)
