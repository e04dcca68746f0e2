"""Rows as graph, cluster and plan: where layers are cut, where ranks lie, what was measured, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cost_model.runs.case import Case, Refused, case_of, measurement_of, sharding_of
from nebula.cost_model.runs.partition import boundaries, spread
from nebula.cost_model.runs.predict import Predicted, predict
from nebula.cost_model.runs.sanity import doubts, linear_flops, six_n_d
from nebula.graph.values import Collective
from nebula.models.decoders_measured import config_of, described_run, printed_parameters
from nebula.plan.values import Sharding
from tests.pure.runs_samples import case, published, row


@pytest.mark.parametrize(
    ("layers", "pp", "vpp", "more", "sizes"),
    [
        (4, 1, 1, {}, (6,)),
        (4, 2, 1, {}, (3, 3)),
        (6, 2, 1, {"vpp": 1}, (4, 4)),
        (6, 4, 2, {}, (1, 1, 1, 1, 1, 1, 1, 1)),
        (5, 2, 1, {}, (4, 3)),
        (10, 4, 1, {}, (3, 3, 3, 3)),
        (70, 12, 1, {}, (6,) * 12),
        (24, 4, 1, {"stage_partition": "[0, 8, 14, 20, 30]"}, (6, 6, 6, 8)),
        (24, 4, 1, {"stage_partition": [0, 6, 12, 18, 24]}, (7, 6, 6, 7)),
    ],
)
def test_layers_of_stages(layers: int, pp: int, vpp: int, more: dict, sizes: tuple[int, ...]) -> None:
    """Even; embedding and loss as layers where that comes out even; as listed, of which 6 of 30 are no layers."""
    cuts = boundaries(row(layers=layers, pp=pp, dp=1, devices=2 * pp, **({"vpp": vpp} | more)))
    assert tuple(b - a for a, b in pairwise(cuts)) == sizes
    assert (cuts[0], cuts[-1]) == (0, layers + 2)


@given(st.integers(1, 200), st.integers(1, 32))
def test_a_spread_is_even_and_complete(elements: int, stages: int) -> None:
    sizes = spread(elements, stages)
    assert sum(sizes) == elements
    assert max(sizes) - min(sizes) <= 1


def test_a_partition_that_does_not_fit_is_refused_with_its_numbers() -> None:
    found = case_of(row(stage_partition=[0, 3]), described_run)
    assert isinstance(found, Refused)
    assert "stage_partition [0, 3] does not cut 4 layers into 2 stages" in found.reason
    found = case_of(row(layers=1), described_run)
    assert isinstance(found, Refused)
    assert "layers 1 < pp 2 × vpp 1 = 2 stages" in found.reason


def test_ranks_lie_tensor_inside_context_inside_data_inside_pipeline() -> None:
    plan = case(cp=2, devices=16).plan
    ranks = [[r.ranks for r in stage.replicas] for stage in plan.stages]
    assert ranks == [[(0, 1, 2, 3), (4, 5, 6, 7)], [(8, 9, 10, 11), (12, 13, 14, 15)]]
    assert [stage.context for stage in plan.stages] == [2, 2]
    assert (plan.ranks[7], plan.ranks[8]) == (("n/0", 7), ("n/1", 0))


def test_interleaving_gives_stages_the_same_ranks() -> None:
    plan = case(vpp=2).plan
    assert plan.schedule == "interleaved"
    assert len(plan.stages) == 4
    assert plan.stages[0].ranks == plan.stages[2].ranks == (0, 1, 2, 3)
    assert plan.stages[1].ranks == plan.stages[3].ranks == (4, 5, 6, 7)


def test_a_plan_has_the_row_s_batch() -> None:
    plan = case(micro_batch=2, global_batch=24, recompute="full", sequence_parallel=True).plan
    assert plan.micro_batches == 6
    assert {r.micro_batch_rows for s in plan.stages for r in s.replicas} == {2}
    assert {s.recompute for s in plan.stages} == {"full"}
    assert plan.sequence_parallel
    assert plan.job.global_batch == 24


@pytest.mark.parametrize(
    ("text", "data", "stage", "degree"),
    [
        ("0", 8, 0, 1),
        ("1", 8, 1, 8),
        ("1", 1, 0, 1),
        ("fsdp(3)", 8, 3, 8),
        ("FSDP", 8, 3, 8),
        ("fsdp(3) over dp*cp", 4, 3, 4),
        ("2 (group-sharded stage2 over 4)", 8, 2, 4),
        ("zero-2", 8, 2, 8),
        ("", 8, 0, 1),
        ("none", 8, 0, 1),
    ],
)
def test_sharding_texts(text: str, data: int, stage: int, degree: int) -> None:
    assert sharding_of(text, data) == Sharding(stage=stage, degree=degree)


def test_measurements_become_seconds_and_bytes() -> None:
    assert measurement_of(row()).step_s == 0.1
    rate = measurement_of(row(measured={"tokens_per_s_per_device": 64.0}))
    assert rate.step_s == 8 * 128 / (64.0 * 8)
    assert measurement_of(row(measured={"mfu": 0.4}, derived={"step_time_s": 2.0})).step_s == 2.0
    peaks = {"peak_mem_gib": 2.0, "peak_alloc_gib": 1.0, "step_time_s": 1.0}
    assert measurement_of(row(measured=peaks)).peak_bytes == 2**30
    layer = measurement_of(row(kind="layer", measured={"layer_fwd_ms": 2.0, "layer_bwd_ms": 3.0}))
    assert (layer.forward_s, layer.backward_s, layer.time_s) == (2e-3, 3e-3, pytest.approx(5e-3))


def test_a_row_without_a_time_or_peak_says_so() -> None:
    found = case_of(row(measured={"mfu": 0.4}), described_run)
    assert isinstance(found, Refused)
    assert "neither a time nor a peak" in found.reason


def test_a_model_is_known_by_what_it_does() -> None:
    def style(**changes) -> str:
        one = row(**changes)
        return config_of(one, case().execution).style

    assert (style(), style(gated_mlp=True), style(kv_heads=2)) == ("gpt", "llama", "nemotron")
    text = "MLA(q_lora 1536, kv_lora 512, nope 128, rope 64, v 128)"
    latent = config_of(row(attention=text), case().execution).latent
    assert (latent.query_rank, latent.key_value_rank, latent.plain, latent.rotary, latent.value) == (
        1536,
        512,
        128,
        64,
        128,
    )
    window = config_of(row(attention="alternating sliding window 64 / full"), case().execution)
    assert [window.window_of(i) for i in range(4)] == [64, 0, 64, 0]
    assert config_of(row(attention="sliding window 4096"), case().execution).window_of(0) == 0


@pytest.mark.parametrize(
    ("model", "more", "parameters"),
    [
        ("gpt-3.6b", {}, 3.6e9),
        ("bloom-like-181B", {}, 181e9),
        ("mpt-125m", {}, 125e6),
        ("llama3-70b (12 layers)", {}, 0),
        ("mixtral-8x7b", {}, 0),
        ("gpt2-24l", {}, 0),
        ("anything", {"param_count": 5e6}, 5e6),
    ],
)
def test_parameters_in_names(model: str, more: dict, parameters: float) -> None:
    assert printed_parameters(row(model=model, **more)) == parameters


def test_the_figure_tells_whether_the_head_is_the_embedding() -> None:
    apart = case(tp=1, pp=1, dp=8, gated_mlp=True)
    whole = apart.parameters
    shared = 1024 * 256
    found = case(tp=1, pp=1, dp=8, gated_mlp=True, param_count=whole - shared)
    assert (found.parameters, found.tied_elements) == (whole - shared, shared)
    assert case(tp=1, dp=4, gated_mlp=True, param_count=whole - shared).tied_elements == 0, "each end holds its own"
    assert apart.tied_elements == 0


def test_published_rows_are_understood() -> None:
    """All convert; parameters are within 3 % of the source's but for names that round; products are 6 N D."""
    cases = [case_of(one, described_run) for one in published()]
    assert not [c for c in cases if isinstance(c, Refused)]
    found = [c for c in cases if isinstance(c, Case)]
    counted = [c for c in found if c.row.param_count]
    assert counted
    assert all(c.parameters == c.row.param_count for c in counted)
    steps = [c for c in found if c.row.is_step]
    # experts have whole rows: 4096 tokens of which each sees 6 of 160 are 154 rows, not 153.6
    assert all(linear_flops(c) == pytest.approx(six_n_d(c), rel=1e-6 if not c.row.moe else 3e-3) for c in steps)
    doubted = {d.model for c in found for d in doubts(c)}
    assert doubted <= {"nemotron4-15b", "llama2-7b", "gemma-7b", "bloom-like-20B", "mistral-7b-32k"}


