"""The answer of `nebula plan` with its ranks placed: never slower, on nodes in any order, and across a WAN."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cluster.places import exclude
from nebula.cluster.schema import load_cluster
from nebula.cluster.values import Cluster, Link, Site, Tier
from nebula.cost_model.evaluate import evaluate
from nebula.errors import Infeasible
from nebula.plan.job import Objective
from nebula.plan.legality import executable, violations
from nebula.plan.values import Job
from nebula.planner.packing import slots_of
from nebula.planner.placed_answer import placed_search
from nebula.planner.replan import replan
from nebula.planner.search import search
from nebula.planner.setting import setting_of
from nebula.planner.why_not import why_not
from tests.pure.cost_samples import chain, cluster, device

GRAPH = chain(6, hidden=128)
GPU = device(kind="gpu", emulated=False, memory_bytes=4e9)
NARROW = (Tier(name="leaf", nodes=2, latency_s=1e-6), Tier(name="spine", oversubscription=8.0))


def step_s(answer):
    return answer.plan.prediction.step_time_s


def straight(nodes=6, per_node=2, **more):
    return replace(cluster(nodes, per_node, kind=GPU, intra=1e11, nic=1e9, **more), tiers=NARROW)


@settings(deadline=None, max_examples=5)
@given(st.permutations(range(8)), st.sets(st.integers(1, 5), max_size=2), st.sampled_from([4, 12]))
def test_an_answer_is_never_slower_for_being_placed(ports, excluded, batch):
    where = straight(ports=tuple(ports[:6]), excluded=frozenset(excluded))
    asked = (GRAPH, where, Job(global_batch=batch), Objective(fixed={"recompute": "none", "micro_batch_rows": 1}))
    before, found = search(*asked), placed_search(*asked)
    assert step_s(found) <= step_s(before)
    assert found.bound_s == min(before.bound_s, step_s(found)) == found.plan.bound_s
    times = [plan.prediction.step_time_s for plan in found.candidates]
    assert times == sorted(times)
    assert times[0] == step_s(found)
    assert violations(found.plan, layers=6, cluster=where) == ()
    assert executable(found.plan, "gpu").engine == found.plan.engine
    assert evaluate(GRAPH, where, found.plan) == found.plan.prediction
    assert found.plan.because.endswith(".")


def test_the_order_in_which_nodes_are_listed_costs_nothing():
    even = placed_search(GRAPH, straight(), Job(global_batch=12))
    mixed = placed_search(GRAPH, straight(ports=(5, 0, 3, 1, 4, 2)), Job(global_batch=12))
    assert step_s(mixed) == pytest.approx(step_s(even), rel=1e-12)


def test_the_reason_says_what_placing_gains():
    where = cluster(nodes=2, per_node=4, kind=GPU, intra=1e11, nic=1e9)
    one = {"data": 4, "pipeline": 2, "tensor": 1, "sharding": 0, "micro_batch_rows": 1}
    asked = Objective(fixed=one)
    before, found = (
        search(GRAPH, where, Job(global_batch=16), asked),
        placed_search(GRAPH, where, Job(global_batch=16), asked),
    )
    assert "Ranks lie data, pipeline from the inside out, on nodes n/0, n/1" in found.plan.because
    longer = float(re.search(r"a step takes ([\d.]+)% longer", found.plan.because)[1])
    assert longer == pytest.approx(100 * (step_s(before) / step_s(found) - 1), abs=0.006)
    assert found.plan.runner_up.step_time_s == found.candidates[1].prediction.step_time_s


def two_sites(east, west):
    """Nodes of two devices at two sites, which a WAN of 1 GB/s joins."""
    one = cluster(nodes=1, per_node=2, kind=GPU, intra=1e10, nic=1e9).groups[0]
    return Cluster(
        name="c",
        groups=(replace(one, name="e", count=east), replace(one, name="w", count=west)),
        tiers=(Tier(name="leaf"),),
        sites=(Site(name="east", groups=("e",)), Site(name="west", groups=("w",))),
        wan=Link(kind="wan", bytes_per_s=1e9, latency_s=1e-3),
    )


@pytest.mark.parametrize(("east", "west"), [(2, 2), (3, 1), (1, 3)])
def test_a_search_over_two_sites_keeps_close_groups_within_one(east, west):
    where = two_sites(east, west)
    graph = chain(8, hidden=256, tokens=256)
    found = placed_search(graph, where, Job(global_batch=64))
    for plan in (found.plan, *found.candidates):
        assert violations(plan, layers=8, cluster=where) == ()
    # a large batch is worth both sites, and the reason says what crosses
    assert {place.node[0] for place in found.plan.ranks} == {"e", "w"}
    assert "the WAN between east and west" in found.plan.because


def test_a_split_whose_groups_no_site_holds_is_refused():
    asked = Objective(fixed={"data": 8, "sharding": 1, "sharding_degree": 8, "tensor": 1, "pipeline": 1})
    with pytest.raises(Infeasible, match="4 at east and 4 at west"):
        placed_search(GRAPH, two_sites(2, 2), Job(global_batch=8), asked)


def test_why_not_names_the_rule_of_the_wan():
    where, job = two_sites(2, 2), Job(global_batch=8)
    own = placed_search(GRAPH, where, job).plan
    degrees = {"data": 8, "sharding": 1, "sharding_degree": 8, "tensor": 1, "pipeline": 1}
    found = why_not(setting_of(GRAPH, where, job, Objective()), own, degrees)
    assert (found.outcome, found.rule) == ("refused", "wan")
    assert "Devices are 4 at east and 4 at west" in found.sentence


def test_what_goes_on_after_a_lost_node_keeps_close_groups_within_a_site():
    where, graph = two_sites(3, 3), chain(8, hidden=256, tokens=256)
    asked = Objective(fixed={"sharding": 1})
    own = placed_search(graph, where, Job(global_batch=48), asked).plan
    for lost in ("e/0", "w/2"):
        changed = exclude(where, [lost])
        for option in replan(graph, own, changed, before=where).options:
            assert violations(option.plan, layers=8, cluster=changed) == ()


def test_the_file_of_the_docs_hangs_nodes_where_it_says():
    text = (Path(__file__).parents[2] / "docs/placement.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    where = load_cluster(yaml.safe_load(block))
    leaves = [slot.path[-1] for slot in slots_of(where, range(where.device_count))]
    assert leaves == [0, 1, 0, 1, 0, 2]
