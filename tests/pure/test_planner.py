"""What the planner says: reasons, runner-up, bound, rules, remedies; test_brute_force.py holds it against all plans."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nebula.cluster.values import Cluster
from nebula.cost_model.evaluate import evaluate
from nebula.errors import BadInput, Infeasible
from nebula.plan.job import Objective
from nebula.plan.legality import executable, violations
from nebula.plan.values import Job, Sharding
from nebula.planner.deals import every_deal
from nebula.planner.pool import equal_devices
from nebula.planner.price import Prices
from nebula.planner.search import KEPT, search
from nebula.planner.space import Split, divisors
from tests.pure.cost_samples import chain, cluster, device, feed_forward, plan, rectified


@pytest.fixture(scope="module")
def answer():
    return search(chain(6), cluster(nodes=2, per_node=4, nic=5e9), Job(global_batch=16), clock=iter(range(9)).__next__)


def test_the_answer_is_a_whole_plan(answer):
    own, where = answer.plan, cluster(nodes=2, per_node=4, nic=5e9)
    assert violations(own, layers=6, cluster=where) == ()
    assert executable(own, "emulated").engine == own.engine
    assert evaluate(chain(6), where, own) == own.prediction
    assert own.bound_s == answer.bound_s <= own.prediction.step_time_s
    assert own.made_from.model == "chain"


def test_the_answer_says_why_and_what_came_second(answer):
    second = answer.candidates[1]
    assert answer.plan.runner_up.split == second.split
    assert answer.plan.runner_up.step_time_s == second.prediction.step_time_s
    assert answer.plan.because.endswith(".")
    degrees = {(c.stages[0].data, c.stages[0].tensor, len(c.stages)): c for c in reversed(answer.candidates)}
    del degrees[answer.plan.stages[0].data, answer.plan.stages[0].tensor, len(answer.plan.stages)]
    other = min(degrees.values(), key=lambda c: c.prediction.step_time_s)
    assert other.split in answer.plan.because
    assert 2 <= len(answer.candidates) <= KEPT
    times = [c.prediction.step_time_s for c in answer.candidates]
    assert times == sorted(times)


def test_the_answer_counts_what_it_left_out_and_reports_its_time(answer):
    assert set(answer.cut) <= {"devices", "node", "shape", "engine", "memory", "bound", "fixed"}
    assert all(count > 0 for count in answer.cut.values())
    assert answer.seconds == 1


def test_progress_is_told_with_each_priced_candidate():
    told = []
    found = search(chain(3), cluster(per_node=2), Job(global_batch=4), on_progress=told.append)
    assert [p.priced for p in told] == list(range(1, found.priced + 1))
    assert told[-1].best_s == pytest.approx(found.plan.prediction.step_time_s)


def test_fixed_degrees_are_kept():
    fixed = {"tensor": 2, "pipeline": 2, "sharding": 0, "recompute": "full", "micro_batch_rows": 2}
    own = search(chain(4), cluster(per_node=8), Job(global_batch=16), Objective(fixed=fixed)).plan
    stage = own.stages[0]
    assert (stage.tensor, len(own.stages), stage.sharding.stage, stage.recompute) == (2, 2, 0, "full")
    assert stage.replicas[0].micro_batch_rows == 2


def test_an_unknown_degree_names_the_closest():
    with pytest.raises(BadInput, match="'tensor'"):
        search(chain(3), cluster(), Job(global_batch=4), Objective(fixed={"tensr": 2}))


def test_excluded_nodes_stay_empty():
    own = search(chain(4), cluster(nodes=3, per_node=2), Job(global_batch=8), Objective(exclude=("n/0",))).plan
    assert {place.node for place in own.ranks} <= {"n/1", "n/2"}


def test_a_small_node_that_is_left_out_binds_no_tensor_degree():
    large, small = cluster(per_node=4, nic=1e12).groups[0], cluster(per_node=1).groups[0]
    both = Cluster(name="both", groups=(large, replace(small, name="m")))
    asked = Objective(exclude=("m",))
    assert equal_devices(both, "float32", asked.exclude).devices_per_node == 4
    own = search(chain(3), both, Job(global_batch=1), asked).plan.prediction
    assert (
        own.step_time_s
        == search(chain(3), replace(both, groups=(large,)), Job(global_batch=1)).plan.prediction.step_time_s
    )


def test_slow_nodes_come_last():
    where = cluster(nodes=2, per_node=4, slow=((0, 3.0),), nic=1e6)
    assert {place.node for place in search(chain(4), where, Job(global_batch=8)).plan.ranks} == {"n/1"}


def test_fewer_devices_are_used_when_that_is_faster_and_it_says_so():
    own = search(chain(3), cluster(nodes=4, per_node=2, nic=1e5), Job(global_batch=8)).plan
    assert own.world_size == 2
    assert "6 of 8 devices stay unused" in own.because


def test_unlike_devices_are_planned_on_the_fastest_equal_set():
    fast, slow = (
        cluster(per_node=2).groups[0],
        cluster(per_node=8, kind=device(name="slow", peak_flops={"float32": 1e11})),
    )
    mixed = Cluster(name="mixed", groups=(replace(slow.groups[0], name="old"), replace(fast, name="new")))
    found = search(chain(3), mixed, Job(global_batch=8))
    assert {place.node for place in found.plan.ranks} == {"new/0"}
    assert "8 slow stay unused" in found.notes[0]


def test_a_cluster_without_devices_is_refused():
    with pytest.raises(BadInput, match="no device"):
        equal_devices(cluster(nodes=1), "float32", ["n"])


def test_what_no_engine_runs_is_left_out():
    """Plain CPUs run data parallelism alone."""
    found = search(chain(4), cluster(per_node=4, kind=device(kind="cpu", emulated=False)), Job(global_batch=8))
    assert (found.plan.stages[0].tensor, len(found.plan.stages)) == (1, 1)
    assert found.cut["engine"] > 0


def test_a_precision_that_no_engine_has_yet_keeps_no_split_out():
    assert search(chain(4), cluster(per_node=4), Job(global_batch=8, precision="bf16")).plan.world_size == 4


def test_what_fits_nowhere_says_by_how_much_and_how_many_devices_would_do():
    graph = chain(4, hidden=256, tokens=128)
    small = device(memory_bytes=4e6)
    with pytest.raises(Infeasible) as caught:
        search(graph, cluster(per_node=2, kind=small), Job(global_batch=8))
    text = str(caught.value)
    assert "MiB more than the 3.51 MiB" in text
    wanted = int(text.split(" devices would hold it")[0].split()[-1])
    assert (
        search(graph, cluster(nodes=wanted // 2, per_node=2, kind=small), Job(global_batch=8)).plan.world_size <= wanted
    )
    with pytest.raises(Infeasible):
        search(graph, cluster(nodes=wanted // 2 - 1, per_node=2, kind=small), Job(global_batch=8))


def test_what_fits_nowhere_names_the_device_that_would_do():
    graph, job = chain(4, hidden=256, tokens=128), Job(global_batch=8)
    with pytest.raises(Infeasible) as caught:
        search(graph, cluster(per_node=2, kind=device(memory_bytes=1e5)), job)
    wanted = int(re.search(r"(\d+) devices with (\d+) MiB each would hold it", str(caught.value))[2])
    search(graph, cluster(per_node=2, kind=device(memory_bytes=wanted * 2**20)), job)
    with pytest.raises(Infeasible):
        search(graph, cluster(per_node=2, kind=device(memory_bytes=(wanted - 1) * 2**20)), job)


def test_a_fixed_degree_that_makes_it_infeasible_is_named():
    graph = chain(4, hidden=128, tokens=128)
    with pytest.raises(Infeasible, match="without sharding=0 it fits"):
        search(
            graph,
            cluster(per_node=4, kind=device(memory_bytes=6e6)),
            Job(global_batch=8),
            Objective(fixed={"sharding": 0, "pipeline": 1, "tensor": 1}),
        )


def test_memory_that_a_fraction_withholds_is_named():
    graph = chain(1, hidden=128, tokens=8)
    whole = evaluate(graph, cluster(per_node=1), plan((0, 1), micro_batches=1)).memory[0].total_bytes
    with pytest.raises(Infeasible, match=r"memory_fraction=0\.\d+ would do"):
        search(graph, cluster(per_node=1, kind=device(memory_bytes=whole / 0.95)), Job(global_batch=1))


@pytest.mark.parametrize("asked", [{"minimise": "cost"}, {"deadline_s": 1.0}, {"budget": 5.0}])
def test_an_objective_that_the_search_does_not_heed_is_refused(asked):
    name = next(iter(asked)).removesuffix("_s")
    with pytest.raises(BadInput, match=rf"objective\.(limits\.)?{name}.* is for `nebula plan`"):
        search(chain(3), cluster(), Job(global_batch=4), Objective(**asked))


UNLIKE = chain(5, wide=(2,))
SHARING = replace(chain(5), blocks=(rectified(), feed_forward()), layers=(0, 0, 1, 0, 0))


@pytest.mark.parametrize("graph", [UNLIKE, SHARING], ids=["unlike layers", "layers that share what they keep"])
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("links", [{}, {"intra": 1e14, "nic": 1e14}], ids=["slow links", "fast links"])
def test_prices_of_the_search_are_those_of_evaluate(graph, recompute, links):
    where, job = cluster(nodes=4, per_node=4, **links), Job(global_batch=16)
    prices = Prices(graph, where, job, equal_devices(where, "float32"))
    for stage, degree in [(0, 1), (1, 2), (1, 4), (2, 4), (3, 4), (3, 2)]:
        split = Split(
            data=4, tensor=2, pipeline=2, rows=2, sharding=Sharding(stage=stage, degree=degree), recompute=recompute
        )
        price = prices.split(split)
        deals = list(every_deal(5, 2))
        own = [
            evaluate(
                graph,
                where,
                plan(
                    d,
                    data=4,
                    tensor=2,
                    rows=2,
                    micro_batches=2,
                    sharding=split.sharding,
                    recompute=recompute,
                    per_node=4,
                ),
            )
            for d in deals
        ]
        assert price.step_seconds(deals) == pytest.approx([p.step_time_s for p in own])
        tight = min(max(m.total_bytes for m in p.memory) for p in own)
        less = Prices(graph, where, replace(job, memory_fraction=tight * (1 + 1e-9) / 1e9), prices.pool)
        assert np.isfinite(less.split(split).fitting_seconds(deals)).tolist() == [
            fits_in(p, tight * (1 + 1e-9)) for p in own
        ]
        assert prices.least_seconds(split) <= min(p.step_time_s for p in own) * (1 + 1e-9)


def fits_in(prediction, limit):
    return all(m.total_bytes <= limit for m in prediction.memory)


def test_divisors_are_all_and_ascending():
    assert [divisors(n) for n in (1, 7, 16)] == [[1], [1, 7], [1, 2, 4, 8, 16]]
    assert Counter(divisors(360)) == Counter(d for d in range(1, 361) if 360 % d == 0)
