"""Device types take the stages of a pipeline in the order that is best, however a cluster file lists them."""

import pytest

from nebula.cluster.identity import cluster_hash
from nebula.cluster.schema import load_cluster
from nebula.cost_model.communication import Fabric
from nebula.cost_model.eager import paddle_execution
from nebula.cost_model.executed import predict_executed
from nebula.models.describe import graph
from nebula.plan.job import Objective
from nebula.plan.legality import violations
from nebula.plan.values import Job
from nebula.planner.explore.search import explore
from nebula.planner.type_order import fixed_of, in_best_order, in_order, type_orders

ERNIE = graph("ernie-3.0-10b", dtype="float16")
JOB = Job(global_batch=64, precision="fp16")
FIXED = {"tensor": 4, "context": 1, "schedule": "1f1b", "data": 1, "pipeline": 4}


def where(*types):
    """A node of eight of each type."""
    link = {"kind": "link", "bandwidth": "200GB/s"}
    nodes = [
        {"name": f"of-{i}", "count": 1, "device": device, "devices_per_node": 8, "intra": link}
        | {"nic": {"count": 8, "bandwidth": "100Gb/s"}}
        for i, device in enumerate(types)
    ]
    return load_cluster({"name": "mixed", "nodes": nodes})


@pytest.fixture(scope="module")
def answers():
    """For each order of the file the answer of an exploration, and that with types in the best order."""
    found = {}
    for types in (("V100-32GB-SXM3", "H100-80GB-SXM"), ("H100-80GB-SXM", "V100-32GB-SXM3")):
        asked = (ERNIE, where(*types), JOB, Objective(fixed=FIXED))
        plain = explore(*asked)
        found[types[0]] = (asked[1], plain, in_best_order(plain, *asked))
    return found


def step_s(answer):
    return answer.plan.prediction.step_time_s


def test_the_order_of_the_file_costs_nothing(answers):
    """The small layers at the end lose less on the older type, so that it is best placed there."""
    (_, slow_first, one), (_, fast_first, other) = answers.values()
    assert step_s(slow_first) > 1.05 * step_s(fast_first)
    assert step_s(one) == pytest.approx(step_s(other), rel=0.01)
    assert step_s(one) <= step_s(slow_first)
    assert "in the order of the cluster file a step takes" in one.plan.because
    assert other is fast_first


def test_a_plan_in_another_order_is_one_of_the_cluster(answers):
    cluster, _, found = answers["V100-32GB-SXM3"]
    assert found.plan.made_from.cluster_hash == cluster_hash(cluster)
    assert violations(found.plan, layers=len(ERNIE.layers), cluster=cluster) == ()
    execution = paddle_execution(JOB, cluster, found.plan.stages[0].recompute)
    again = predict_executed(ERNIE, cluster, found.plan, execution)
    assert again.step_time_s == pytest.approx(step_s(found), rel=1e-9)
    assert found.bound_s <= step_s(found)
    assert FIXED.items() <= fixed_of(found.plan).items()


def test_groups_in_another_order_hang_where_they_did():
    cluster = where("A100-80GB-SXM", "V100-32GB-SXM3", "H100-80GB-SXM")
    assert len(type_orders(cluster)) == 6
    turned = in_order(cluster, ("H100-80GB-SXM", "V100-32GB-SXM3", "A100-80GB-SXM"))
    assert [group.name for group in turned.groups] == ["of-2", "of-1", "of-0"]
    assert [group.ports for group in turned.groups] == [(2,), (1,), (0,)]
    both = Fabric(cluster).levels([0, 8, 16]), Fabric(turned).levels([16, 8, 0])
    assert both[0] == both[1]


def test_a_plan_on_one_type_stays():
    alone = where("A100-80GB-SXM", "V100-32GB-SXM3")
    asked = (ERNIE, alone, JOB, Objective(fixed=FIXED | {"pipeline": 2}, exclude=("of-1",)))
    plain = explore(*asked)
    assert in_best_order(plain, *asked) is plain
