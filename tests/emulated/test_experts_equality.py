"""A model with experts trains as one serial process does, whoever holds which experts; the balance is the same too."""

import numpy as np
import pytest
import ranks
import toy_plans
from equality import LOSS_TOLERANCE, WEIGHT_TOLERANCE, WORKER, compare, losses_of

from nebula.plan.legality import executable, violations

SERIAL = [f"experts {name}|serial|" for name in ("momentum", "adamw", "starved")]
PARTED = "experts adamw|serial, 4 micro-batches|"
WRONG = "experts momentum|expert 2, rows 3 : 1|1.006"
QUICK = {
    2: [
        "adamw|expert 2, rows 3 : 1|",
        "momentum|expert 2, replicas not in the order of their ranks|",
        "momentum|expert 2, rows 7 : 1, full recompute|",
        "starved|expert 2, rows 3 : 1|",
    ],
    4: ["momentum|pipeline 2 x expert 2|"],
}
FLEET = ("data 2", "tensor 2", "pipeline 2 uneven, full recompute", *(f"sharding stage {stage}" for stage in (1, 2, 3)))
LONG = {
    2: [f"momentum|{name}|" for name in (*FLEET, *toy_plans.EXPERT_TWO)] + ["adamw|expert 2|"],
    4: [f"momentum|{name}|" for name in toy_plans.EXPERT_FOUR]
    + [f"adamw|{name}|" for name in ("data 4, expert 2", "pipeline 2 x expert 2, zb-h1, full recompute")]
    + ["starved|rows 5 : 1 : 1 : 1, expert 4|"],
}


def cases(by_ranks, count):
    return [f"experts {case}" for case in by_ranks[count]]


def launched(folder, by_ranks, wrong=()):
    ranks.run_serial(WORKER, [folder, *SERIAL, PARTED])
    for count in by_ranks:
        ranks.run_emulated(count, WORKER, [folder, *cases(by_ranks, count), *(wrong if count == 2 else ())], folder)
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return launched(tmp_path_factory.mktemp("experts"), QUICK, [WRONG])


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return launched(tmp_path_factory.mktemp("all_experts"), LONG)


def assert_equal(folder, case):
    row = compare(folder, case)
    print(f"{case} {row.losses:.1e} {row.weights:.1e}")
    assert row.losses <= LOSS_TOLERANCE
    assert row.weights <= WEIGHT_TOLERANCE


@pytest.mark.parametrize("case", cases(QUICK, 2) + cases(QUICK, 4))
def test_dealt_experts_equal_serial(quick, case):
    assert_equal(quick, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(LONG, 2) + cases(LONG, 4))
def test_every_plan_with_experts_equals_serial(long, case):
    assert_equal(long, case)


def test_micro_batches_change_nothing(quick):
    assert_equal(quick, PARTED)


def test_the_serial_run_learns_and_moves_its_balance(quick):
    losses = losses_of(quick, "experts adamw|serial|")
    assert losses[-1] < 0.6 * losses[0]
    with np.load(quick / "experts adamw|serial|.npz") as weights:
        moves = [weights[name] for name in weights if name.endswith("router.balance")]
    assert len(moves) == 3
    assert all(np.abs(each).max() > 2 for each in moves)


def test_a_wrong_share_of_the_gradient_is_seen(quick):
    row = compare(quick, WRONG)
    assert row.losses > LOSS_TOLERANCE
    assert row.weights > WEIGHT_TOLERANCE


@pytest.mark.parametrize("name", toy_plans.EXPERT)
def test_its_plans_are_legal_and_the_executor_runs_them(name):
    plan = toy_plans.EXPERT[name]
    assert violations(plan, layers=6, cluster=None) == ()
    assert executable(plan, "emulated").engine == "executor"
