"""Models that know nothing of Nebula train under any split as in one serial process."""

from pathlib import Path

import pytest
import ranks
from equality import LOSS_TOLERANCE, WEIGHT_TOLERANCE, compare, losses_of

WORKER = Path(__file__).with_name("own_model_worker.py")
TWO = [
    "causal|data 2|",
    "causal|tensor 2|",
    "causal|pipeline 2|",
    "causal|pipeline, zb-h1|",
    "fused|tensor 2|",
    "classifier|tensor 2|",
    "classifier|pipeline 2|",
    "resnet|data 2|",
    "resnet|pipeline 2|",
]
FOUR = [
    "causal|tensor 2 x pipeline 2|",
    "causal|rows 3 : 1, then tensor 2|",
    "fused|rows 3 : 1, then tensor 2|",
    "classifier|tensor 2 x pipeline 2|",
    "resnet|data 2 x pipeline 2|",
]
STATISTICS = ("._mean", "._variance")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    ranks.run_serial(WORKER, [folder, *(f"{name}|serial|" for name in ("causal", "fused", "classifier", "resnet"))])
    return folder


def check(folder, case):
    """Batch norm sees the micro-batches of its own replica, so running statistics differ where there are several."""
    losses = losses_of(folder, case)
    assert losses[-1] < losses[0]
    row = compare(folder, case, without=STATISTICS if "data" in case else ())
    assert row.losses <= LOSS_TOLERANCE
    assert row.weights <= WEIGHT_TOLERANCE


@pytest.mark.slow
def test_on_two_devices_it_trains_as_one_process_does(folder):
    ranks.run_emulated(2, WORKER, [folder, *TWO], folder)
    for case in TWO:
        check(folder, case)


@pytest.mark.slow
def test_on_four_devices_it_trains_as_one_process_does(folder):
    ranks.run_emulated(4, WORKER, [folder, *FOUR], folder)
    for case in FOUR:
        check(folder, case)
