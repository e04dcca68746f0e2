"""How far a run of equality_worker.py is from that of one serial process."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WORKER = Path(__file__).parent / "equality_worker.py"
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 1e-4


@dataclass
class Row:
    """Largest relative difference of the losses and largest difference of the weights from the serial run."""

    losses: float
    weights: float


def losses_of(folder, case):
    return np.array(json.loads((folder / f"{case}.json").read_text()))


def compare(folder, case, without=()):
    """`without`: ends of names of weights that are left out."""
    serial = case.split("|")[0] + "|serial|"
    expected, losses = losses_of(folder, serial), losses_of(folder, case)
    with np.load(folder / f"{serial}.npz") as whole, np.load(folder / f"{case}.npz") as gathered:
        assert set(whole) == set(gathered)
        off = [np.abs(whole[name] - gathered[name]).max() for name in whole if not name.endswith(without)]
    # numpy's maximum: Python's passes over a NaN
    return Row(losses=float((np.abs(losses - expected) / expected).max()), weights=float(np.max(off)))
