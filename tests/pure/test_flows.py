"""Bytes on the wires of a step: they add up from ranks to nodes, and take as long as the formulas say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cost_model.communication import Fabric, collective
from nebula.cost_model.evaluate import evaluate, plan_pricing
from nebula.cost_model.fleet import Pricing
from nebula.cost_model.flows import AXES, Flow, edges, plan_flows
from nebula.cost_model.traffic_matrix import traffic_matrix
from nebula.models.describe import decoder_graph
from nebula.plan.values import Plan, Replica, Sharding, Stage
from tests.pure.cost_samples import chain, cluster, device, plan
from tests.pure.decoder_samples import MIXED

MODEL = chain(8)
EXPERTS = decoder_graph("mixed", replace(MIXED, layers=3), dtype="float32")

plans = st.builds(
    plan,
    st.sampled_from([(0, 8), (0, 3, 8), (0, 2, 5, 8)]),
    data=st.sampled_from([1, 2, 4]),
    tensor=st.sampled_from([1, 2, 4]),
    rows=st.integers(1, 2),
    micro_batches=st.integers(1, 5),
    recompute=st.sampled_from(["none", "full"]),
    sequence_parallel=st.booleans(),
    per_node=st.just(4),
)


def sharded(chosen: Plan, level: int) -> Plan:
    """The plan with its optimizer states cut over two replicas, where there are as many."""
    degree = 2 if chosen.stages[0].data > 1 and level else 1
    sharding = Sharding(stage=level if degree > 1 else 0, degree=degree)
    return replace(chosen, stages=tuple(replace(stage, sharding=sharding) for stage in chosen.stages))


@given(
    st.sampled_from(
        [
            "all_reduce",
            "all_gather",
            "reduce_scatter",
            "all_to_all",
            "broadcast",
            "ring_exchange",
            "ring_return",
            "send",
        ]
    ),
    st.integers(1, 4),
    st.integers(2, 9),
    st.floats(1, 1e9),
)
def test_what_pairs_exchange_is_what_the_ranks_send(kind: str, groups: int, ranks: int, size: float) -> None:
    ranks = 2 if kind == "send" else ranks
    flow = Flow(axis="tensor", kind=kind, bytes=size, groups=np.arange(groups * ranks).reshape(groups, ranks))
    source, target, sizes = edges(flow)
    assert (source != target).all()
    assert sizes.sum() == pytest.approx(flow.sent_bytes)


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "ring_exchange", "send"])
def test_on_equal_links_the_bytes_take_what_the_formula_says(kind: str) -> None:
    ranks = 2 if kind == "send" else 8
    flow = Flow(axis="tensor", kind=kind, bytes=1e6, groups=np.arange(ranks)[None])
    per_byte_s = collective(kind, Fabric(cluster(1)).levels(range(ranks))).per_byte_s
    source, _, sizes = edges(flow)
    assert np.bincount(source, weights=sizes).max() / 1e10 == pytest.approx(1e6 * per_byte_s)


@settings(max_examples=60, deadline=None)
@given(plans, st.integers(0, 3))
def test_the_matrix_holds_the_bytes_of_every_axis(chosen: Plan, level: int) -> None:
    chosen, on = sharded(chosen, level), cluster(12, 4)
    flows = plan_flows(MODEL, on, chosen)
    found = traffic_matrix(MODEL, on, chosen)
    sent = {axis: sum(flow.sent_bytes for flow in flows if flow.axis == axis) for axis in AXES}
    assert found.sent_bytes.sum(axis=0) == pytest.approx([sent[axis] for axis in AXES])
    assert found.level_bytes().sum(axis=0) == pytest.approx([sent[axis] for axis in AXES])
    assert found.folded([[name] for name in found.nodes]).sum(axis=(0, 1)) == pytest.approx([sent[a] for a in AXES])
    together = found.folded([found.nodes[::2], found.nodes[1::2]])
    assert together.sum(axis=(0, 1)) == pytest.approx([sent[axis] for axis in AXES])
    assert bool(sent["tensor"]) == (chosen.stages[0].tensor > 1)
    assert bool(sent["data"]) == (chosen.stages[0].data > 1)
    assert bool(sent["pipeline"]) == (len(chosen.stages) > 1)


@settings(max_examples=40, deadline=None)
@given(plans, st.integers(0, 3))
def test_no_axis_is_faster_than_its_bytes_on_the_busiest_node(chosen: Plan, level: int) -> None:
    chosen, on = sharded(chosen, level), cluster(12, 4)
    parts = evaluate(MODEL, on, chosen).parts
    costs = Pricing(MODEL, on, chosen.job).stage_costs(chosen)
    longest = dict(zip(AXES, traffic_matrix(MODEL, on, chosen).busiest_seconds().max(axis=0, initial=0.0), strict=True))
    tensor_s = max(chosen.micro_batches * cost.tensor_s for cost in costs)
    data_s = max(chosen.micro_batches * cost.sharded_s + cost.sync_s for cost in costs)
    assert longest["tensor"] <= tensor_s * (1 + 1e-9)
    assert longest["data"] <= data_s * (1 + 1e-9)
    assert parts.tensor_communication_s <= tensor_s * (1 + 1e-9)


def stage(layers: tuple[int, int], groups: list[list[int]], rows: list[int]) -> Stage:
    replicas = (
        Replica(ranks=tuple(ranks), tensor_shares=(1,) * len(ranks), micro_batch_rows=own)
        for ranks, own in zip(groups, rows, strict=True)
    )
    return Stage(layers=layers, replicas=tuple(replicas))


@pytest.mark.parametrize(
    "stages",
    [
        (stage((0, 3), [[0, 1], [2, 3]], [1, 3]), stage((3, 8), [[4, 5, 6, 7]], [4])),
        (stage((0, 3), [[0, 1], [2]], [1, 3]), stage((3, 8), [[4, 5], [6, 7]], [2, 2])),
        (stage((0, 8), [[0, 1], [2]], [1, 3]),),
    ],
    ids=["other degrees behind", "replicas of one and two ranks", "one stage"],
)
def test_replicas_that_are_unlike_send_to_others_only(stages: tuple[Stage, ...]) -> None:
    on = cluster(2, 4)
    chosen = replace(plan((0, 8), data=8, per_node=4), stages=stages, micro_batches=2)
    flows = plan_flows(MODEL, on, chosen)
    assert all((source != target).all() for source, target, _ in map(edges, flows))
    sent = [sum(flow.sent_bytes for flow in flows if flow.axis == axis) for axis in AXES]
    assert traffic_matrix(MODEL, on, chosen).sent_bytes.sum(axis=0) == pytest.approx(sent)


def test_two_replicas_on_two_nodes_by_hand() -> None:
    chosen = plan((0, 8), data=8, tensor=1)
    found = traffic_matrix(MODEL, cluster(2, 4), replace(chosen, ranks=plan((0, 8), data=8, per_node=4).ranks))
    size = sum(cost.bytes for index in MODEL.layers for cost in MODEL.blocks[index].parameters)
    assert found.nodes == ("n/0", "n/1")
    assert found.levels == ("node", "leaf")
    cells = found.folded([["n/0"], ["n/1"]])[:, :, AXES.index("data")]
    # a ring of eight: three hops inside each node, one to the other
    hop = 2 * 7 / 8 * size
    assert cells == pytest.approx(np.array([[3, 1], [1, 3]]) * hop)


@pytest.mark.parametrize(("expert", "context", "sharding"), [(4, 1, 0), (2, 2, 1), (1, 2, 3), (4, 2, 2)])
def test_plans_beyond_fleet_send_what_is_priced(expert: int, context: int, sharding: int) -> None:
    on = cluster(4, 4, kind=device(memory_bytes=16e9))
    base = plan((0, 2, 5), data=4, tensor=context, micro_batches=2, per_node=4)
    cut = Sharding(stage=sharding, degree=4 if sharding else 1)
    stages = tuple(replace(stage, context=context, expert=expert, sharding=cut) for stage in base.stages)
    chosen = replace(base, stages=stages)
    sent = {axis: sum(f.sent_bytes for f in plan_flows(EXPERTS, on, chosen) if f.axis == axis) for axis in AXES}
    assert (bool(sent["expert"]), bool(sent["context"])) == (expert > 1, context > 1)
    found = traffic_matrix(EXPERTS, on, chosen)
    assert found.sent_bytes.sum(axis=0) == pytest.approx([sent[axis] for axis in AXES])
    longest = dict(zip(AXES, found.busiest_seconds().max(axis=0), strict=True))
    pricing = plan_pricing(EXPERTS, on, chosen)
    stage_s = pricing.step(chosen).stages
    assert 0 <= longest["expert"] <= max(2 * s.expert_s for s in stage_s) * (1 + 1e-9)
    assert 0 < longest["data"] <= max(2 * s.sharded_s + s.reduce_s + s.gather_s for s in stage_s) * (1 + 1e-9)


def test_a_plan_of_one_rank_sends_nothing() -> None:
    found = traffic_matrix(MODEL, cluster(1), plan((0, 8)))
    assert (found.nodes, found.total_bytes) == ((), 0.0)
    assert found.busiest_seconds().shape == (0, len(AXES))
