"""A step: equal to its passes on one device, and what must never make it slower or faster."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nebula.cluster.values import Cluster, NodeGroup
from nebula.cost_model.compute import moving_seconds
from nebula.cost_model.execution import Execution, Hidden, Recompute
from nebula.cost_model.passes import layer_passes
from nebula.cost_model.step import StepPricing, StepTimes
from nebula.cost_model.step_parameters import DEFAULT, StepParameters
from nebula.graph.values import DistributedGraph
from nebula.models.describe import decoder_graph
from nebula.plan.values import Job, Plan, RankPlace, Replica, Sharding, Stage
from tests.pure.cost_samples import MADE_FROM, chain, cluster, device
from tests.pure.decoder_samples import GROUPED, MIXED

BARE = Execution(host_kernel_s=0.0)
QUIET = replace(DEFAULT, step_host_s=0.0, jitter=0.0, start_s=0.0)
CHAIN = chain(8)
HIDDEN = Hidden(tensor=True, data=True, pipeline=True, expert=True)


@cache
def decoder(mixed: bool = False) -> DistributedGraph:
    """Four small layers between an embedding and a head."""
    return decoder_graph("small", replace(MIXED if mixed else GROUPED, layers=4), "bfloat16")


def split(
    graph: DistributedGraph = CHAIN,
    *,
    data=1,
    tensor=1,
    context=1,
    expert=1,
    pipeline=1,
    chunks=1,
    micro_batches=4,
    rows=(1,),
    sharding: tuple[int, int] = (0, 1),
    schedule="",
    per_node=8,
    sequence=False,
) -> Plan:
    """A plan as runs lay it out: tensor innermost, then context, data, pipeline; `rows` of the replicas in turn."""
    width, count = tensor * context, pipeline * chunks
    layers = len(graph.layers)
    cuts = [layers * at // count for at in range(count + 1)]

    def replicas(place: int) -> tuple[Replica, ...]:
        firsts = [(place * data + r) * width for r in range(data)]
        return tuple(
            Replica(
                ranks=tuple(range(first, first + width)),
                tensor_shares=(1,) * width,
                micro_batch_rows=rows[r % len(rows)],
            )
            for r, first in enumerate(firsts)
        )

    return Plan(
        stages=tuple(
            Stage(
                layers=(cuts[s], cuts[s + 1]),
                replicas=replicas(s % pipeline),
                context=context,
                expert=expert,
                sharding=Sharding(stage=sharding[0], degree=sharding[1]),
            )
            for s in range(count)
        ),
        micro_batches=micro_batches,
        schedule=schedule or ("interleaved" if chunks > 1 else "1f1b"),
        engine="executor",
        ranks=tuple(RankPlace(f"n/{r // per_node}", r % per_node) for r in range(width * data * pipeline)),
        job=Job(global_batch=data * micro_batches),
        made_from=MADE_FROM,
        sequence_parallel=sequence,
    )


def times(
    plan: Plan,
    execution: Execution = BARE,
    where: Cluster | None = None,
    graph: DistributedGraph = CHAIN,
    parameters: StepParameters = DEFAULT,
    **more,
) -> StepTimes:
    return StepPricing(graph, where or cluster(4), execution, parameters).step(plan, **more)


@pytest.mark.parametrize("micro_batches", [1, 5])
@pytest.mark.parametrize("what", ["none", "layer"])
@pytest.mark.parametrize("level", [0, 3])
def test_on_one_device_a_step_is_its_passes_its_update_and_the_host(micro_batches: int, what: str, level: int) -> None:
    execution = replace(BARE, recompute=Recompute(what=what))
    graph, kind = decoder(), device()
    passes = [layer_passes(block, kind, execution) for block in graph.blocks]
    serial = sum(
        p.forward.kernels_s + p.backward.kernels_s + p.again.kernels_s for p in (passes[i] for i in graph.layers)
    )
    adds = moving_seconds((micro_batches - 1) * 10.0 * graph.parameter_count, 0.0, kind)
    update = moving_seconds(42.0 * graph.parameter_count, 0.0, kind)
    found = times(split(graph, micro_batches=micro_batches, sharding=(level, 1)), execution, graph=graph)
    assert found.step_s == pytest.approx(micro_batches * serial + adds + update + DEFAULT.step_host_s)
    assert found.passes_s == pytest.approx(micro_batches * serial + adds)


@settings(max_examples=12, deadline=None)
@given(
    degrees=st.fixed_dictionaries(
        {
            "data": st.sampled_from([1, 2, 4]),
            "tensor": st.sampled_from([1, 2]),
            "pipeline": st.sampled_from([1, 2]),
            "chunks": st.sampled_from([1, 2]),
        }
    ),
    level=st.integers(0, 3),
    hidden=st.sampled_from([Hidden(), HIDDEN]),
    better=st.sampled_from(["intra", "nic", "memory", "peak", "kernel"]),
    factor=st.floats(1, 20),
)
@example(
    degrees={"data": 2, "tensor": 2, "pipeline": 1, "chunks": 1}, level=3, hidden=HIDDEN, better="peak", factor=2.0
)
def test_more_bandwidth_is_never_slower(degrees, level, hidden, better, factor) -> None:
    plan = split(sharding=(level, degrees["data"] if level else 1), per_node=4, **degrees)
    kind = device()
    faster = {
        "memory": {"memory_bytes_per_s": kind.memory_bytes_per_s * factor},
        "peak": {"peak_flops": {"float32": 1e12 * factor}},
        "kernel": {"kernel_s": kind.kernel_s / factor},
    }.get(better, {})
    links = {"intra": 1e10, "nic": 1e9}
    if better in links:
        links[better] *= factor
    execution = replace(BARE, hidden=hidden)
    before = times(plan, execution, cluster(4, 4))
    after = times(plan, execution, cluster(4, 4, kind=device(**faster), **links))
    assert after.step_s <= before.step_s * (1 + 1e-9)


@settings(max_examples=8, deadline=None)
@given(
    name=st.sampled_from(["contention", "jitter", "step_host_s", "start_s", "pipelined_share"]),
    values=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    level=st.integers(0, 3),
)
def test_contention_jitter_and_shares_move_a_step_one_way(name: str, values, level: int) -> None:
    plan = split(data=2, tensor=2, pipeline=2, sharding=(level, 2 if level else 1), per_node=2)
    low, high = (
        times(plan, replace(BARE, hidden=HIDDEN), cluster(4, 2), parameters=replace(DEFAULT, **{name: v})).step_s
        for v in sorted(values)
    )
    if name == "pipelined_share":
        low, high = high, low
    assert low <= high * (1 + 1e-12)


@pytest.mark.parametrize("axis", ["tensor", "data", "pipeline", "expert", "gradients"])
@pytest.mark.parametrize("nic", [1e6, 1e9])
@pytest.mark.parametrize("level", [0, 1, 3])
def test_hiding_a_collective_never_makes_a_step_slower(axis: str, nic: float, level: int) -> None:
    graph = decoder(mixed=True)
    plan = split(graph, data=2, tensor=2, pipeline=2, expert=2, sharding=(level, 2 if level else 1), per_node=2)
    where = cluster(4, 2, nic=nic, intra=10 * nic)
    shown, hidden = (
        times(plan, replace(BARE, hidden=replace(Hidden(), **{axis: flag})), where, graph).step_s
        for flag in (False, True)
    )
    assert hidden <= shown * (1 + 1e-12)


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 1))
def test_what_runs_beside_kernels_adds_no_more_than_it_takes_and_no_less_than_what_is_longer(
    work_s: float, wire_s: float, contention: float
) -> None:
    pricing = StepPricing(CHAIN, cluster(), BARE, replace(DEFAULT, contention=contention))
    added = pricing.hiding.beside(work_s, wire_s)
    assert max(0.0, wire_s - work_s) <= added <= wire_s * (1 + 1e-12)
    # more kernels to hide behind never end before fewer
    assert work_s + added <= work_s + 1 + pricing.hiding.beside(work_s + 1, wire_s) + 1e-12


@settings(max_examples=8, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.sampled_from([{"pipeline": 2}, {"pipeline": 2, "chunks": 2}, {"data": 2}, {"pipeline": 4}]),
    st.sampled_from([Hidden(), HIDDEN]),
)
def test_more_micro_batches_of_the_same_size_are_never_faster(few: int, more: int, degrees, hidden: Hidden) -> None:
    if degrees.get("chunks", 1) > 1:
        few, more = 2 * few, 2 * more  # interleaving takes them in groups
    execution = replace(BARE, hidden=hidden)
    short, long = (times(split(micro_batches=m, **degrees), execution).step_s for m in (few, few + more))
    assert short < long


@pytest.mark.parametrize("hidden", [Hidden(), HIDDEN])
@pytest.mark.parametrize("level", [0, 3])
def test_recomputation_is_never_faster(hidden: Hidden, level: int) -> None:
    graph = decoder()
    plan = split(graph, data=2, tensor=2, sharding=(level, 2 if level else 1), per_node=2)

    def seconds(what: str, every: int = 1) -> float:
        execution = replace(BARE, hidden=hidden, recompute=Recompute(what=what, every=every))
        return times(plan, execution, cluster(4, 2), graph).step_s

    none, core, products, layer = (seconds(what) for what in ("none", "core", "products", "layer"))
    assert none < core < products < layer
    assert none < seconds("layer", 4) < seconds("layer", 2) < layer


@pytest.mark.parametrize("chunks", [1, 2, 4])
@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("micro_batches", [4, 8])
def test_interleaving_equal_stages_divides_the_bubble(chunks: int, devices: int, micro_batches: int) -> None:
    graph = chain(16)
    plan = split(graph, pipeline=devices, chunks=chunks, micro_batches=micro_batches)
    found = times(plan, BARE, graph=graph, parameters=QUIET, borders=0.0)
    pass_s = sum(s.forward_s + s.backward_s for s in found.stages[::devices])
    # Narayanan et al., SC 2021, section 2.2: the time of p - 1 micro-batches, by the number of chunks
    assert found.passes_s == pytest.approx(pass_s * (micro_batches + (devices - 1) / chunks))


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_messages_that_travel_beside_kernels_delay_their_senders(chunks: int) -> None:
    graph = chain(16)
    plan = split(graph, pipeline=2, chunks=chunks, micro_batches=32)

    def passes_s(hidden: Hidden, contention: float) -> float:
        parameters = replace(QUIET, contention=contention)
        found = times(plan, replace(BARE, hidden=hidden), cluster(4, 2, intra=1e12), graph, parameters)
        assert 0 < found.stages[0].send_s < found.stages[0].forward_s
        return found.passes_s

    free, half, whole = (passes_s(Hidden(pipeline=True), contention) for contention in (0.0, 0.5, 1.0))
    assert free < half < whole
    # what delays kernels by all that it takes is not hidden
    assert whole == pytest.approx(passes_s(Hidden(), 0.0))


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 3), st.floats(1, 4), st.floats(0, 4), st.sampled_from([1, 2]), st.sampled_from([Hidden(), HIDDEN])
)
def test_a_slower_node_slows_a_plan(node: int, factor: float, more: float, tensor: int, hidden: Hidden) -> None:
    plan = split(pipeline=2, data=2, tensor=tensor, per_node=tensor)
    fine, slow, slower = (
        times(plan, replace(BARE, hidden=hidden), cluster(4, tensor, slow=((node, f),) if f > 1 else ())).step_s
        for f in (1.0, factor, factor + more)
    )
    assert fine <= slow <= slower
    if factor > 1.01:
        assert fine < slow


def test_a_node_that_nobody_uses_slows_nobody() -> None:
    plan = split(data=2)
    assert times(plan, where=cluster(2, slow=((1, 3.0),))) == times(plan, where=cluster(2))


def mixed(fast: float, slow: float) -> Cluster:
    """Two groups of one node each, `n` with fast devices and `o` with slow ones."""
    groups = cluster(1, 4).groups
    kinds = [replace(device(), name=name, peak_flops={"float32": rate}) for name, rate in (("f", fast), ("s", slow))]
    pair: list[NodeGroup] = [
        replace(groups[0], name=name, device=kind) for name, kind in zip(("n", "o"), kinds, strict=True)
    ]
    return replace(cluster(), groups=tuple(pair))


def on_both(plan: Plan) -> Plan:
    half = len(plan.ranks) // 2
    return replace(plan, ranks=tuple(RankPlace("n/0" if r < half else "o/0", r % half) for r in range(2 * half)))


def test_a_stage_on_unlike_devices_takes_as_long_as_on_the_slower() -> None:
    plan = on_both(split(data=2))
    both, fast, slow = (
        times(plan, where=mixed(*rates)).stages[0] for rates in ((1e12, 1e11), (1e12,) * 2, (1e11,) * 2)
    )
    assert both.forward_s == slow.forward_s > fast.forward_s


def test_fewer_rows_on_the_slower_device_balance_a_stage() -> None:
    even, fewer = (
        times(on_both(split(data=2, rows=rows)), where=mixed(1e12, 1e11)).step_s for rows in ((3, 3), (5, 1))
    )
    assert fewer < even
    swapped = times(on_both(split(data=2, rows=(1, 5))), where=mixed(1e12, 1e11)).step_s
    assert swapped > even


@pytest.mark.parametrize("what", ["context", "tensor", "expert"])
def test_degrees_divide_work(what: str) -> None:
    graph = decoder(mixed=what == "expert")
    free = cluster(1, kind=device(kernel_s=0.0, memory_bytes_per_s=1e18), intra=1e18)
    execution = replace(BARE, attention=2)
    data = 2 if what == "expert" else 1
    one, two = (
        times(split(graph, data=data, **{what: n}), execution, free, graph, QUIET).stages[0].compute_s for n in (1, 2)
    )
    # experts of two ranks have the tokens of both: each does as much; the sequence and tensors are cut
    divided = {"context": 2.0, "tensor": 2.0, "expert": 1.0}[what]
    assert one[0] / two[0] == pytest.approx(divided, rel=0.12)


def test_dealing_experts_cuts_their_weights_and_sends_tokens() -> None:
    graph = decoder(mixed=True)
    alone, dealt = (times(split(graph, data=2, expert=n), graph=graph).stages[0] for n in (1, 2))
    assert alone.expert_s == 0 < dealt.expert_s
    assert dealt.update_s < alone.update_s
    assert dealt.reduce_s < alone.reduce_s


def test_a_shared_sequence_passes_keys_and_values_behind_attention() -> None:
    graph = decoder()
    execution = replace(BARE, attention=2)
    near, far = (
        times(split(graph, context=2, per_node=1), execution, cluster(2, 1, nic=rate), graph) for rate in (1e18, 1e6)
    )
    assert near.stages[0].context_s < far.stages[0].context_s
    assert far.step_s > near.step_s


@pytest.mark.parametrize("sequence", [False, True])
def test_a_border_is_cut_by_the_tensor_group_and_gathered_behind_it(sequence: bool) -> None:
    graph = decoder()
    found = times(split(graph, tensor=2, pipeline=2, per_node=2, sequence=sequence), graph=graph, where=cluster(2, 2))
    whole = GROUPED.seq_len * GROUPED.hidden * 2
    send = whole / 2 / 1e9 + (2e-5 + 1e-6) + DEFAULT.start_s
    gather = 0.0 if sequence else whole / 2 / 1e10 + 1e-5 + DEFAULT.start_s
    assert found.stages[0].send_s == pytest.approx(send + gather)
    assert found.stages[1].send_s == 0.0


@pytest.mark.parametrize("tensor", [1, 2])
def test_ends_of_a_pipeline_sum_the_gradients_of_weights_that_they_share(tensor: int) -> None:
    graph = decoder()
    tied = replace(graph, tied_elements=1_000_000)
    plan = split(graph, tensor=tensor, pipeline=3, per_node=tensor, micro_batches=6)
    where = cluster(3, tensor)
    apart, shared = (times(plan, BARE, where, g, QUIET) for g in (graph, tied))
    size = 1_000_000 / tensor * 4
    # two ranks send and receive all of it
    assert shared.step_s - apart.step_s == pytest.approx(2 * (size / 2 / 1e9 + 2e-5 + 1e-6), rel=1e-6)
    whole = split(graph, tensor=tensor, micro_batches=6)
    assert times(whole, graph=tied).step_s == times(whole, graph=graph).step_s


def test_replicas_of_the_last_stage_reduce_behind_the_shared_weights() -> None:
    graph = replace(decoder(), tied_elements=4)
    plan = split(graph, data=2, pipeline=2, per_node=2)
    pricing = StepPricing(graph, cluster(2, 2), BARE, QUIET)
    first_s, last_s = pricing.tied_ends(plan, np.array([3.0, 1.0]), pricing.devices(plan))
    assert first_s == last_s
    assert last_s == pytest.approx(3.0, rel=1e-3)


def test_collectives_run_while_kernels_wait_for_their_host() -> None:
    plan = split(decoder(mixed=True), data=2, tensor=2, expert=2, per_node=4)
    quick, late = (
        times(plan, replace(BARE, host_kernel_s=host_s), cluster(1, 4), decoder(mixed=True)).stages[0]
        for host_s in (0.0, 1.0)
    )
    assert quick.tensor_s > late.tensor_s == 0.0
    # a host waits for the sizes of what experts get
    assert quick.expert_s == late.expert_s > 0.0
