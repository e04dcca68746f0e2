"""Executions read from texts: what they say is taken, what they leave open is assumed and noted."""

from __future__ import annotations

import pytest

from nebula.cost_model.execution import Execution, Hidden, Recompute, without_assumptions
from nebula.cost_model.runs.read_execution import execution_of, recompute_of
from nebula.errors import BadInput
from tests.pure.runs_samples import published, row


def read(**changes) -> Execution:
    return execution_of(row(**changes))


def of(**execution) -> Execution:
    return read(execution=execution)


def test_what_nothing_is_said_of_is_assumed_and_noted() -> None:
    found = read()
    assert without_assumptions(found) == Execution(dropout=0.1, host_kernel_s=41e-6)
    assert {"attention", "hidden", "host_kernel_s", "accumulation_dtype", "dropout"} <= set(found.assumed)
    assert dict(found.provenance)["attention"] == "assumed"
    assert dict(found.provenance)["compute_dtype"] == "printed"


@pytest.mark.parametrize(
    ("attention", "notes", "generation", "assumed"),
    [
        ("fused", "", 1, True),
        ("fused", "measured in Nov 2023", 1, True),
        ("fused", "FlashAttention-3", 3, False),
        ("flash v1", "", 1, False),
        ("unfused", "", 0, False),
        ("", "flash attention; fused rope", 1, True),
        ("fused", "FSDP2 prefetch", 2, True),
        ("", "", 0, True),
    ],
)
def test_attention(attention: str, notes: str, generation: int, assumed: bool) -> None:
    found = read(execution={"attention": attention}, notes=notes)
    assert (found.attention, "attention" in found.assumed) == (generation, assumed)


@pytest.mark.parametrize(
    ("source", "device", "generation"),
    [
        ({"path": "benchmarks/llama_202311.md"}, "A100-80GB-SXM", 2),
        ({"rev": "v24.11.1"}, "H100-80GB-SXM", 3),
        ({"table": "8 devices, Nov 2022"}, "A100-80GB-SXM", 1),
        ({}, "H100-80GB-SXM", 1),
        ({}, "B200", 3),
    ],
)
def test_software_without_a_date_is_as_old_as_its_device(source: dict, device: str, generation: int) -> None:
    assert read(execution={"attention": "fused"}, source=source, device=device).attention == generation


def test_overlap_is_as_printed_and_else_as_the_text_says() -> None:
    printed = {"tensor": False, "data": True, "pipeline": True}
    assert of(overlap=printed).hidden == Hidden(data=True, pipeline=True)
    assert read(overlap="AsyncTP; FSDP2 prefetch").hidden == Hidden(tensor=True, data=True)
    assert read(overlap="overlap-grad-reduce, p2p overlap, MoE a2a overlap").hidden == Hidden(
        data=True, pipeline=True, expert=True
    )
    assert read(overlap="none (no overlap)").hidden == Hidden()


@pytest.mark.parametrize(
    ("precision", "compute", "products", "accumulated"),
    [
        ("bf16", "bfloat16", "bfloat16", "float32"),
        ("fp16", "float16", "float16", "float16"),
        ("fp32", "float32", "float32", "float32"),
        ("fp8-rowwise", "bfloat16", "float8_e4m3fn", "float32"),
        ("nvfp4", "bfloat16", "float4_e2m1fn", "float32"),
    ],
)
def test_precisions(precision: str, compute: str, products: str, accumulated: str) -> None:
    found = read(precision=precision)
    assert (found.compute_dtype, found.product_dtype, found.accumulation_dtype) == (compute, products, accumulated)
    assert found.job_precision == {"float16": "fp16", "float32": "fp32"}.get(compute, "bf16")
    assert found.master_dtype == ("" if precision == "fp32" else "float32")


def test_texts_decide_dtypes_of_gradients() -> None:
    assert read(overlap="mixed_precision PURE (bf16 grads/reduce)").reduction_dtype == "bfloat16"
    assert read(precision="fp16", overlap="fp32_allreduce true").reduction_dtype == "float32"
    dated = "bf16 rows after 02-28 accumulate gradients in fp32"
    assert read(overlap=dated, date="02-17").accumulation_dtype == "bfloat16"
    assert read(overlap=dated, date="02-28").accumulation_dtype == "float32"
    assert read(overlap=dated, date="02-28", precision="fp16").accumulation_dtype == "float16"
    assert read(overlap="FSDP2; torch.compile; fp8 all-gather", precision="fp8").gather_dtype == "float8_e4m3fn"


