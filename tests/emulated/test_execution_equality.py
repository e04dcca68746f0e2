"""Every split trains as one serial process does: the same losses, the same final weights."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ranks
from toy_plans import FOUR, TWO

WORKER = Path(__file__).parent / "equality_worker.py"
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 1e-4
# AdamW hides a wrong scale of all gradients, as does a clip that always bites; momentum with a looser clip does not
OPTIMIZERS = {2: ("adamw", "momentum"), 4: ("adamw",)}
WRONG = "momentum|data 2|1.001"
DECAY_RULE = "decay rule|sharding stage 3|"
CLIPPED = [f"adamw|{axis} 2 x sharding stage 3|" for axis in ("tensor", "pipeline")]
SERIAL = [f"{optimizer}|serial|" for optimizer in ("adamw", "momentum", "decay rule")]


@dataclass
class Row:
    """Largest relative difference of the losses and largest difference of the weights from the serial run."""

    losses: float
    weights: float


def cases(count):
    names = TWO if count == 2 else FOUR
    return [f"{optimizer}|{name}|" for optimizer in OPTIMIZERS[count] for name in names]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("equality")
    ranks.run_serial(WORKER, [folder, *SERIAL])
    ranks.run_emulated(2, WORKER, [folder, *cases(2), WRONG, DECAY_RULE, DECAY_RULE + "unmended"], folder)
    ranks.run_emulated(4, WORKER, [folder, *cases(4), *(case + "unmended" for case in CLIPPED)], folder)
    return folder


def compare(folder, case):
    serial = case.split("|")[0] + "|serial|"
    expected, losses = (np.array(json.loads((folder / f"{c}.json").read_text())) for c in (serial, case))
    with np.load(folder / f"{serial}.npz") as whole, np.load(folder / f"{case}.npz") as gathered:
        assert set(whole) == set(gathered)
        weights = max(float(np.abs(whole[name] - gathered[name]).max()) for name in whole)
    return Row(losses=float((np.abs(losses - expected) / expected).max()), weights=weights)


def test_serial_run_learns(results):
    for optimizer in ("adamw", "momentum"):
        losses = json.loads((results / f"{optimizer}|serial|.json").read_text())
        assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("case", cases(2) + cases(4))
def test_split_equals_serial(results, case):
    row = compare(results, case)
    assert row.losses <= LOSS_TOLERANCE
    assert row.weights <= WEIGHT_TOLERANCE


def test_wrong_gradient_scale_is_seen(results):
    row = compare(results, WRONG)
    assert row.losses > LOSS_TOLERANCE
    assert row.weights > WEIGHT_TOLERANCE


def test_decay_rule_by_name_holds_under_sharding_stage_3(results):
    assert compare(results, DECAY_RULE).weights <= WEIGHT_TOLERANCE
    assert compare(results, DECAY_RULE + "unmended").weights > WEIGHT_TOLERANCE


@pytest.mark.parametrize("case", CLIPPED)
def test_clip_of_sharding_stage_3_counts_every_rank(results, case):
    assert compare(results, case).losses <= LOSS_TOLERANCE
    assert compare(results, case + "unmended").losses > LOSS_TOLERANCE


def test_print_the_table(results, capsys):
    rows = {case: compare(results, case) for case in cases(2) + cases(4)}
    with capsys.disabled():
        print("\noptimizer | split: largest difference from one serial process in 20 losses (relative), in the weights")
        for case, row in rows.items():
            print(f"{case.removesuffix('|').replace('|', ' | '):50} {row.losses:.1e} {row.weights:.1e}")
        worst = max(row.losses for row in rows.values()), max(row.weights for row in rows.values())
        print(f"{'largest of all':50} {worst[0]:.1e} {worst[1]:.1e}")
    assert worst[0] <= LOSS_TOLERANCE
    assert worst[1] <= WEIGHT_TOLERANCE
