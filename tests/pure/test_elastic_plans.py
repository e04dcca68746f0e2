"""Plans for what is left of a job's cluster: found before anything fails, and good for any node that is alike."""

import pytest

from nebula.cluster.places import exclude
from nebula.cluster.schema import load_cluster
from nebula.elastic.controller.plans import Plans
from nebula.errors import Infeasible
from nebula.models.describe import graph
from nebula.plan.values import Job
from nebula.planner.family import cases
from nebula.planner.replan import Replanner
from nebula.planner.search import search

MODEL = graph("ernie-3.0-small")
TYPE = {
    "kind": "npu",
    "emulated": True,
    "peak_flops": {"fp32": "200e9"},
    "memory": "256MiB",
    "memory_bandwidth": "20GB/s",
}
GROUP = {
    "name": "pair",
    "count": 4,
    "device": "toy",
    "devices_per_node": 1,
    "intra": {"kind": "pcie", "bandwidth": "1GB/s", "latency": "20us"},
    "nic": {"count": 1, "bandwidth": "200MB/s", "latency": "50us"},
}


def cluster(**more):
    return load_cluster({"name": "four", "devices": {"toy": TYPE}, "nodes": [GROUP | more]})


class Counted:
    """Plans of a cluster, and for how many changed ones a planner was asked."""

    def __init__(self, on):
        self.base = search(MODEL, on, Job(global_batch=24)).plan
        self.kept, self.asked = Replanner(MODEL, on, self.base), []
        self.plans = Plans(on, self.base, self.found)

    def found(self, changed):
        self.asked.append(changed)
        return self.kept.replan(changed).plan


def nodes(*numbers):
    return [f"pair/{number}" for number in numbers]


def test_what_a_family_holds_is_there_when_a_node_is_lost():
    job = Counted(cluster())
    assert {place.node for place in job.base.ranks} == set(nodes(0, 1, 2, 3))
    job.plans.prepare(case.missing for case in cases(job.plans.cluster, job.base))
    ahead = len(job.asked)
    assert ahead == 2
    for left in (nodes(0, 1, 2), nodes(0, 1)):
        assert (
            job.plans.of(left) == job.kept.replan(exclude(job.plans.cluster, set(nodes(0, 1, 2, 3)) - set(left))).plan
        )
    assert job.plans.of(nodes(0, 1, 2, 3)) == job.base
    assert len(job.asked) == ahead


@pytest.mark.parametrize("left", [(1, 2, 3), (0, 2, 3), (0, 1, 3), (2, 3), (1, 3)])
def test_a_node_that_is_alike_takes_the_place_of_one_that_is_lost(left):
    job = Counted(cluster())
    job.plans.prepare(case.missing for case in cases(job.plans.cluster, job.base))
    ahead = len(job.asked)
    found, asked = job.plans.of(nodes(*left)), exclude(job.plans.cluster, set(nodes(0, 1, 2, 3)) - set(nodes(*left)))
    assert len(job.asked) == ahead
    planned = job.kept.replan(asked).plan
    assert {place.node for place in found.ranks} == set(nodes(*left))
    assert found.split == planned.split
    assert found.prediction.step_time_s == pytest.approx(planned.prediction.step_time_s)
    assert found.made_from == planned.made_from


def test_a_slow_node_is_not_alike():
    job = Counted(cluster(slow={0: 2.0}))
    job.plans.prepare(case.missing for case in cases(job.plans.cluster, job.base))
    ahead = len(job.asked)
    assert {place.node for place in job.plans.of(nodes(0, 2, 3)).ranks} <= set(nodes(0, 2, 3))
    assert len(job.asked) == ahead + 1


def test_a_loss_that_nothing_survives_is_said_when_it_happens():
    job = Counted(cluster())
    barren = Plans(job.plans.cluster, job.base, nothing)
    barren.prepare([nodes(3)])
    with pytest.raises(Infeasible, match="nothing fits"):
        barren.of(nodes(0, 1, 2))


def nothing(_):
    raise Infeasible("nothing fits")