def test_a_share_of_a_layer_is_one_device_without_collectives() -> None:
    whole = case(kind="layer", tp=4, pp=1, dp=1, devices=4, measured={"layer_total_ms": 5.0})
    share = case(kind="layer_shard", tp=4, pp=1, dp=1, devices=1, measured={"layer_total_ms": 5.0})
    assert len(whole.graph.layers) == len(share.graph.layers) == 1
    assert (whole.plan.world_size, share.plan.world_size) == (4, 1)
    block = share.graph.blocks[0]
    assert not [w for op in block.operators for w in (*op.forward, *op.backward) if isinstance(w, Collective)]
    products = [
        k.product.flops for b in (whole.graph.blocks[0], block) for op in b.operators for k in op.forward if k.product
    ]
    half = len(products) // 2
    assert sum(products[half:]) == sum(products[:half]) / 4


def test_what_ranks_cannot_share_is_padded_or_copied() -> None:
    odd = case(vocab=1001, tp=4, dp=1)
    assert odd.graph.blocks[0].tensor("tokens.weight").shape == (1024, 256)
    few = case(tp=8, pp=1, dp=1, kv_heads=2, gated_mlp=True, sequence_parallel=True)
    assert few.graph.block_of(1).tensor("attention.key.weight").shape == (256, 256)
    assert isinstance(predict(few), Predicted)


