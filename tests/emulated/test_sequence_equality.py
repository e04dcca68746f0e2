"""Plans that cut the sequence over tensor groups train as one serial process does."""

import json
import subprocess
import sys

import pytest
import ranks
import toy_plans
from equality import LOSS_TOLERANCE, WEIGHT_TOLERANCE, WORKER, compare
from test_launch_emulated import cluster
from test_whole_heads import SCRIPT

from nebula.launch import launch
from nebula.plan.files import save_plan
from nebula.plan.legality import executable, violations

PLANS = {2: toy_plans.SEQUENCE_TWO, 4: toy_plans.SEQUENCE_FOUR}
WRONG = "momentum|sequence, tensor 2|1.003"


def cases(count):
    names = list(PLANS[count])
    return [f"momentum|{name}|" for name in names] + [f"adamw|{name}|" for name in names[1:2]]


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence")
    ranks.run_serial(WORKER, [folder, "adamw|serial|", "momentum|serial|"])
    return folder


@pytest.fixture(scope="module")
def two(serial):
    ranks.run_emulated(2, WORKER, [serial, *cases(2), WRONG], serial)
    return serial


@pytest.fixture(scope="module")
def four(serial):
    ranks.run_emulated(4, WORKER, [serial, *cases(4)], serial)
    return serial


@pytest.mark.parametrize("case", cases(2))
def test_a_pair_that_shares_the_sequence_equals_serial(two, case):
    assert_equal(two, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(4))
def test_four_ranks_that_share_the_sequence_equal_serial(four, case):
    assert_equal(four, case)


def assert_equal(folder, case):
    row = compare(folder, case)
    assert row.losses <= LOSS_TOLERANCE
    assert row.weights <= WEIGHT_TOLERANCE


def test_a_wrong_share_of_the_gradient_is_seen(two):
    assert compare(two, WRONG).weights > WEIGHT_TOLERANCE


@pytest.mark.parametrize("name", toy_plans.SEQUENCE_TWO | toy_plans.SEQUENCE_FOUR)
def test_its_plans_are_legal_and_run_on_the_executor(name):
    plan = toy_plans.named(name)
    assert violations(plan, layers=6, cluster=None) == ()
    assert executable(plan, "emulated").engine == "executor"


def test_an_ernie_whose_task_heads_do_not_divide_learns_alike(tmp_path):
    serial = tmp_path / "serial.json"
    subprocess.run([sys.executable, str(SCRIPT), str(serial)], check=True, env=ranks.base_environment(2), timeout=120)
    pair = toy_plans.unlike(((0, 6), [((0, 1), 4)]), micro_batches=1, rows=4, sequence=True)
    save_plan(pair, tmp_path / "plan.json")
    assert (
        launch(tmp_path / "plan.json", SCRIPT, [str(tmp_path / "cut.json")], cluster=cluster(), log_dir=tmp_path) == 0
    )
    alone, cut = (json.loads(path.read_text()) for path in (serial, tmp_path / "cut.json"))
    assert alone[-1] < 0.8 * alone[0]
    assert cut == pytest.approx(alone, rel=1e-5)
