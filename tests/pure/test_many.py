"""Batches of candidates against evaluate one by one, the closed form of 1F1B against its slots, laws, refusals."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cluster.values import Cluster
from nebula.cost_model.candidates import SINGLE, Candidates, Way
from nebula.cost_model.closed_form import last_backward_s
from nebula.cost_model.fleet import Pricing
from nebula.cost_model.many import Many, evaluate_many
from nebula.cost_model.one_f_one_b import one_f_one_b_seconds
from nebula.cost_model.peak import COMMUNICATOR_BYTES, CONTEXT_BYTES
from nebula.cost_model.simulate import Durations, Sends, end_of, timeline
from nebula.errors import BadInput
from nebula.models.describe import graph as described_model
from nebula.plan.job import RECOMPUTE
from nebula.plan.values import Job, Sharding
from tests.pure.brute_cases import wide_model
from tests.pure.candidate_samples import plans, random_candidates
from tests.pure.cost_samples import chain, cluster, device

CLOSE = 1e-12
"""Largest relative difference from evaluate, for rounding alone; 6e-16 of the time in 3,060 random candidates."""


def test_the_closed_form_of_1f1b_equals_its_slots():
    """Unequal stages, tails that end the step, fewer micro-batches than stages; 2e-15 apart at most in 50,000 cases."""
    rng = np.random.default_rng(0)
    for cases in (1, 70):
        for _ in range(60):
            stages, m = rng.integers(1, 10), int(rng.integers(1, 25))
            spread = rng.choice([0.0, 0.1, 0.5, 2.0], size=(cases, 1))
            forward, backward = np.exp(spread * rng.normal(size=(2, cases, stages)))
            tail = rng.choice([0, 1, 100], size=(cases, 1)) * rng.random((cases, stages))
            slots = (last_backward_s(forward, backward, m) + tail).max(axis=1)
            found = one_f_one_b_seconds(forward.T, backward.T, tail.T, np.full(cases, m))
            assert found == pytest.approx(slots, rel=CLOSE)


def met_pipeline(rng, stages):
    """Forward, backward, sends and tails of unequal stages; which of them is long differs."""
    spread = rng.choice([0.1, 1, 3], size=(5, 1))
    forward, backward, sends, returns, tail = spread * rng.random((5, stages))
    sends[-1] = returns[0] = 0.0
    return forward, backward, sends, returns, tail


def test_the_closed_form_of_1f1b_whose_messages_meet_is_nearly_the_simulation():
    """Never longer, and shorter by 0.5 % at most."""
    rng = np.random.default_rng(0)
    for _ in range(800):
        stages, m = (int(rng.integers(1, most)) for most in (7, 24))
        forward, backward, sends, returns, tail = met_pipeline(rng, stages)
        columns = (tuple(each.tolist()) for each in (forward, backward, sends, returns))
        names = ("forward_s", "backward_s", "send_forward_s", "send_backward_s")
        durations = Durations(**dict(zip(names, columns, strict=True)), sends=Sends.MEET)
        lanes = timeline(durations, "1f1b", m).by_stage()
        simulated = max(end_of(own) + last for own, last in zip(lanes, tail, strict=True))
        passes = forward + sends, backward + returns, tail
        found = one_f_one_b_seconds(*(each[:, None] for each in passes), np.array([m]), returns[:, None])
        assert simulated * (1 - 5e-3) <= found[0] <= simulated * (1 + CLOSE)


def assert_equals_evaluate(many, candidates):
    found = many.price(candidates)
    for index, own in plans(candidates, many.pricing.cluster, many.pricing.job).items():
        alone = many.pricing.predict(own)
        held = [m.total_bytes for m in alone.memory]
        assert found.step_s[index] == pytest.approx(alone.step_time_s, rel=CLOSE), own.split
        assert found.memory_bytes[index, : len(held)] == pytest.approx(held, rel=CLOSE), own.split
        assert not found.memory_bytes[index, len(held) :].any()
        assert found.fits[index] == all(m.total_bytes <= m.limit_bytes for m in alone.memory)


JOB = Job(global_batch=24)


@settings(max_examples=10)
@given(st.integers(0, 10**9), st.integers(1, 9), st.booleans(), st.sampled_from([2, 3, 8]))
def test_candidates_cost_what_evaluate_says(seed, layers, ill, per_node):
    """All shardings, policies, schedules and uneven boundaries, over nodes that tensor groups do not always fit."""
    rng = random.Random(seed)
    where = cluster(nodes=24 // per_node, per_node=per_node, slow=((1, 1.7),) if ill else ())
    where = replace(where, groups=(replace(where.groups[0], device=device(memory_bytes=1.5e5)),))
    graph = chain(layers, hidden=16, tokens=8, wide=(0, layers // 2))
    many = Many(Pricing(graph, where, JOB))
    assert_equals_evaluate(many, random_candidates(rng, 6, 3, layers, 24, JOB))


def test_titan_costs_what_evaluate_says():
    """Pipelines of up to 63 stages over 30 nodes, in one batch and again in a second one."""
    graph, job = described_model("ernie-3.0-titan", dtype="float16"), Job(global_batch=240, precision="fp16")
    ascend = device(peak_flops={"float16": 256e12, "float32": 1e14}, memory_bytes=32e9, memory_bytes_per_s=1.2e12)
    where, rng = cluster(nodes=30, kind=ascend), random.Random(5)
    layers, many = len(graph.layers), Many(Pricing(graph, where, job))
    for _ in range(2):
        drawn = random_candidates(rng, 8, 2, layers, 240, job, tensors=(4,), schedules=("1f1b",))
        assert_equals_evaluate(many, drawn)


@settings(max_examples=10)
@given(st.integers(0, 10**9), st.sampled_from(["gpu", "npu"]), st.integers(0, 3))
def test_a_process_and_its_allocator_hold_what_evaluate_says(seed, kind, communicators):
    """On devices that are not emulated, with losses, experts and memory that some candidates fill."""
    rng = random.Random(seed)
    graph = wide_model(5, 256, rng.random() < 0.5)
    process_bytes = CONTEXT_BYTES + communicators * COMMUNICATOR_BYTES
    real = device(
        kind=kind, emulated=False, peak_flops={"bfloat16": 1e12, "float32": 1e12}, memory_bytes=process_bytes + 2e9
    )
    job = Job(global_batch=24, precision="bf16")
    many = Many(Pricing(graph, cluster(nodes=12, per_node=2, kind=real), job))
    assert_equals_evaluate(many, random_candidates(rng, 8, 3, 5, 24, job))


@settings(max_examples=8)
@given(st.integers(0, 10**9), st.floats(1.0, 50.0))
def test_more_bandwidth_is_never_slower_and_weighs_nothing(seed, factor):
    candidates = random_candidates(random.Random(seed), 5, 4, 6, 16, JOB)
    graph, plain = chain(6, hidden=16, tokens=8, wide=(2,)), cluster(nodes=4, per_node=4)
    before = evaluate_many(graph, plain, JOB, candidates)
    wide = cluster(nodes=4, per_node=4, intra=1e10 * factor, nic=1e9 * factor)
    swift = cluster(nodes=4, per_node=4, kind=device(memory_bytes_per_s=1e11 * factor))
    for better in (wide, swift):
        after = evaluate_many(graph, better, JOB, candidates)
        assert (after.step_s <= before.step_s * (1 + 1e-9)).all()
        assert np.array_equal(after.memory_bytes, before.memory_bytes)


def test_memory_falls_with_the_sharding_stage():
    """Where gradients of all layers meet as many micro-batches as ever, and a gathered layer is one of many."""
    drawn = random_candidates(random.Random(3), 60, 3, 6, 16, JOB)
    many = Many(Pricing(chain(6, hidden=16, tokens=8), cluster(nodes=4, per_node=4), JOB))
    sharded = drawn[np.flatnonzero(drawn.degree > 1)]
    held = [many.price(replace(sharded, sharding=0 * sharded.data + stage)).memory_bytes for stage in (1, 2, 3)]
    assert len(sharded) > 20
    full = (sharded.schedule == "1f1b") & (JOB.global_batch // (sharded.data * sharded.rows) > sharded.pipeline)
    assert (held[1] <= held[0] * (1 + CLOSE))[full].all()
    assert (held[2] <= held[1] * (1 + CLOSE))[full & (sharded.pipeline == 1)].all()
    assert (held[2] < 0.9 * held[0]).any()


def test_what_is_no_plan_is_refused_with_its_number_and_numbers():
    way = Way(2, "1f1b", 1, 1, "none", 2, Sharding())
    fine = Candidates.of([(way, [(0, 1, 4), (0, 3, 4)])])
    graph, where = chain(4), cluster()

    def refused(match, **changed):
        with pytest.raises(BadInput, match=match):
            evaluate_many(graph, where, JOB, replace(fine, **{k: np.array(v) for k, v in changed.items()}))

    refused(
        r"candidate 1: boundaries \[0, 4, 3\] do not rise from 0 to the 4 layers", boundaries=[[0, 1, 4], [0, 4, 3]]
    )
    refused(r"candidate 0: .* are more than 8 ranks", data=[12, 2])
    refused(r"candidate 1: degree 0 is less than 1", degree=[1, 0])
    refused(r"candidate 1: data 2 × rows 5 do not divide the global batch of 24", rows=[1, 5])
    refused(r"candidate 1: sharding degree 3 does not divide data 2", degree=[1, 3])
    refused(r"candidate 0: sharding 4 is none of 0 to 3", sharding=[4, 0])
    refused(rf"candidate 0: recompute 7 is none of 0 to {len(RECOMPUTE) - 1}", recompute=[7, 0])
    refused(rf"candidate 0: schedule -1 is none of 0 to {len(SINGLE) - 1}", schedule=[-1, 0])


def test_devices_of_several_types_are_refused_unless_some_of_one_are_named():
    first = cluster(nodes=1).groups[0]
    second = replace(first, name="other", device=device(name="e"))
    mixed, graph = Cluster(name="mixed", groups=(first, second)), chain(4)
    with pytest.raises(BadInput, match="one type, not on d and e"):
        Many(Pricing(graph, mixed, JOB))
    way = Way(2, "1f1b", 1, 1, "none", 2, Sharding())
    candidates = Candidates.of([(way, [(0, 1, 4)])])
    some = Many(Pricing(graph, mixed, JOB), range(8, 16)).price(candidates)
    alone = evaluate_many(graph, cluster(nodes=1), JOB, candidates)
    assert some.step_s == pytest.approx(alone.step_s)


def test_prices_on_other_devices_are_those_of_a_fresh_start():
    where, job = cluster(nodes=4, per_node=2), Job(global_batch=8)
    many = Many(Pricing(chain(6), where, job))
    drawn = random_candidates(random.Random(3), 20, 5, 6, 5, job)
    many.price(drawn)
    devices = (7, 2, 3, 0, 5)
    shared, fresh = many.on(devices), Many(Pricing(chain(6), where, job), devices)
    assert (shared.price(drawn).step_s == fresh.price(drawn).step_s).all()
    assert (shared.price(drawn).memory_bytes == fresh.price(drawn).memory_bytes).all()
