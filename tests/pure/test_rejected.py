"""What a search left out: every rule has its row, and the change that is named admits what it says."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cluster.values import Cluster
from nebula.errors import Infeasible
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.alternatives import NEAREST, Explanation, explanation
from nebula.planner.contradiction import first_fault
from nebula.planner.explain import TERMS
from nebula.planner.fullest import fullest
from nebula.planner.leanest import leanest_above
from nebula.planner.placed_answer import placed_search
from nebula.planner.rejected import Rejection, rejections
from nebula.planner.search import Answer, search
from nebula.planner.setting import Setting, setting_of
from nebula.planner.space import RULES
from tests.pure.cost_samples import chain, cluster, device

JOB = Job(global_batch=16)


def asked(graph, where: Cluster, job: Job = JOB, **objective) -> tuple[Setting, Answer]:
    setting = setting_of(graph, where, job, Objective(**objective))
    return setting, setting.best()


def row(found: tuple[Rejection, ...], rule: str) -> Rejection:
    (one,) = (each for each in found if each.rule == rule)
    return one


@pytest.fixture(scope="module")
def roomy():
    return asked(chain(6), cluster(nodes=2, per_node=4, nic=5e9))


@pytest.fixture(scope="module")
def tight():
    kind = device(memory_bytes=9e6)
    return asked(chain(4, hidden=128, tokens=128), cluster(nodes=2, per_node=2, kind=kind), Job(global_batch=8))


def test_every_rule_that_cut_something_has_a_row_with_its_count(roomy, tight):
    for setting, answer in (roomy, tight):
        found = rejections(setting, answer)
        counts = {each.rule: each.count for each in found}
        assert answer.cut.items() <= counts.items()
        assert [each.count for each in found] == sorted(counts.values(), reverse=True)
        assert all(each.meaning == RULES[each.rule] for each in found)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_says_something_whatever_the_search_counted(tight, rule):
    setting, answer = tight
    one = row(rejections(setting, replace(answer, cut={rule: 3})), rule)
    assert one.amount.startswith("3 ")
    assert bool(one.facts or one.remedies) == (rule not in ("fixed", "engine"))


def test_a_rule_that_is_new_is_counted_all_the_same(roomy):
    setting, answer = roomy
    assert row(rejections(setting, replace(answer, cut={"weather": 3})), "weather").amount == "3 splits"


def test_the_leanest_is_found_under_a_fixed_sharding_degree():
    kind = device(memory_bytes=9e6)
    where = cluster(nodes=2, per_node=2, kind=kind)
    setting, _ = asked(chain(4, hidden=128, tokens=128), where, Job(global_batch=8), fixed={"sharding_degree": 2})
    split = leanest_above(setting)
    assert split.sharding.degree == 2
    assert fullest(setting, split).over_bytes > 0


def test_a_node_row_is_left_out_of_a_cluster_whose_nodes_every_degree_divides():
    setting, answer = asked(chain(3), cluster(nodes=2, per_node=2))
    assert "node" not in {each.rule for each in rejections(setting, answer)}


def test_as_many_devices_as_are_named_admit_the_split_and_one_less_does_not(roomy):
    setting, answer = roomy
    (remedy,) = row(rejections(setting, answer), "devices").remedies
    devices = int(re.search(r"\(([\d,]+)\)", remedy)[1])
    degrees = {name: int(value) for name, value in re.findall(r"(data|tensor|pipeline) (\d+)", remedy)}
    assert first_fault(replace(setting, limits=replace(setting.limits, devices=devices)), degrees) is None
    less = replace(setting, limits=replace(setting.limits, devices=devices - 1))
    assert first_fault(less, degrees).rule == "devices"


def test_nodes_as_large_as_is_named_admit_the_tensor_degree():
    graph = chain(4, hidden=48)
    setting, answer = asked(graph, cluster(nodes=2, per_node=4))
    one = row(rejections(setting, answer), "node")
    size, tensor = map(int, re.search(r"nodes of (\d+) devices would admit tensor (\d+)", one.remedies[0]).groups())
    assert (size, tensor) == (6, 3)
    assert size % tensor == 0
    assert one.amount == "1 tensor degree"
    fixed = {"tensor": tensor}
    assert search(graph, cluster(nodes=2, per_node=size), JOB, Objective(fixed=fixed)).plan.stages[0].tensor == tensor


@settings(max_examples=6, deadline=None)
@given(st.integers(2, 16))
def test_the_batch_that_is_named_admits_the_number_of_replicas(rows):
    setting, answer = asked(chain(3), cluster(per_node=8), Job(global_batch=rows))
    found = [each for each in rejections(setting, answer) if each.rule == "batch"]
    assert bool(found) == any(rows % data for data in range(1, min(8, rows) + 1))
    for each in found:
        batch, data = map(int, re.search(r"global_batch=(\d+) would admit (\d+)", each.remedies[0]).groups())
        assert rows % data != 0
        assert batch % data == 0
        assert each.count == sum(rows % d > 0 for d in range(1, min(8, rows) + 1))


def test_the_leanest_that_does_not_fit_is_short_of_what_it_says_and_each_change_makes_it_fit(tight):
    setting, answer = tight
    one, split = row(rejections(setting, answer), "memory"), leanest_above(setting)
    over = fullest(setting, split).over_bytes
    assert over > 0
    assert "more than the 7.9 MiB that objective.limits.memory_fraction=0.92 allows" in one.facts[0]
    fixed = {
        "data": split.data,
        "tensor": split.tensor,
        "pipeline": split.pipeline,
        "recompute": split.recompute,
        "sharding": split.sharding.stage,
        "sharding_degree": split.sharding.degree,
        "micro_batch_rows": split.rows,
    }
    with pytest.raises(Infeasible):
        setting.fixing(fixed).best()
    changes = [re.match(r"(\w+)=(\w+)(?:,sharding_degree=(\d+))? would do", text) for text in one.remedies]
    named = [change.groups() for change in changes if change]
    assert named
    for name, value, degree in named:
        stages = int(value) if name == "pipeline" else split.pipeline
        more = {"sharding_degree": int(degree)} if degree else {}
        changed = {**fixed, name: int(value) if value.isdigit() else value, **more}
        assert setting.fixing(changed).best().plan.world_size == split.ranks // split.pipeline * stages
    enough = int(re.search(r"devices with ([\d,]+) MiB", one.remedies[-1])[1].replace(",", ""))
    bigger = cluster(nodes=2, per_node=2, kind=device(memory_bytes=enough * 2**20))
    assert search(chain(4, hidden=128, tokens=128), bigger, Job(global_batch=8), Objective(fixed=fixed)).plan


def test_no_split_that_does_not_fit_is_leaner(tight):
    """By trying each number of stages and each policy beside the one that was named."""
    setting, _ = tight
    split = leanest_above(setting)
    least = fullest(setting, split).memory.total_bytes
    limit = setting.prices.limit_bytes
    for recompute in ("none", "selective", "full"):
        for pipeline in range(1, 5):
            other = replace(split, recompute=recompute, pipeline=pipeline)
            if other.ranks <= setting.limits.devices:
                held = fullest(setting, other).memory.total_bytes
                assert held <= limit or held >= least * (1 - 1e-9)


def test_what_a_fixed_degree_costs_is_told():
    setting, answer = asked(chain(6), cluster(nodes=2, per_node=4, nic=5e9), fixed={"tensor": 4})
    one = row(rejections(setting, answer), "fixed")
    free = placed_search(chain(6), cluster(nodes=2, per_node=4, nic=5e9), JOB).plan
    assert one.remedies[0].startswith(f"without tensor=4 the best is {free.split}: ")
    gain = 1 - free.prediction.step_time_s / answer.plan.prediction.step_time_s
    assert f"{gain:.1%} less" in one.remedies[0]


def test_what_no_engine_runs_says_what_to_use_instead():
    setting, answer = asked(chain(4), cluster(per_node=4, kind=device(kind="cpu", emulated=False)))
    one = row(rejections(setting, answer), "engine")
    assert one.count == answer.cut["engine"]
    assert any("use the emulated device" in remedy for remedy in one.remedies)


def test_a_degree_that_the_model_cannot_be_cut_by_is_named_with_its_equation():
    setting, answer = asked(chain(3, hidden=10, width=1), cluster(per_node=4, intra=1e14, nic=1e14))
    one = row(rejections(setting, answer), "shape")
    assert "tensor 4: " in one.facts[0]
    assert "10 % 4 = 2" in one.facts[0]
    assert one.remedies[0].endswith("tensor 1, 2")


@pytest.fixture(scope="module")
def explained(roomy) -> tuple[Answer, Explanation]:
    setting, answer = roomy
    return answer, explanation(setting, answer, answer.plan)


def test_the_nearest_alternatives_are_the_next_of_the_search_with_the_term_that_decided(explained):
    answer, found = explained
    assert [each.plan for each in found.alternatives] == list(answer.candidates[1 : NEAREST + 1])
    assert found.because == answer.plan.because
    assert found.better == ()
    for each in found.alternatives:
        own, other = answer.plan.prediction, each.plan.prediction
        behind = {name: of(other.parts) - of(own.parts) for name, of in TERMS}
        assert each.term_more_s == max(behind.values()) == behind[each.term]
        assert each.more_s == pytest.approx(other.step_time_s - own.step_time_s)
        assert each.term in each.sentence or each.more_s == pytest.approx(0, abs=1e-12)


def test_the_bound_is_that_of_the_search(explained):
    answer, found = explained
    assert found.plan.bound_s == answer.bound_s
    assert found.bound.startswith("No plan of this space takes less than ")


def test_a_plan_that_is_not_the_best_says_which_is(roomy):
    setting, answer = roomy
    slow = setting.fixing({"tensor": 4, "recompute": "full"}).best().plan
    found = explanation(setting, answer, slow)
    assert answer.plan.split in found.better[0]
    assert " less, because of " in found.better[0]
    assert found.because == slow.because
    distances = [abs(each.more_s) for each in found.alternatives]
    assert distances == sorted(distances)
    assert all(" less" in each.sentence for each in found.alternatives if each.more_s < 0)
