"""Which engine's plan is the default answer: fleet's unless the executor's wins clearly, and a bound that is true."""

from dataclasses import replace

import pytest
from brute_cases import explored_case, narrowed
from naive_explore import Prices, every_plan, every_way_of

from nebula.cluster.schema import load_cluster
from nebula.cost_model.evaluate import evaluate
from nebula.errors import BadInput, Infeasible
from nebula.models.describe import graph
from nebula.plan.degrees import degrees_of
from nebula.plan.job import Objective
from nebula.plan.legality import executable, executable_on, kind_of
from nebula.plan.values import Job
from nebula.planner.by_engine import Asked, evident, planned
from nebula.planner.engine_choice import WORTH
from nebula.planner.explore.extent import executor_extent
from nebula.planner.explore.search import explore
from nebula.planner.placed_answer import placed_search

JOB = Job(global_batch=64, precision="bf16")
DENSE, EXPERTS = graph("ernie-3.0-small", dtype="bfloat16"), graph("ernie-4.5-small", dtype="bfloat16")


def cluster(devices, nodes=2):
    groups = [
        {
            "name": device.lower(),
            "count": nodes,
            "device": device,
            "devices_per_node": 4,
            "intra": {"kind": "nvswitch", "bandwidth": "300GB/s"},
            "nic": {"count": 4, "bandwidth": "200Gb/s"},
        }
        for device in devices
    ]
    return load_cluster({"name": "some", "nodes": groups})


def asked(model, on, job=JOB, **objective):
    return Asked(graph=model, cluster=on, job=job, objective=Objective(**objective))


def both(one):
    """The best plans of both engines, None where there is none."""
    found = []
    extent = executor_extent(one.job, (kind_of(one.cluster),))
    for find in (placed_search, lambda *args: explore(*args, extent=extent)):
        try:
            found.append(find(one.graph, one.cluster, one.job, one.objective).plan)
        except (BadInput, Infeasible):
            found.append(None)
    return found


def seconds(plan):
    return plan.prediction.step_time_s if plan else float("inf")


@pytest.mark.parametrize("seed", range(40))
def test_the_answer_is_fleets_unless_the_executors_wins_clearly(seed):
    case = explored_case(seed)
    one = Asked(graph=case.graph, cluster=case.cluster, job=case.job, objective=case.objective)
    if executor_extent(case.job, (kind_of(case.cluster),)) is None:
        return
    print(f"seed {seed}: {case}")
    fleet, executor = both(one)
    if fleet is None and executor is None:
        with pytest.raises(Infeasible):
            planned(one)
        return
    answer = planned(one)
    wins = seconds(fleet) > (1.0 + WORTH) * seconds(executor)
    assert "all that the executor runs" in answer.notes[0]
    assert (answer.plan.engine == "executor") == wins
    assert answer.bound_s <= min(seconds(fleet), seconds(executor)) * (1 + 1e-9)
    expected = executor if answer.plan.engine == "executor" else fleet
    # stages may lie on types in another order than the file's, which explore alone does not try
    assert seconds(answer.plan) <= seconds(expected) * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_no_plan_that_an_engine_runs_is_below_the_bound(seed):
    case, ways = narrowed(explored_case(seed), seed, 40, every_way_of)
    one = Asked(graph=case.graph, cluster=case.cluster, job=case.job, objective=case.objective)
    kind = kind_of(case.cluster)
    prices = Prices(case)
    fp32 = replace(case.job, precision="fp32")
    runs = [
        found
        for found in every_plan(prices, ways)
        if executable(replace(found.plan, job=fp32), kind).engine == "executor" and prices.fits(found.plan)
    ]
    try:
        answer = planned(one)
    except (BadInput, Infeasible):
        assert not runs
        return
    assert all(answer.bound_s <= found.step_s * (1 + 1e-9) for found in runs)


