"""Memory of a stage by what holds it: sums by hand, what sharding and recomputation save, and what keeps how much."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.cost_model.layer import layer_cost
from nebula.cost_model.memory import MOMENTS, fixed_bytes, in_flight, smaller, stage_memory, state_bytes_per_parameter
from nebula.errors import BadInput
from nebula.graph.rows import block_with_rows
from nebula.models.describe import graph
from nebula.plan.job import OPTIMIZERS, RECOMPUTE
from nebula.plan.values import Job, Sharding
from tests.pure.cost_samples import WHOLE, device, feed_forward
from tests.pure.graph_blocks import transformer

FP32 = Job(global_batch=8)


def memory(sharding=WHOLE, job=FP32, **more):
    fields = {
        "parameters_bytes": 400.0,
        "elements": 100.0,
        "widest_bytes": 80.0,
        "kept_bytes": 30.0,
        "working_bytes": 7.0,
        "border_bytes": 3.0,
        "in_flight": 2,
        "limit_bytes": 1e3,
    }
    return stage_memory(sharding=sharding, job=job, **(fields | more))


def test_an_unsharded_stage_by_hand():
    found = memory()
    assert (found.weights_bytes, found.gradients_bytes, found.optimizer_bytes) == (400, 400, 800)
    assert (found.activations_bytes, found.workspace_bytes) == (60, 10)
    assert found.total_bytes == 1670


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "states"), [(1, 400, 400, 200), (2, 400, 400, 200), (3, 160, 100, 200)]
)
def test_what_each_sharding_stage_cuts_by_four(stage, weights, gradients, states):
    """Stage 3 gathers the widest layer, 80 bytes; the buffers of stage 2 hold these few gradients whole."""
    found = memory(Sharding(stage=stage, degree=4))
    assert (found.weights_bytes, found.gradients_bytes, found.optimizer_bytes) == (weights, gradients, states)


def test_stage_2_cuts_gradients_that_outgrow_its_buffers():
    buffer = 2**23 * 4
    found = memory(Sharding(stage=2, degree=4), parameters_bytes=100.0 * buffer)
    assert found.gradients_bytes == 25 * buffer + 3 * buffer


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
    widest=st.floats(0, 1),
    degree=st.integers(2, 64),
    precision=st.sampled_from(["fp32", "bf16"]),
)
def test_memory_falls_with_the_sharding_stage(parameters, widest, degree, precision):
    job = Job(global_batch=8, precision=precision)
    held = [
        fixed_bytes(parameters, parameters / 4, widest * parameters, Sharding(stage=s, degree=degree if s else 1), job)
        for s in range(4)
    ]
    milli = 1e-3  # bytes, for rounding
    assert all(more <= less + milli for less, more in pairwise(held))


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
        assert cost.working_bytes["none"] == max(logits, weight)
        again = cost.working_bytes["full"] - (cost.kept_bytes["none"] - cost.kept_bytes["full"])
        assert again == 2 * logits + weight


def test_the_first_layers_gradients_find_nothing_left_of_the_others():
    embedding = graph("ernie-3.0-small", dtype="float32").blocks[0]
    table = max(t.bytes for t in embedding.parameters)
    assert layer_cost(embedding, device()).working_bytes["none"] < table
