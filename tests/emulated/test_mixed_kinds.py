"""Stages on emulated devices beside stages on plain CPUs, which share no communicator, train as one process does."""

import functools

import pytest
import ranks
import toy_plans
from equality import LOSS_TOLERANCE, WEIGHT_TOLERANCE, WORKER, compare

from nebula.plan.legality import executable_by

ON_CPUS = {
    ("emulated", "cpu"): ["pipeline, 1f1b", "pipeline, zb-h1"],
    ("cpu", "cpu", "emulated", "emulated"): [
        "rows 3 : 1, sharding stage 1, then tensor 2",
        "1 rank, 1 rank, tensor 2, zb-h1",
    ],
    ("emulated", "emulated", "cpu", "cpu"): ["tensor 2, then rows 1 : 3"],
}
SLOW = [*ON_CPUS][2]
TIED = {"pipeline, 1f1b", "tensor 2, then rows 1 : 3", "rows 3 : 1, sharding stage 1, then tensor 2"}
WRONG = "momentum|pipeline, 1f1b|1.01"


def cases(kinds):
    names = ON_CPUS[kinds]
    return [f"adamw|{name}|" for name in names] + [f"tied|{name}|" for name in names if name in TIED]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains all cases of some kinds, once, and tells the folder."""
    folder = tmp_path_factory.mktemp("mixed")
    ranks.run_serial(WORKER, [folder, "adamw|serial|", "momentum|serial|", "tied|serial|"])

    @functools.cache
    def on(kinds):
        words = [folder, *cases(kinds), *([WRONG] if len(kinds) == 2 else [])]
        ranks.run_emulated(len(kinds), WORKER, words, folder, kinds=kinds)
        return folder

    return on


def of_kinds():
    for kinds in ON_CPUS:
        for case in cases(kinds):
            yield pytest.param(kinds, case, id=case, marks=[pytest.mark.slow] if kinds == SLOW else [])


@pytest.mark.parametrize(("kinds", "case"), of_kinds())
def test_unlike_kinds_equal_serial(trained, kinds, case):
    row = compare(trained(kinds), case)
    assert row.losses <= LOSS_TOLERANCE
    assert row.weights <= WEIGHT_TOLERANCE


def test_a_wrong_gradient_on_the_cpu_is_seen(trained):
    row = compare(trained(("emulated", "cpu")), WRONG)
    assert row.losses > LOSS_TOLERANCE
    assert row.weights > WEIGHT_TOLERANCE


@pytest.mark.parametrize("kinds", ON_CPUS)
def test_the_executor_runs_them_and_fleet_does_not(kinds):
    for name in ON_CPUS[kinds]:
        assert executable_by(toy_plans.named(name), kinds).engine == "executor"


def test_neither_runs_a_stage_of_two_kinds_nor_a_tensor_group_of_cpus():
    kinds = ("emulated", "cpu")
    (lacking,) = executable_by(toy_plans.named("rows 3 : 1"), kinds).missing
    assert lacking == "stage 0 spans devices of kinds cpu and emulated, which share no communicator"
    on_cpus = executable_by(toy_plans.named("tensor 2, then rows 1 : 3"), ("cpu", "cpu", "emulated", "emulated"))
    assert on_cpus.missing == ("tensor 2 of stage 0: Paddle lacks its collectives on the CPU",)