def test_for_experts_unlike_devices_and_long_sequences_the_executors_space_is_searched_first():
    assert not evident(asked(DENSE, cluster(["A100-80GB-SXM"])))
    assert evident(asked(EXPERTS, cluster(["A100-80GB-SXM"])))
    assert evident(asked(DENSE, cluster(["A100-80GB-SXM", "V100-32GB-SXM3"])))
    assert not evident(asked(DENSE, cluster(["A100-80GB-SXM", "V100-32GB-SXM3"]), exclude=("v100-32gb-sxm3",)))
    assert evident(asked(DENSE, cluster(["A100-80GB-SXM"]), fixed={"schedule": "zb-h1"}))
    assert evident(asked(graph("llama3-8b", seq_len=8192), cluster(["A100-80GB-SXM"])))


def test_the_reason_says_which_engine_and_what_the_other_takes():
    answer = planned(asked(EXPERTS, cluster(["A100-80GB-SXM"]), fixed={"pipeline": 4}))
    assert answer.plan.because.startswith(f"The engine {answer.plan.engine}: ")
    assert "takes" in answer.plan.because.partition(".")[0]


def test_an_answer_is_executable_and_holds_what_no_engine_runs_only_on_request():
    for model in (DENSE, EXPERTS):
        for devices in (["A100-80GB-SXM"], ["A100-80GB-SXM", "Ascend-910B"]):
            on = cluster(devices)
            assert executable_on(planned(asked(model, on)).plan, on).engine is not None


def test_each_stage_lies_on_devices_of_one_kind():
    on = cluster(["A100-80GB-SXM", "Ascend-910B"], nodes=1)
    plan = planned(asked(graph("llama3-8b", seq_len=2048), on, fixed={"data": 1, "tensor": 1, "pipeline": 8})).plan
    kinds = [{plan.ranks[rank].node for rank in stage.ranks} for stage in plan.stages]
    assert len(set(map(frozenset, kinds))) == 2
    assert executable_on(plan, on).engine == "executor"


def test_a_plan_is_priced_alike_beside_devices_that_it_leaves_out():
    both_kinds, alone = cluster(["A100-80GB-SXM", "Ascend-910B"]), cluster(["A100-80GB-SXM"])
    plan = placed_search(DENSE, alone, JOB, Objective(fixed={"pipeline": 4})).plan
    assert evaluate(DENSE, both_kinds, plan).step_time_s == pytest.approx(plan.prediction.step_time_s)


@pytest.mark.parametrize("fixed", [{"expert": 4}, {"context": 2}, {"schedule": "zb-h1"}, {"virtual_stages": 2}])
def test_what_fleet_does_not_run_is_planned_for_the_executor(fixed):
    plan = planned(asked(EXPERTS, cluster(["A100-80GB-SXM"]), fixed=fixed)).plan
    assert plan.engine == "executor"
    assert fixed.items() <= degrees_of(plan).items()


def test_what_the_executor_does_not_run_is_planned_for_fleet():
    plan = planned(asked(EXPERTS, cluster(["A100-80GB-SXM"]), fixed={"sharding": 2})).plan
    assert plan.engine == "fleet"
    assert "the executor has none at all: objective.fixed: sharding 2" in plan.because


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        ({"fixed": {"expert": 3}}, "experts 8 % expert 3 = 2"),
        ({"fixed": {"tensor": 64}}, "tensor 64 > 8 devices"),
        ({"allow": ("offload",)}, "add --explore"),
        ({"minimise": "cost"}, "is for `nebula plan`"),
    ],
)
def test_mistakes_are_told_as_the_engine_that_knows_the_degree_tells_them(objective, told):
    with pytest.raises(BadInput) as caught:
        planned(asked(EXPERTS, cluster(["A100-80GB-SXM"]), **objective))
    assert told in str(caught.value)


@pytest.mark.parametrize("engine", ["fleet", "executor"])
def test_an_engine_that_is_asked_for_is_taken(engine):
    for model in (DENSE, EXPERTS):
        answer = planned(asked(model, cluster(["A100-80GB-SXM"]), fixed={"engine": engine}))
        assert degrees_of(answer.plan)["engine"] == engine
        assert f"objective.fixed.engine is {engine}" in answer.plan.because


def test_an_engine_that_is_asked_for_says_what_it_cannot_do():
    for engine, more, told in (("fleet", {"expert": 4}, "does not run"), ("executor", {"sharding": 3}, "sharding 3")):
        with pytest.raises(BadInput, match=told):
            planned(asked(EXPERTS, cluster(["A100-80GB-SXM"]), fixed={"engine": engine, **more}))
