"""A plan's price: parts that sum to the step, one device as the serial sum, borders and updates by hand, laws."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cluster.values import Cluster
from nebula.cost_model.communication import Levels
from nebula.cost_model.compute import compute_seconds
from nebula.cost_model.confidence import interval, origin, provenance
from nebula.cost_model.evaluate import evaluate, predicted_timeline
from nebula.cost_model.fleet import Pricing
from nebula.cost_model.layer import layer_cost
from nebula.errors import BadInput
from nebula.models.describe import graph as described_model
from nebula.plan.values import Job, RankPlace, Sharding
from tests.pure.cost_samples import WHOLE, chain, cluster, device, feed_forward, plan, rectified

LAUNCH, MEMORY = 5e-6, 1e11


def parameters(graph) -> int:
    return sum(t.size for i in graph.layers for t in graph.blocks[i].parameters)


def serial_micro_batch_s(graph) -> float:
    return sum(
        compute_seconds([*op.forward, *op.backward], device()) for i in graph.layers for op in graph.blocks[i].operators
    )


def test_one_device_is_the_sum_of_its_kernels_sums_and_updates():
    graph, tensors = chain(3), 3 * 4
    found = evaluate(graph, cluster(), plan((0, 3), micro_batches=4))
    passes_s = 4 * serial_micro_batch_s(graph)
    sums_s = 3 * (tensors * LAUNCH + 3 * 4 * parameters(graph) / MEMORY)
    # AdamW moves 28 bytes a parameter, the clip of the norm 12; three kernels a tensor
    update_s = 3 * tensors * LAUNCH + 40 * parameters(graph) / MEMORY
    assert found.parts.compute_s == pytest.approx(passes_s + sums_s)
    assert found.parts.optimizer_s == pytest.approx(update_s)
    assert found.step_time_s == pytest.approx(passes_s + sums_s + update_s)
    assert found.tokens_per_s == pytest.approx(4 * 64 / found.step_time_s)


def test_model_flops_utilisation_counts_no_recomputation():
    graph = chain(3)
    none = evaluate(graph, cluster(), plan((0, 3)))
    full = evaluate(graph, cluster(), plan((0, 3), recompute="full"))
    flops = 4 * (graph.forward_flops + graph.backward_flops)
    assert none.mfu == pytest.approx(flops / (1e12 * none.step_time_s))
    assert full.mfu * full.step_time_s == pytest.approx(none.mfu * none.step_time_s)
    assert full.parts.recompute_s == pytest.approx(full.step_time_s - none.step_time_s)


def test_data_parallelism_adds_an_all_reduce_of_the_gradients():
    graph, size = chain(3), 4 * parameters(chain(3))
    found = evaluate(graph, cluster(), plan((0, 3), data=4))
    ring_s = 6 * (1e-5 + size / 4 / 1e10)
    copies_s = 2 * 12 * LAUNCH + 6 * size / MEMORY
    assert found.parts.data_communication_s == pytest.approx(ring_s + copies_s)


def test_owners_reduce_update_and_broadcast_under_sharding_stage_1():
    graph, size = chain(3), 4 * parameters(chain(3))
    found = evaluate(graph, cluster(), plan((0, 3), data=4, sharding=Sharding(stage=1, degree=4)))
    chain_s = 12 * 3 * 1e-5 + size / 1e10
    scaling_s = 12 * LAUNCH + 2 * size / MEMORY
    assert found.parts.data_communication_s == pytest.approx(2 * chain_s + scaling_s)
    assert found.parts.optimizer_s == pytest.approx(36 / 4 * LAUNCH + 40 * parameters(graph) / 4 / MEMORY)


def test_sharding_stage_3_fills_copies_and_scales_beside_its_messages():
    """One layer over four ranks: of what gathers only what its kernels take longer counts; biases are not cut."""
    graph, size = chain(1), 4 * parameters(chain(1))
    up, down = 64 * 256 * 4, 64 * 64 * 4
    sharding = Sharding(stage=3, degree=4)
    own, link = plan((0, 1), data=4, micro_batches=1, sharding=sharding), 1e11
    found = evaluate(graph, cluster(intra=link), own)
    serial_s = serial_micro_batch_s(graph)
    gather_s = 2 * 3 * 1e-5 + 3 / 4 * size / link
    reduce_s = 2 * gather_s
    gather_kernels_s = (4 + 2) * LAUNCH + (1.5 * size + 2 * (up + down)) / MEMORY
    scatter_kernels_s = 10 * LAUNCH + 5 * size / MEMORY
    add_s = 4 * LAUNCH + 3 * size / MEMORY
    assert found.parts.data_communication_s == pytest.approx(2 * gather_s + reduce_s)
    more_s = max(0, gather_kernels_s - gather_s) + scatter_kernels_s
    assert found.parts.compute_s == pytest.approx(serial_s + more_s + add_s)
    instant = cluster(intra=1e30)
    instant = replace(
        instant, groups=(replace(instant.groups[0], intra=replace(instant.groups[0].intra, latency_s=0.0)),)
    )
    again = evaluate(graph, cluster(intra=link), replace(own, stages=(replace(own.stages[0], recompute="full"),)))
    assert again.parts.data_communication_s == pytest.approx(3 * gather_s + reduce_s)
    bare = evaluate(graph, instant, own)
    assert bare.parts.compute_s == pytest.approx(serial_s + gather_kernels_s + scatter_kernels_s + add_s)


def test_what_sublayers_with_parameters_return_is_what_their_last_operators_write():
    block = feed_forward()
    found = layer_cost(block, device())
    assert found.module_outputs == 2
    assert found.module_output_bytes == 64 * 256 * 4 + 64 * 64 * 4


def test_a_border_costs_its_sender_a_message():
    graph = chain(4)
    found = Pricing(graph, cluster(nodes=2, per_node=1), plan().job).stage_costs(plan((0, 2, 4), per_node=1))
    message_s = 2.1e-5 + 64 * 64 * 4 / 1e9
    assert [c.send_forward_s for c in found] == pytest.approx([message_s, 0.0])
    assert [c.send_backward_s for c in found] == pytest.approx([0.0, message_s])


def test_tensor_parallelism_halves_products_and_communicates():
    graph = chain(2, hidden=256, tokens=256)
    serial = evaluate(graph, cluster(kind=device(kernel_s=0.0)), plan((0, 2)))
    halved = evaluate(graph, cluster(kind=device(kernel_s=0.0)), plan((0, 2), tensor=2))
    assert 0.45 < halved.parts.compute_s / serial.parts.compute_s < 0.75
    assert halved.parts.tensor_communication_s > 0.0
    assert halved.memory[0].weights_bytes < 0.51 * serial.memory[0].weights_bytes


def test_a_composed_loss_over_a_cut_vocabulary_takes_longer_on_a_plug_in_device():
    small = described_model("ernie-3.0-small", dtype="float32")
    local = Pricing(small, cluster(), Job(global_batch=1)).chains.block(small.layers[-1], 2, 2, False)
    assert layer_cost(local, device()).forward_s > 1.05 * layer_cost(local, device(kind="gpu")).forward_s


def test_memory_is_told_for_every_stage_with_its_limit():
    found = evaluate(chain(), cluster(), plan((0, 2, 4, 6), micro_batches=8))
    kept = [m.activations_bytes for m in found.memory]
    assert kept == pytest.approx([kept[2] * 3, kept[2] * 2, kept[2]])
    assert {m.limit_bytes for m in found.memory} == {0.92e9}


def rectified_chain(layers):
    return replace(chain(layers), blocks=(rectified(),), layers=(0,) * layers)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_what_one_layer_returns_and_the_next_keeps_lies_there_once(recompute):
    """Three Linears and relus keep their input and three outputs; run again whole, each keeps its own input alone."""
    one = 64 * 64 * 4
    found = evaluate(rectified_chain(3), cluster(), plan((0, 3), micro_batches=1, recompute=recompute))
    assert found.memory[0].activations_bytes == (4 * one if recompute == "none" else 3 * one)
    apart = evaluate(rectified_chain(3), cluster(), plan((0, 1, 3), micro_batches=1, recompute=recompute))
    assert [m.activations_bytes / one for m in apart.memory] == ([2, 3] if recompute == "none" else [1, 2])


@pytest.mark.parametrize(
    ("preset", "kept_bytes"),
    [("ernie-3.0-small", 19_223_552), ("llama3-8b", 77_521_387_520)],
)
def test_borders_of_decoders_and_encoders_keep_nothing_twice(preset, kept_bytes):
    chains = Pricing(described_model(preset, dtype="float32"), cluster(), Job(global_batch=1)).chains
    cost = chains.cost(rows=1, tensor=1, levels=Levels(), sequence=False, device=device(), policy="none")
    assert cost.stage_kept_bytes(0, len(cost.kept_bytes)) == cost.kept_bytes.sum() == kept_bytes


def test_of_unlike_devices_in_a_stage_the_smallest_memory_is_the_limit():
    """The slow type has more memory, so that the fast one fills up first."""
    slow = cluster(per_node=1, kind=device(name="slow", peak_flops={"float32": 1e10}, memory_bytes=8e9)).groups[0]
    fast = cluster(per_node=1, kind=device(name="fast", memory_bytes=1e7)).groups[0]
    mixed = Cluster(name="mixed", groups=(replace(slow, name="slow"), replace(fast, name="fast")))
    own = replace(plan((0, 6), data=2), ranks=(RankPlace("slow/0", 0), RankPlace("fast/0", 0)))
    found = evaluate(chain(), mixed, own)
    assert found.memory[0].limit_bytes == 0.92e7
    alone = evaluate(chain(), cluster(kind=slow.device), plan((0, 6), data=2))
    assert found.parts.compute_s == pytest.approx(alone.parts.compute_s)


def test_a_slow_node_slows_its_stage():
    graph, healthy = chain(4), cluster(nodes=2, per_node=1)
    ill = cluster(nodes=2, per_node=1, slow=((1, 2.0),))
    own = plan((0, 2, 4), per_node=1, micro_batches=8)
    assert evaluate(graph, ill, own).parts.compute_s == pytest.approx(2 * evaluate(graph, healthy, own).parts.compute_s)


@st.composite
def plans(draw):
    layers = draw(st.integers(1, 6))
    inner = draw(st.sets(st.integers(1, max(1, layers - 1)), max_size=min(3, layers - 1)))
    data, degree = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (4, 4)]))
    sharding = Sharding(stage=draw(st.integers(1, 3)), degree=degree) if degree > 1 else WHOLE
    wide = tuple(draw(st.sets(st.integers(0, layers - 1), max_size=2)))
    own = plan(
        (0, *sorted(inner - {layers}), layers),
        data=data,
        tensor=draw(st.sampled_from([1, 2])),
        rows=draw(st.integers(1, 2)),
        micro_batches=draw(st.integers(1, 6)),
        sharding=sharding,
        recompute=draw(st.sampled_from(["none", "selective", "full"])),
        per_node=4,
        schedule=draw(st.sampled_from(["1f1b", "fthenb"])),
    )
    return chain(layers, hidden=16, tokens=8, wide=wide), own


@settings(max_examples=60)
@given(plans())
def test_parts_sum_to_the_step_and_none_is_negative(case):
    graph, own = case
    found = evaluate(graph, cluster(nodes=8, per_node=4), own)
    assert found.parts.total_s == pytest.approx(found.step_time_s)
    tiny = 1e-9 * found.step_time_s
    names = found.parts.__dataclass_fields__
    assert all(getattr(found.parts, name) >= -tiny for name in names), found.parts
    assert found.interval_s[0] <= found.step_time_s <= found.interval_s[1]


@settings(max_examples=30)
@given(plans())
def test_the_timeline_ends_with_the_step(case):
    graph, own = case
    where = cluster(nodes=8, per_node=4)
    found = predicted_timeline(graph, where, own)
    assert found.end_s == pytest.approx(evaluate(graph, where, own).step_time_s)
    for stage in range(len(own.stages)):
        events = found.of(stage)
        assert all(a.end_s <= b.start_s + 1e-12 for a, b in pairwise(events))


@settings(max_examples=30)
@given(plans(), st.floats(1.0, 50.0))
def test_faster_links_and_memory_are_never_slower(case, factor):
    graph, own = case
    step_s = evaluate(graph, cluster(nodes=8, per_node=4), own).step_time_s
    wide = cluster(nodes=8, per_node=4, intra=1e10 * factor, nic=1e9 * factor)
    swift = cluster(nodes=8, per_node=4, kind=device(memory_bytes_per_s=MEMORY * factor))
    assert evaluate(graph, wide, own).step_time_s <= step_s * (1 + 1e-9)
    assert evaluate(graph, swift, own).step_time_s <= step_s * (1 + 1e-9)


def test_a_plan_with_unlike_replicas_costs_what_its_slowest_does():
    graph = chain(2)
    even = plan((0, 2), data=2, rows=2)
    first, second = even.stages[0].replicas
    stage = replace(even.stages[0], replicas=(replace(first, micro_batch_rows=1), replace(second, micro_batch_rows=3)))
    uneven = replace(even, stages=(stage,))
    assert evaluate(graph, cluster(), uneven).parts.compute_s == pytest.approx(
        evaluate(graph, cluster(), plan((0, 2), data=2, rows=3)).parts.compute_s
    )


def test_a_slow_device_with_fewer_rows_does_not_hold_up_a_quick_one_with_more():
    graph = chain(2)
    slow = cluster(per_node=1, kind=device(name="slow", peak_flops={"float32": 1e11})).groups[0]
    quick = cluster(per_node=1, kind=device(name="quick", peak_flops={"float32": 1e12})).groups[0]
    mixed = Cluster(name="mixed", groups=(replace(slow, name="slow"), replace(quick, name="quick")))
    even = replace(plan((0, 2), data=2, rows=2), ranks=(RankPlace("slow/0", 0), RankPlace("quick/0", 0)))
    replicas = [replace(r, micro_batch_rows=n) for r, n in zip(even.stages[0].replicas, (1, 3), strict=True)]
    uneven = replace(even, stages=(replace(even.stages[0], replicas=tuple(replicas)),))
    alone = [
        evaluate(graph, cluster(kind=group.device), plan((0, 2), data=2, rows=n)).parts.compute_s
        for group, n in ((slow, 1), (quick, 3))
    ]
    assert evaluate(graph, mixed, uneven).parts.compute_s == pytest.approx(max(alone))


def test_stages_that_do_not_hold_every_layer_once_are_refused():
    with pytest.raises(BadInput, match=r"\[0, 3\).*chain has layers \[0, 6\)"):
        evaluate(chain(), cluster(), plan((0, 3)))


def test_a_context_that_ranks_cannot_share_is_refused():
    own = plan()
    with pytest.raises(BadInput, match="context"):
        evaluate(chain(), cluster(), replace(own, stages=(replace(own.stages[0], context=2),)))


def test_a_rank_outside_the_cluster_is_refused():
    with pytest.raises(BadInput, match="n"):
        evaluate(chain(), cluster(nodes=1, per_node=1), plan((0, 3, 6), per_node=1))


def test_provenance_follows_the_sources_of_a_device_type():
    real = device(
        emulated=False,
        sources=(
            ("peak_flops", "NVIDIA data sheet"),
            ("kernel_s", "measured on one"),
            ("memory_efficiency", "assumed, as A100"),
        ),
    )
    wanted = {
        "peak_flops": "data sheet",
        "kernel_s": "measured",
        "memory_efficiency": "assumed",
        "memory_bytes": "assumed",
    }
    assert {field: origin(real, field) for field in wanted} == wanted
    assert dict(provenance([device()]))["d peak_flops"] == "emulated"
    narrow, wide = interval(1.0, [device()]), interval(1.0, [real])
    assert wide[0] <= narrow[0] <= 1.0 <= narrow[1] <= wide[1]


def test_rows_are_priced_as_the_graph_of_those_rows():
    direct = layer_cost(feed_forward(rows=3), device())
    chains = Pricing(chain(1), cluster(), Job(global_batch=3)).chains
    assert layer_cost(chains.block(0, 3, 1, False), device()) == direct
    assert np.isclose(direct.output_bytes, 3 * 64 * 64 * 4)
