"""Plans whose stages differ train as one serial process does, under every schedule that the executor runs."""

import dataclasses

import numpy as np
import pytest
import ranks
import toy_plans
from equality import LOSS_TOLERANCE, WEIGHT_TOLERANCE, WORKER, compare, losses_of

from nebula.plan.legality import executable, violations

TIED = {
    2: ["pipeline, 1f1b", "virtual stages, zb-v"],
    4: ["tensor 2, then rows 1 : 3", "rows 3 : 1, sharding stage 1, then tensor 2"],
}
PLANS = {2: toy_plans.UNLIKE_TWO, 4: toy_plans.UNLIKE_FOUR}
GROUPS = {2: ["pipeline, 1f1b"], 4: ["tensor 2, then rows 1 : 3", "rows 3 : 1, sharding stage 1, then tensor 2"]}
SCALED = ["momentum|rows 3 : 1|infinite gradient", "momentum|pipeline, 1f1b|infinite gradient"]
WRONG = {2: "momentum|rows 3 : 1|1.003", 4: "momentum|rows 3 : 1, then tensor 2|1.006"}


def cases(count):
    names = [f"momentum|{name}|" for name in PLANS[count]] + [f"tied|{name}|" for name in TIED[count]]
    names += [f"groups|{name}|" for name in GROUPS[count]]
    return [*names, *(f"adamw|{name}|" for name in list(PLANS[count])[1:2])]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("executor")
    ranks.run_serial(WORKER, [folder, "adamw|serial|", "momentum|serial|", "tied|serial|", "groups|serial|"])
    for count in PLANS:
        ranks.run_emulated(
            count, WORKER, [folder, *cases(count), WRONG[count], *(SCALED if count == 2 else ())], folder
        )
    return folder


@pytest.mark.parametrize("case", cases(2) + cases(4))
def test_unlike_stages_equal_serial(results, case):
    row = compare(results, case)
    assert row.losses <= LOSS_TOLERANCE
    assert row.weights <= WEIGHT_TOLERANCE


@pytest.mark.parametrize("case", SCALED)
def test_an_infinite_gradient_of_one_stage_stops_the_step_of_all(results, case):
    """Every batch holds the same rows in another order, so a step that is left out leaves the loss where it was."""
    losses = losses_of(results, case)
    assert losses[3] == pytest.approx(losses[2], rel=1e-6)
    assert np.all(np.diff(losses)[[0, 1, 3, 4]] < 0)


@pytest.mark.parametrize("case", WRONG.values())
def test_a_wrong_share_of_the_gradient_is_seen(results, case):
    row = compare(results, case)
    assert row.losses > LOSS_TOLERANCE
    assert row.weights > WEIGHT_TOLERANCE


@pytest.mark.parametrize("name", toy_plans.UNLIKE)
def test_its_plans_are_legal_and_only_the_executor_runs_those_that_differ(name):
    plan = toy_plans.UNLIKE[name]
    assert violations(plan, layers=6, cluster=None) == ()
    assert executable(plan, "emulated").engine == "executor"
    on_fleet = dataclasses.replace(plan, engine="fleet")
    if name not in ("pipeline, 1f1b",):
        assert executable(on_fleet, "emulated").engine == "executor"


def test_print_the_table(results, capsys):
    rows = {case: compare(results, case) for case in cases(2) + cases(4)}
    with capsys.disabled():
        print("\noptimizer | split: largest difference from one serial process in 20 losses (relative), in the weights")
        for case, row in rows.items():
            print(f"{case.removesuffix('|').replace('|', ' | '):60} {row.losses:.1e} {row.weights:.1e}")
    assert max(row.losses for row in rows.values()) <= LOSS_TOLERANCE
