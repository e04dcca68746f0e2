"""Memory of plans that fleet runs on devices that are not emulated: that of the same plan on the executor, and sums."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from nebula.cost_model.evaluate import evaluate
from nebula.cost_model.groups import Groups
from nebula.cost_model.peak import COMMUNICATOR_BYTES, CONTEXT_BYTES, FRAGMENTATION
from nebula.plan.job import RECOMPUTE
from nebula.plan.values import Job, Sharding
from nebula.planner.pool import equal_devices
from nebula.planner.price import Prices
from tests.pure.brute_cases import wide_model
from tests.pure.cost_samples import chain, cluster, device, plan

GPU = device(kind="gpu", emulated=False, peak_flops={"bfloat16": 1e14, "float32": 1e13}, memory_bytes=16e9)
ON = cluster(4, 8, kind=GPU)
JOB = Job(global_batch=8, precision="bf16")


def held(graph, on=ON, **more):
    return evaluate(graph, on, plan(job=JOB, **more)).memory


@pytest.mark.parametrize("experts", [False, True])
@pytest.mark.parametrize(
    ("data", "sharding", "recompute"),
    [*((1, Sharding(), policy) for policy in RECOMPUTE), (2, Sharding(stage=1, degree=2), "none")],
)
def test_both_engines_hold_the_same_but_what_was_sent(experts, data, sharding, recompute):
    """Fleet lets go of an output that is sent, the executor keeps it until its gradient comes."""
    graph = wide_model(6, 1024, experts)
    split = {"data": data, "rows": 4, "sharding": sharding, "recompute": recompute}
    fleet, executor = (held(graph, engine=engine, boundaries=(0, 3, 6), **split) for engine in ("fleet", "executor"))
    assert fleet[1] == executor[1]
    sent_bytes = 2 * 4 * graph.block_of(2).output_bytes
    assert executor[0].activations_bytes - fleet[0].activations_bytes == sent_bytes
    first, other = (replace(m[0], activations_bytes=0.0, fragmentation_bytes=0.0) for m in (fleet, executor))
    assert first == other


def test_tensor_ranks_hold_the_same_on_both_engines():
    split = {"boundaries": (0, 6), "data": 2, "tensor": 4, "rows": 4}
    fleet, executor = (held(wide_model(6, 1024, False), engine=engine, **split) for engine in ("fleet", "executor"))
    assert fleet == executor


def test_what_an_allocator_and_a_process_hold_by_hand():
    """A chain without a loss: four layers and all of 2 micro-batches on the first of two stages."""
    graph = chain(6)
    on = cluster(1, 8, kind=GPU)
    found = evaluate(graph, on, plan((0, 4, 6), data=2, micro_batches=4)).memory[0]
    elements = 4 * (2 * 4 * 64 * 64 + 5 * 64)
    assert (found.weights_bytes, found.gradients_bytes, found.optimizer_bytes) == tuple(n * elements for n in (4, 4, 8))
    assert found.activations_bytes == 2 * 4 * 4 * 64 * (64 + 2 * 256)
    lasting = found.weights_bytes + found.gradients_bytes + found.activations_bytes
    assert found.fragmentation_bytes == pytest.approx(max(0.0, FRAGMENTATION * lasting - found.workspace_bytes))
    assert found.context_bytes == CONTEXT_BYTES + 2 * COMMUNICATOR_BYTES


def test_gradients_are_copied_once_activations_are_gone():
    """Of a hybrid plan fleet copies all gradients, which decides where few activations lie there.

    A plan of data alone has buckets of all from the step before, filled anew one after the other.
    """
    graph = chain(2, hidden=512, tokens=1)
    (alone,) = evaluate(graph, ON, plan((0, 2), data=2)).memory
    hybrid = evaluate(graph, ON, plan((0, 1, 2), data=2)).memory[0]
    assert hybrid.workspace_bytes == hybrid.gradients_bytes
    assert hybrid.activations_bytes == hybrid.buffers_bytes == 0.0
    assert alone.buffers_bytes == alone.gradients_bytes


@pytest.mark.parametrize("kind", [device(), device(kind="cpu", emulated=False)])
def test_tensors_alone_fill_emulated_devices_and_plain_cpus(kind):
    found = evaluate(chain(6), cluster(kind=kind), plan((0, 3, 6), data=2)).memory
    assert all(m.context_bytes == m.fragmentation_bytes == 0.0 for m in found)


@pytest.mark.parametrize("emulated", [False, True])
@pytest.mark.parametrize(("precision", "optimizer"), list(product(("fp32", "bf16"), ("adamw", "sgd"))))
def test_a_layer_alone_never_holds_more_where_more_ranks_share_it(emulated, precision, optimizer):
    """But under stage 2, where a rank has buffers for all owners; searches count on it."""
    kind = replace(GPU, emulated=emulated)
    job = Job(global_batch=64, precision=precision, optimizer=optimizer)
    where = cluster(8, 8, kind=kind)
    for graph in (wide_model(6, 256, True), wide_model(6, 256, False)):
        prices = Prices(graph, where, job, equal_devices(where, "bfloat16"))
        for rows, recompute in product((1, 4), RECOMPUTE):
            spans = prices.spans(2, rows, recompute)
            for stage in (1, 3):
                held_bytes = np.array(
                    [
                        np.max([line.held + line.kept for line in spans.lines(spans.single, one, Groups(), 4)], axis=0)
                        for one in (Sharding(stage=stage, degree=degree) for degree in (2, 3, 4, 8, 64))
                    ]
                )
                assert (np.diff(held_bytes, axis=0) <= 1e-9 * held_bytes[0]).all()