@given(
    st.fixed_dictionaries(
        {
            "tp": st.sampled_from([1, 2, 3]),
            "pp": st.sampled_from([1, 2, 5]),
            "vpp": st.sampled_from([1, 2]),
            "dp": st.sampled_from([1, 4]),
            "cp": st.sampled_from([1, 2]),
            "layers": st.integers(1, 8),
            "heads": st.sampled_from([4, 7, 8]),
            "zero": st.sampled_from(["", "1", "fsdp", "what"]),
            "precision": st.sampled_from(["fp16", "fp8", "?"]),
            "recompute": st.sampled_from(["none", "full", "selective", "?"]),
            "device": st.sampled_from(["H100", "?", "2x V100-16GB + 2x T4-16GB"]),
            "attention": st.sampled_from(["", "?", "MLA(kv_lora 64)", "sliding window 16"]),
            "stage_partition": st.sampled_from([None, "[0, 2, 4]", "?"]),
        }
    )
)
@settings(max_examples=40, deadline=None)
def test_any_row_is_predicted_or_refused_with_a_reason(changes: dict) -> None:
    world = changes["tp"] * changes["pp"] * changes["dp"] * changes["cp"]
    found = case_of(row(**changes, devices=world, global_batch=2 * changes["dp"]), described_run)
    outcome = predict(found) if isinstance(found, Case) else found
    if isinstance(outcome, Refused):
        assert len(outcome.reason) > 20
    else:
        assert outcome.time_s > 0


def test_layers_and_steps_are_predicted_and_the_rest_says_why() -> None:
    step = predict(case())
    assert isinstance(step, Predicted)
    assert step.time_s > 0 < step.peak_bytes
    both, forward = (
        predict(case(kind="layer", tp=4, pp=1, dp=1, devices=4, measured=measured))
        for measured in ({"layer_total_ms": 5.0}, {"layer_fwd_ms": 5.0})
    )
    assert isinstance(both, Predicted)
    assert isinstance(forward, Predicted)
    assert 0 < forward.time_s < both.time_s
    late = predict(case(vpp=2))
    if isinstance(late, Refused):
        assert "interleaved" in late.reason
