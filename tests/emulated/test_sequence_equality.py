"""Plans that cut the sequence, over tensor groups or over context groups, train as one serial process does."""

import dataclasses
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
from nebula.plan.job import EXCHANGES
from nebula.plan.legality import executable, violations

PLANS = {
    2: toy_plans.SEQUENCE_TWO | toy_plans.CONTEXT_TWO,
    4: toy_plans.SEQUENCE_FOUR | toy_plans.CONTEXT_FOUR,
}
QUICK = ["sequence, tensor 2", "context 2 by ring", "context 2 by ulysses"]
ADAMW = ["sequence, tensor 2, recompute of some layers", "context 2 by ulysses"]
ADAMW += ["sequence, tensor 2, sharding stage 1", "context 2 by gather, data 2, sharding stage 1"]
ADAMW += ["context 2 by ulysses, data 2, sharding stage 1"]
WRONG = ["momentum|sequence, tensor 2|1.003", "momentum|context 2 by ring|1.003"]
FIRST = [f"momentum|{name}|" for name in QUICK] + [f"masked momentum|context 2 by {way}|" for way in EXCHANGES]


def cases(count):
    names = [f"momentum|{name}|" for name in PLANS[count]] + [
        f"adamw|{name}|" for name in ADAMW if name in PLANS[count]
    ]
    return [case for case in names if case not in FIRST]


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence")
    ranks.run_serial(WORKER, [folder, "momentum|serial|", "masked momentum|serial|"])
    return folder


@pytest.fixture(scope="module")
def first(serial):
    ranks.run_emulated(2, WORKER, [serial, *FIRST, *WRONG], serial)
    return serial


@pytest.fixture(scope="module")
def every(serial):
    ranks.run_serial(WORKER, [serial, "adamw|serial|"])
    for count in PLANS:
        ranks.run_emulated(count, WORKER, [serial, *cases(count)], serial, timeout_s=600)
    return serial


@pytest.mark.parametrize("case", FIRST)
def test_a_pair_that_shares_the_sequence_equals_serial(first, case):
    assert_equal(first, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(2) + cases(4))
def test_groups_that_share_the_sequence_equal_serial(every, case):
    assert_equal(every, case)


def assert_equal(folder, case):
    row = compare(folder, case)
    assert row.losses <= LOSS_TOLERANCE
    assert row.weights <= WEIGHT_TOLERANCE


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_share_of_the_gradient_is_seen(first, case):
    assert compare(first, case).weights > WEIGHT_TOLERANCE


@pytest.mark.parametrize("name", PLANS[2] | PLANS[4])
def test_its_plans_are_legal_and_run_on_the_executor(name):
    plan = toy_plans.named(name)
    assert violations(plan, layers=6, cluster=None) == ()
    assert executable(plan, "emulated").engine == "executor"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Losses of the ERNIE of whole_heads_script.py in one process."""
    found = tmp_path_factory.mktemp("ernie") / "serial.json"
    subprocess.run([sys.executable, str(SCRIPT), str(found)], check=True, env=ranks.base_environment(2), timeout=120)
    return json.loads(found.read_text())


PAIR = toy_plans.unlike(((0, 6), [((0, 1), 4)]), micro_batches=1, rows=4)


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(dataclasses.replace(PAIR, sequence_parallel=True), id="sequence"),
        pytest.param(toy_plans.sharing(PAIR, 2, "ring"), id="ring", marks=pytest.mark.slow),
        pytest.param(toy_plans.sharing(PAIR, 2, "gather"), id="gather", marks=pytest.mark.slow),
    ],
)
def test_an_ernie_whose_task_heads_do_not_divide_learns_alike(alone, tmp_path, plan):
    save_plan(plan, tmp_path / "plan.json")
    assert (
        launch(tmp_path / "plan.json", SCRIPT, [str(tmp_path / "cut.json")], cluster=cluster(), log_dir=tmp_path) == 0
    )
    cut = json.loads((tmp_path / "cut.json").read_text())
    assert alone[-1] < 0.8 * alone[0]
    assert cut == pytest.approx(alone, rel=1e-5)