def test_launches_and_waits() -> None:
    assert read(overlap="FSDP2 prefetch; torch.compile").compiled
    eager = read(overlap="FSDP2 prefetch; eager")
    assert not eager.compiled
    assert "compiled" not in eager.assumed
    assert read(overlap="wall_clock_breakdown true (adds syncs)").timed
    assert read(notes="kernel launch 9us").host_kernel_s == 9e-6
    assert not read(notes="separate kernels").fused_pointwise


@pytest.mark.parametrize(
    ("inter", "devices", "notes", "blocking", "assumed"),
    [
        ("4x100Gb/s Omni-Path per node", 16, "", True, True),
        ("4x100Gb/s Omni-Path per node", 16, "CUDA_LAUNCH_BLOCKING=0", False, False),
        ("4x100Gb/s Omni-Path per node", 8, "", False, True),
        ("8x200Gb/s InfiniBand", 16, "", False, True),
        ("8x200Gb/s InfiniBand", 16, "CUDA_LAUNCH_BLOCKING=1", True, False),
        ("", 16, "blocking launches", True, False),
    ],
)
def test_who_waits_for_each_kernel(inter: str, devices: int, notes: str, blocking: bool, assumed: bool) -> None:
    found = read(inter=inter, devices=devices, devices_per_node=8, dp=devices // 4, global_batch=16, notes=notes)
    assert (found.blocking, "blocking" in found.assumed) == (blocking, assumed)


def test_optimizers_and_dropout() -> None:
    assert read(optimizer="SGD").moments == 0
    assert read(optimizer="Muon").moments == 1
    assert read(notes="dropout 0.2").dropout == 0.2
    assert of(attention="fused").dropout == 0.0
    assert of(attention="unfused").dropout == 0.1


@pytest.mark.parametrize(
    ("text", "what", "every", "policy"),
    [
        ("none", "none", 1, "none"),
        ("selective", "core", 1, "selective"),
        ("selective (per-op)", "products", 1, "selective"),
        ("every-2nd-layer", "layer", 2, "full"),
        ("full", "layer", 1, "full"),
        ("false", "none", 1, "none"),
    ],
)
def test_recompute(text: str, what: str, every: int, policy: str) -> None:
    found = recompute_of(text)
    assert found == Recompute(what=what, every=every)
    assert found.policy == policy


def test_an_unknown_granularity_is_refused() -> None:
    with pytest.raises(BadInput, match="recompute 'half' of every 1"):
        Recompute(what="half")


def test_the_name_of_a_stack_changes_nothing() -> None:
    for one in published():
        renamed = one.model_copy(update={"execution": one.execution.model_copy(update={"stack": "brand-new"})})
        assert execution_of(renamed) == execution_of(one)


@pytest.mark.parametrize(
    ("changes", "loss"),
    [
        ({"source": {"table": "llama_tp1_mbc4_cef"}}, "in place"),
        ({"notes": "cross-entropy-loss-fusion"}, "in place"),
        ({"overlap": "FSDP2 prefetch; eager"}, "composed"),
        ({"overlap": "FSDP prefetch"}, "kernel"),
    ],
)
def test_how_the_loss_is_computed(changes, loss: str) -> None:
    assert read(**changes).loss == loss


def test_a_text_that_names_fused_kernels_and_no_norm_has_norms_in_pieces() -> None:
    assert not read(overlap="flash attention, fused rope").fused_norm
    assert read(overlap="fused rope, fused rms norm").fused_norm
    assert read().fused_norm


def test_sums_lie_beside_gradients_where_a_text_says_that_they_have_another_dtype() -> None:
    text = "bf16 rows after 02-28 accumulate gradients in fp32"
    late, early = (read(notes=text, precision="bf16", date=date) for date in ("02-28", "02-17"))
    assert late.separate_sums
    assert not early.separate_sums
    assert not read(precision="bf16").separate_sums


def test_selective_activation_checkpointing_keeps_every_second_product() -> None:
    text = "selective AC from the toml"
    assert read(recompute="selective", assumptions=text).recompute == Recompute(what="products")
    assert read(recompute="selective").recompute == Recompute(what="core")
    assert read(recompute="full", assumptions=text).recompute == Recompute(what="layer")
