"""Degrees of the explored space that a user fixes: what comes of them, and what is refused with which equation."""

import pytest

from nebula.cluster.schema import load_cluster
from nebula.errors import BadInput
from nebula.models.describe import graph
from nebula.plan.degrees import degrees_of, parse_degrees
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.explore.extent import executor_extent
from nebula.planner.explore.search import explore
from nebula.planner.search import search

CLUSTER = load_cluster(
    {
        "name": "eight",
        "nodes": [
            {
                "name": "node",
                "count": 2,
                "device": "A100-80GB-SXM",
                "devices_per_node": 4,
                "intra": {"kind": "nvswitch", "bandwidth": "300GB/s"},
                "nic": {"count": 4, "bandwidth": "200Gb/s"},
            }
        ],
    }
)
JOB = Job(global_batch=16, precision="bf16")


def explored(fixed, model="ernie-4.5-small", **options):
    return explore(graph(model, dtype="bfloat16"), CLUSTER, JOB, Objective(fixed=parse_degrees(fixed)), **options)


@pytest.mark.parametrize(
    "fixed",
    [
        "expert=4",
        "context=2,exchange=ulysses",
        "tensor=2,sequence=0",
        "tensor=2,sequence=1",
        "schedule=interleaved,virtual_stages=2,pipeline=2",
        "expert=2,context=2,tensor=2,pipeline=2",
    ],
)
def test_a_plan_has_the_degrees_that_are_fixed(fixed):
    plan = explored(fixed).plan
    assert parse_degrees(fixed).items() <= degrees_of(plan).items()


@pytest.mark.parametrize(
    ("fixed", "told"),
    [
        ("expert=3", "experts 8 % expert 3 = 2"),
        ("data=1,tensor=2,context=1,expert=4", "(tensor 2 × context 1 × data 1) % expert 4 = 2"),
        ("context=3", "tokens 128 of a row of ernie-4.5-small % context 3 = 2"),
        ("tensor=1,sequence=1", "sequence 1 needs tensor from 2 on"),
        ("context=1,exchange=ulysses", "exchange ulysses needs context from 2 on"),
        ("schedule=dualpipe", "schedule dualpipe is not explored"),
        ("schedule=zb-h1,pipeline=1", "schedule zb-h1 needs pipeline from 2 on"),
        ("schedule=zb-v,virtual_stages=3", "virtual_stages 3: a device holds 2 under zb-v"),
        ("pipeline=4,virtual_stages=2", "pipeline 4 × virtual_stages 2 = 8 > 6 layers"),
    ],
)
def test_what_contradicts_the_model_is_refused_with_its_equation(fixed, told):
    with pytest.raises(BadInput) as caught:
        explored(fixed)
    assert told in str(caught.value)


def test_a_model_without_experts_deals_none():
    with pytest.raises(BadInput, match=r"expert 2: ernie-3\.0-small has no experts"):
        explored("expert=2", "ernie-3.0-small")


@pytest.mark.parametrize("fixed", ["sharding=2", "offload=optimizer"])
def test_what_no_engine_runs_is_refused_where_only_that_is_looked_at(fixed):
    with pytest.raises(BadInput, match="no engine runs that here"):
        explored(fixed, extent=executor_extent(JOB, ("gpu",)))


@pytest.mark.parametrize("fixed", ["expert=2", "context=2", "sequence=1", "virtual_stages=2", "schedule=zb-h1"])
def test_the_search_of_fleet_refuses_what_fleet_does_not_run(fixed):
    with pytest.raises(BadInput, match="fleet does not run that"):
        search(graph("ernie-4.5-small", dtype="bfloat16"), CLUSTER, JOB, Objective(fixed=parse_degrees(fixed)))


def test_a_model_whose_elements_promise_nothing_keeps_its_sequences_whole():
    extent = executor_extent(JOB, ("gpu",), token_wise=False)
    plan = explored("tensor=2", extent=extent).plan
    assert not plan.sequence_parallel
    with pytest.raises(BadInput, match="context 2: no engine runs that here"):
        explored("context=2", extent=extent)


def test_the_executor_runs_nothing_on_the_plain_cpu():
    assert executor_extent(JOB, ("cpu",)) is None
