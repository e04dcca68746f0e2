"""Memory of a stage by what holds it: sums by hand, what sharding and recomputation save, and what keeps how much."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cost_model.layer import layer_cost
from nebula.cost_model.memory import MOMENTS, fixed, in_flight, smaller, state_bytes_per_parameter
from nebula.errors import BadInput
from nebula.graph.rows import block_with_rows
from nebula.models.describe import graph
from nebula.plan.job import OPTIMIZERS, RECOMPUTE
from nebula.plan.values import Job, Sharding
from tests.pure.cost_samples import WHOLE, device, feed_forward
from tests.pure.graph_blocks import transformer

FP32 = Job(global_batch=8)


def held(sharding=WHOLE, job=FP32, parameters_bytes=400.0):
    return fixed(parameters_bytes, parameters_bytes / 4, sharding, job)


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "states"),
    [(0, 400, 400, 800), (1, 400, 400, 200), (2, 400, 400, 200), (3, 100, 100, 200)],
)
def test_what_each_sharding_stage_cuts_by_four(stage, weights, gradients, states):
    """The buffers of stage 2 hold these few gradients whole."""
    found = held(Sharding(stage=stage, degree=4) if stage else WHOLE)
    assert (found.weights, found.gradients, found.states) == (weights, gradients, states)


def test_stage_2_cuts_gradients_that_outgrow_its_buffers():
    buffer = 2**23 * 4
    assert held(Sharding(stage=2, degree=4), parameters_bytes=100.0 * buffer).gradients == 25 * buffer + 3 * buffer


@pytest.mark.parametrize(
    ("precision", "optimizer", "bytes_each"),
    [("fp32", "adamw", 8), ("bf16", "adamw", 12), ("fp16", "adamw", 12), ("fp32", "sgd", 0), ("bf16", "sgd", 4)],
)
def test_states_of_a_parameter(precision, optimizer, bytes_each):
    assert state_bytes_per_parameter(Job(global_batch=1, precision=precision, optimizer=optimizer)) == bytes_each


def test_every_optimizer_of_a_job_has_its_states():
    assert set(MOMENTS) == set(OPTIMIZERS)


def test_an_unknown_optimizer_is_named():
    with pytest.raises(BadInput, match="lion"):
        state_bytes_per_parameter(Job(global_batch=1, optimizer="lion"))


def test_1f1b_keeps_as_many_as_stages_are_left_and_fthenb_all():
    assert [in_flight("1f1b", 4, s, 3) for s in range(4)] == [3, 3, 2, 1]
    assert [in_flight("fthenb", 4, s, 3) for s in range(4)] == [3, 3, 3, 3]


@given(
    parameters=st.floats(0, 1e12),
    degree=st.integers(2, 64),
    precision=st.sampled_from(["fp32", "bf16"]),
)
def test_memory_falls_with_the_sharding_stage(parameters, degree, precision):
    job = Job(global_batch=8, precision=precision)
    every = [held(Sharding(stage=s, degree=degree if s else 1), job, parameters) for s in range(4)]
    milli = 1e-3  # bytes, for rounding
    whole = [each.weights + each.gradients + each.states for each in every]
    assert all(more <= less + milli for less, more in pairwise(whole))


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_smaller_is_the_minimum(amount, limit):
    assert smaller(amount, limit) == pytest.approx(min(amount, limit), rel=1e-9, abs=1e-3)


def test_recompute_keeps_the_inputs_of_a_layer_and_selective_less_than_none():
    block = transformer()
    cost = layer_cost(block, device())
    assert cost.kept_bytes["full"] == block.input_bytes
    assert cost.kept_bytes["full"] < cost.kept_bytes["selective"] < cost.kept_bytes["none"]
    assert cost.kept_bytes["none"] == block.saved_bytes


def test_selective_runs_the_attention_core_again_and_full_the_layer():
    cost = layer_cost(transformer(), device())
    assert cost.recompute_s["none"] == 0.0
    assert 0.0 < cost.recompute_s["selective"] < cost.recompute_s["full"] == cost.forward_s


def test_a_layer_without_attention_is_run_again_whole_under_selective():
    cost = layer_cost(feed_forward(), device())
    assert cost.kept_bytes["selective"] == cost.kept_bytes["full"]
    assert cost.recompute_s["selective"] == cost.recompute_s["full"]
    assert set(cost.kept_bytes) == set(RECOMPUTE)


def test_beside_a_softmax_lie_its_logits_and_then_the_gradient_of_the_weight_that_made_them():
    """Run again, the logits have a copy of their gradient beside them."""
    model = graph("ernie-3.0-small", dtype="float32")
    for rows in (1, 8):
        head = block_with_rows(model.blocks[-1], rows)
        logits = next(head.tensor(op.inputs[0]).bytes for op in head.operators if op.kind == "cross_entropy")
        weight = max(t.bytes for t in head.parameters)
        cost = layer_cost(head, device())
        assert (cost.passing_bytes["none"], cost.loss_bytes["none"], cost.gradient_bytes) == (0, logits, weight)
        again = cost.kept_bytes["none"] - cost.kept_bytes["full"]
        assert cost.passing_bytes["full"] == cost.loss_bytes["full"] == again + 2 * logits
