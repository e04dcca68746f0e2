"""The time of a step by operator: rows sum to its compute, rest on what bounds them, and stand in the report."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cli.details import detailed
from nebula.cluster.catalogue import device_type
from nebula.cost_model.evaluate import evaluate
from nebula.cost_model.operations import MOST, REST, OperationRow, operation_rows
from nebula.models.describe import decoder_graph
from nebula.plan.values import Plan, Sharding
from nebula.report.findings import Findings
from nebula.report.html import report_page
from nebula.report.provenance import LINKS, basis_rows
from nebula.report.report_document import report_document
from tests.pure.cost_samples import chain, cluster, device, plan
from tests.pure.decoder_samples import MIXED

MODEL = chain(6, wide=(2,))
EXPERTS = decoder_graph("mixed", replace(MIXED, layers=3), dtype="float32")


def rows(chosen: Plan, graph=MODEL, on=None) -> tuple[Plan, dict[str, OperationRow]]:
    on = on or cluster(4)
    priced = replace(chosen, prediction=evaluate(graph, on, chosen))
    return priced, {row.kind: row for row in operation_rows(graph, on, priced)}


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(0, 6), (0, 2, 6), (0, 1, 4, 6)]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 5),
    st.sampled_from(["none", "full"]),
    st.integers(0, 3),
)
def test_the_rows_are_the_compute_of_the_step(bounds, data, tensor, micro_batches, recompute, level) -> None:
    cut = Sharding(stage=level, degree=2) if data == 2 and level else Sharding()
    chosen = plan(bounds, data=data, tensor=tensor, micro_batches=micro_batches, recompute=recompute, sharding=cut)
    priced, found = rows(chosen)
    parts = priced.prediction.parts
    assert sum(row.step_s for row in found.values()) == pytest.approx(parts.compute_s + parts.recompute_s)
    assert found[REST].step_s >= -1e-12
    assert len(found) <= MOST + 1


def test_a_lone_replica_without_micro_batches_does_nothing_but_its_operators() -> None:
    priced, found = rows(plan((0, 6), micro_batches=1))
    assert found[REST].step_s == pytest.approx(0, abs=1e-12)
    kernels = [w for index in MODEL.layers for op in MODEL.blocks[index].operators for w in (*op.forward, *op.backward)]
    assert sum(row.launches for row in found.values()) == len(kernels)
    assert priced.prediction.parts.recompute_s == 0


@pytest.mark.parametrize(
    ("changed", "bound", "field"),
    [
        ({"peak_flops": {"float32": 1e9}}, "arithmetic", "product_efficiency"),
        ({"memory_bytes_per_s": 1e7}, "memory", "memory_efficiency"),
        ({"kernel_s": 1.0}, "launches", "kernel_s"),
    ],
)
def test_what_is_scarce_is_what_products_rest_on(changed, bound: str, field: str) -> None:
    kind = device(**changed, sources=((field, "measured here"),), emulated=False)
    _, found = rows(plan((0, 6)), on=cluster(1, kind=kind))
    assert found["matmul"].bound == bound
    assert dict(found["matmul"].rests_on)[field] == "measured"


def test_on_a_device_with_shapes_softmax_and_norms_may_be_bound_by_instructions() -> None:
    kind = replace(device_type("A100-80GB-SXM"), exponentials_per_s=1e9, kernel_s=1e-9)
    base = plan((0, len(EXPERTS.layers)), micro_batches=2)
    _, found = rows(base, EXPERTS, cluster(1, kind=kind))
    assert found["rms_norm"].bound == "instructions"
    assert found["matmul"].bound != "instructions"


def test_plans_beyond_fleet_have_their_rows_too() -> None:
    base = plan((0, 2, 5), data=4, micro_batches=2)
    chosen = replace(base, stages=tuple(replace(stage, expert=4) for stage in base.stages))
    priced, found = rows(chosen, EXPERTS, cluster(4, kind=device(memory_bytes=16e9)))
    parts = priced.prediction.parts
    assert sum(row.step_s for row in found.values()) == pytest.approx(parts.compute_s + parts.recompute_s)
    assert "grouped_matmul" in found


def test_the_report_says_what_each_part_rests_on() -> None:
    on = cluster(2, kind=device(emulated=False, kernel_s=1e-9, sources=(("peak_flops", "data sheet of the maker"),)))
    chosen = plan((0, 6), data=2, tensor=2)
    chosen = replace(chosen, prediction=evaluate(MODEL, on, chosen))
    findings = detailed(Findings(plan=chosen, graph=MODEL, cluster=on))
    basis = {row.name: row for row in basis_rows(findings)}
    assert "peak FLOP/s: data sheet" in basis["matmul"].rests_on
    assert basis["tensor communication"].bound == LINKS
    assert "fitted" in basis["data communication"].rests_on
    assert "pipeline communication" not in basis
    assert sum(row.share for row in basis.values()) <= 1 + 1e-9
    page = report_page(findings)
    assert all(row.rests_on in page for row in basis.values())
    assert [row["name"] for row in report_document(findings)["operations"]] == list(basis)
