"""Splits on fleet train as one serial process does, and what would make them differ is seen or mended.

Plans over all dimensions are in test_plan_matrix.py; the orders of ranks and groups of sharding that it lacks are here.
"""

import numpy as np
import pytest
import ranks
from equality import LOSS_TOLERANCE, WEIGHT_TOLERANCE, WORKER, compare, losses_of
from toy_plans import EIGHT, FOUR, TWO

# AdamW hides a wrong scale of all gradients, as does a clip that always bites; momentum with a looser clip does not
OPTIMIZERS = ("adamw", "momentum")
PLANS = {2: TWO, 4: FOUR, 8: EIGHT}
WRONG = {2: "momentum|data 2|1.001", 4: "momentum|data 2 x tensor 2|1.003"}
DECAY_RULE = "decay rule|sharding stage 3|"
CLIPPED = [f"adamw|{axis} 2 x sharding stage 3|" for axis in ("tensor", "pipeline")]
GROUPED = [f"groups|{name}|" for name in ("pipeline 2", "tensor 2", "sharding stage 2")]
RECOMPUTED = [f"{of}|data 2, {policy} recompute|" for of in ("momentum", "tied") for policy in ("full", "selective")]
PLAIN = ("data 2", "tensor 2", "pipeline 2", "sharding stage 1", "sharding stage 2", "sharding stage 3")
SCALED = [f"momentum|{name}|loss scaler" for name in PLAIN]
INFINITE = [f"momentum|{name}|infinite gradient" for name in PLAIN]
SERIAL = [f"{optimizer}|serial|" for optimizer in ("adamw", "momentum", "decay rule")]


def cases(count):
    return [f"{optimizer}|{name}|" for optimizer in OPTIMIZERS for name in PLANS[count]]


EVERY = [case for count in PLANS for case in cases(count)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("equality")
    ranks.run_serial(WORKER, [folder, *SERIAL, "groups|serial|", "tied|serial|"])
    both = [case + twist for case in (DECAY_RULE, *GROUPED) for twist in ("", "unmended")]
    ranks.run_emulated(2, WORKER, [folder, WRONG[2], *SCALED, *INFINITE, *RECOMPUTED, *both], folder)
    ranks.run_emulated(4, WORKER, [folder, WRONG[4], *CLIPPED, *(case + "unmended" for case in CLIPPED)], folder)
    return folder


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("splits")
    ranks.run_serial(WORKER, [folder, *SERIAL])
    for count in PLANS:
        ranks.run_emulated(count, WORKER, [folder, *cases(count)], folder)
    return folder


def test_serial_run_learns(results):
    for optimizer in ("adamw", "momentum"):
        losses = losses_of(results, f"{optimizer}|serial|")
        assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("case", RECOMPUTED)
def test_replicas_that_recompute_equal_serial(results, case):
    """Paddle's reducer, which sends gradients beside the backward, ends such runs or sends parts of gradients."""
    row = compare(results, case)
    assert row.losses <= LOSS_TOLERANCE
    assert row.weights <= WEIGHT_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("case", EVERY)
def test_split_equals_serial(splits, case):
    row = compare(splits, case)
    assert row.losses <= LOSS_TOLERANCE
    assert row.weights <= WEIGHT_TOLERANCE


@pytest.mark.parametrize("case", WRONG.values())
def test_wrong_gradient_scale_is_seen(results, case):
    row = compare(results, case)
    assert row.losses > LOSS_TOLERANCE
    assert row.weights > WEIGHT_TOLERANCE


def test_decay_rule_by_name_holds_under_sharding_stage_3(results):
    assert compare(results, DECAY_RULE).weights <= WEIGHT_TOLERANCE
    assert compare(results, DECAY_RULE + "unmended").weights > WEIGHT_TOLERANCE


@pytest.mark.parametrize("case", GROUPED)
def test_groups_of_an_optimizer_are_clipped_apart(results, case):
    assert compare(results, case).losses <= LOSS_TOLERANCE
    assert compare(results, case + "unmended").losses > LOSS_TOLERANCE


@pytest.mark.parametrize("case", CLIPPED)
def test_clip_of_sharding_stage_3_counts_every_rank(results, case):
    assert compare(results, case).losses <= LOSS_TOLERANCE
    assert compare(results, case + "unmended").losses > LOSS_TOLERANCE


@pytest.mark.parametrize("case", SCALED)
def test_a_loss_scaler_changes_no_loss(results, case):
    losses = losses_of(results, case)
    expected = losses_of(results, "momentum|serial|")[: len(losses)]
    assert np.abs(losses / expected - 1).max() <= LOSS_TOLERANCE


@pytest.mark.parametrize("case", INFINITE)
def test_an_infinite_gradient_of_one_rank_stops_the_step_of_all(results, case):
    """Every batch holds the same rows in another order, so a step that is left out leaves the loss where it was."""
    losses = losses_of(results, case)
    assert losses[3] == pytest.approx(losses[2], rel=1e-6)
    assert np.all(np.diff(losses)[[0, 1, 3, 4]] < 0)


@pytest.mark.slow
def test_print_the_table(splits, capsys):
    rows = {case: compare(splits, case) for case in EVERY}
    with capsys.disabled():
        print("\noptimizer | split: largest difference from one serial process in 20 losses (relative), in the weights")
        for case, row in rows.items():
            print(f"{case.removesuffix('|').replace('|', ' | '):50} {row.losses:.1e} {row.weights:.1e}")
        worst = max(row.losses for row in rows.values()), max(row.weights for row in rows.values())
        print(f"{'largest of all':50} {worst[0]:.1e} {worst[1]:.1e}")
    assert worst[0] <= LOSS_TOLERANCE
    assert worst[1] <= WEIGHT_TOLERANCE
