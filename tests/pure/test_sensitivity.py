"""What-ifs of a plan: slower is never faster, what is planned again is the best, every row has its sentence."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import evaluate
from nebula.graph.imbalance import imbalanced
from nebula.models.describe import decoder_graph
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.search import search
from nebula.planner.sensitivity import NEAR_IT, PLANNED_AGAIN, SAME_PLAN, SHARE, SLOWER, what_ifs
from nebula.planner.variations import rates, with_memory, with_slow_node
from tests.pure.cost_samples import chain, cluster, device, plan
from tests.pure.decoder_samples import MIXED

GRAPH, WHERE, JOB = chain(4, hidden=128), cluster(nodes=2, per_node=2, nic=1e9), Job(global_batch=8)
SPREAD = plan((0, 2, 4), data=2, micro_batches=4, per_node=2)


def by_name(rows):
    return {row.name: row for row in rows}


@pytest.fixture(scope="module")
def rows():
    return by_name(what_ifs(GRAPH, WHERE, search(GRAPH, WHERE, JOB).plan))


def test_every_change_is_there_with_a_sentence(rows):
    rate_names = ["links inside nodes (bus)", "network cards (wire)", "tier leaf", "tier spine"]
    rate_names += ["memory bandwidth", "peak FLOP/s"]
    expected = [f"{name} {sign}10 %" for name in rate_names for sign in "−+"]
    assert list(rows)[: len(expected)] == expected
    assert list(rows)[len(expected) :] == ["memory +10 GB", "node n/0 lost", "node n/1 slow × 1.5"]
    assert all(row.sentence.endswith(".") and row.sentence[0].isupper() for row in rows.values())
    assert [row.how for row in rows.values()].count(PLANNED_AGAIN) == 2


def test_less_is_never_faster_and_more_never_slower(rows):
    for name, row in rows.items():
        if name.endswith("−10 %"):
            assert row.change >= 0
        if name.endswith("+10 %"):
            assert row.change <= 0
    assert rows["peak FLOP/s −10 %"].change > 0.005
    assert rows["memory +10 GB"].change <= 1e-12
    assert rows["node n/1 slow × 1.5"].change > 0


def test_a_change_is_of_the_step_time_of_the_plan_as_it_is():
    before_s = evaluate(GRAPH, WHERE, SPREAD).step_time_s
    for row in what_ifs(GRAPH, WHERE, SPREAD, replan=False):
        assert row.how == SAME_PLAN
        assert row.split == SPREAD.split
        assert row.step_time_s == pytest.approx(before_s * (1 + row.change))


def test_each_rate_is_the_one_that_it_names():
    for rate in rates(WHERE, frozenset({"n"}), several_nodes=True):
        slower = rate.times(1 - SHARE)
        (before,), (after,) = WHERE.groups, slower.groups
        changed = {
            "links inside nodes (bus)": after.intra.bytes_per_s / before.intra.bytes_per_s,
            "network cards (wire)": after.nic.bytes_per_s / before.nic.bytes_per_s,
            "tier leaf": WHERE.tiers[0].oversubscription / slower.tiers[0].oversubscription,
            "tier spine": WHERE.tiers[1].oversubscription / slower.tiers[1].oversubscription,
            "memory bandwidth": after.device.memory_bytes_per_s / before.device.memory_bytes_per_s,
            "peak FLOP/s": after.device.peak("float32") / before.device.peak("float32"),
        }
        assert changed.pop(rate.name) == pytest.approx(1 - SHARE)
        assert set(changed.values()) == {1.0}
        assert after.device.exponentials == before.device.exponentials


def test_a_switch_that_is_as_wide_as_the_cards_gains_nothing_alone():
    tier = next(r for r in rates(WHERE, frozenset({"n"}), several_nodes=True) if r.name == "tier leaf")
    assert tier.times(1.1) == WHERE
    assert "does not wait" in by_name(what_ifs(GRAPH, WHERE, SPREAD, replan=False))["tier leaf +10 %"].sentence


def test_a_plan_on_one_node_has_no_network_rows():
    alone = by_name(what_ifs(GRAPH, WHERE, plan((0, 4), data=2, per_node=2), replan=False))
    assert not [name for name in alone if name.startswith(("network", "tier"))]


def test_more_memory_plans_again_for_it():
    tight = cluster(nodes=2, per_node=2, kind=device(memory_bytes=6e6))
    graph = chain(4, hidden=128, tokens=128)
    chosen = search(graph, tight, JOB).plan
    row = by_name(what_ifs(graph, tight, chosen))["memory +10 GB"]
    roomy = search(graph, with_memory(tight, 10e9), JOB).plan
    assert row.step_time_s == roomy.prediction.step_time_s < chosen.prediction.step_time_s
    assert row.split == roomy.split
    assert roomy.split in row.sentence


def test_a_lost_node_plans_on_the_rest(rows):
    row = rows["node n/0 lost"]
    rest = search(GRAPH, WHERE, JOB, Objective(exclude=("n/0",))).plan
    assert row.step_time_s == rest.prediction.step_time_s
    assert f"on {rest.world_size} devices" in row.sentence


def test_a_lost_node_without_which_nothing_fits_is_a_row_that_says_so():
    lone = cluster(nodes=1, per_node=2)
    row = by_name(what_ifs(GRAPH, lone, search(GRAPH, lone, JOB).plan))["node n/0 lost"]
    assert (row.step_time_s, row.change, row.split) == (0.0, 0.0, "")
    assert "there is no plan" in row.sentence


def test_without_searches_plans_near_it_stand_for_more_memory_and_a_lost_node(rows):
    found = by_name(what_ifs(GRAPH, WHERE, search(GRAPH, WHERE, JOB).plan, replan=False))
    assert list(found) == list(rows)
    for name in ("memory +10 GB", "node n/0 lost"):
        assert found[name].how == NEAR_IT
        assert found[name].step_time_s >= rows[name].step_time_s * (1 - 1e-12)
        assert found[name].split in found[name].sentence or found[name].change == 0
    assert found["memory +10 GB"].change <= 1e-12
    assert "are moved in" in found["node n/0 lost"].sentence
    lone = cluster(nodes=1, per_node=2)
    nothing = by_name(what_ifs(GRAPH, lone, search(GRAPH, lone, JOB).plan, replan=False))["node n/0 lost"]
    assert (nothing.step_time_s, nothing.split) == (0.0, "")
    assert "there is no plan" in nothing.sentence


def test_an_aim_other_than_the_step_time_is_no_reason_to_find_no_plan():
    aim = Objective(minimise="cost", budget=1e9)
    found = by_name(what_ifs(GRAPH, WHERE, search(GRAPH, WHERE, JOB).plan, aim))
    assert found["node n/0 lost"].split


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["n/0", "n/1"]), st.floats(1.0, 4.0), st.floats(1.0, 2.0))
def test_a_slow_node_slows_a_plan_more_the_slower_it_is(node, factor, more):
    def seconds(by: float) -> float:
        return evaluate(GRAPH, with_slow_node(WHERE, node, by), SPREAD).step_time_s

    assert evaluate(GRAPH, WHERE, SPREAD).step_time_s <= seconds(factor) * (1 + 1e-12)
    assert seconds(factor) <= seconds(factor * more) * (1 + 1e-12)


def test_the_slow_node_stands_where_it_hurts_most():
    uneven = plan((0, 1, 4), data=2, micro_batches=4, per_node=2)
    name = next(row.name for row in what_ifs(GRAPH, WHERE, uneven, replan=False) if "slow" in row.name)
    worst = max(("n/0", "n/1"), key=lambda n: evaluate(GRAPH, with_slow_node(WHERE, n, SLOWER), uneven).step_time_s)
    assert name == f"node {worst} slow × 1.5"


def dealt(expert: int):
    """A mixture of experts, a cluster and a plan whose stages deal experts to so many ranks."""
    graph = decoder_graph("m", MIXED, "float32")
    whole = plan((0, len(graph.layers)), data=4, rows=2, micro_batches=2, per_node=2)
    return graph, replace(whole, stages=tuple(replace(stage, expert=expert) for stage in whole.stages))


def test_uneven_experts_are_asked_about_where_experts_are_dealt():
    where: Cluster = cluster(nodes=2, per_node=2)
    graph, spread = dealt(4)
    row = by_name(what_ifs(graph, where, spread, replan=False))["expert imbalance 1.5"]
    assert row.step_time_s == evaluate(imbalanced(graph, 1.5), where, spread).step_time_s
    assert row.change > 0
    graph, whole = dealt(1)
    assert "expert imbalance 1.5" not in by_name(what_ifs(graph, where, whole, replan=False))


def test_imbalance_is_of_grouped_products_alone_and_multiplies():
    graph, _ = dealt(4)
    again = imbalanced(imbalanced(graph, 1.5), 2.0)
    operators = [op for block in again.blocks for op in block.operators]
    assert {op.attribute("imbalance") for op in operators if op.kind == "grouped_matmul"} == {3.0}
    assert not [op for op in operators if op.kind != "grouped_matmul" and op.attribute("imbalance")]
    assert again.forward_flops == graph.forward_flops
