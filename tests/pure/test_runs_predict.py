"""Layers that were measured alone, and how old software and devices of a run are."""

from __future__ import annotations

import pytest

from nebula.cost_model.runs.devices import FIRST_YEARS, first_year
from nebula.cost_model.runs.predict import Predicted, predict
from nebula.cost_model.runs.read_execution import year_of
from nebula.cost_model.step import StepPricing
from tests.pure import runs_samples


def seconds_of(**changes: object) -> float:
    found = predict(runs_samples.case(**changes))
    assert isinstance(found, Predicted), found
    return found.time_s


SHARD = {
    "kind": "layer_shard",
    "measured": {"layer_total_ms": 1.0},
    "hidden": 4096,
    "ffn_hidden": 16384,
    "seq_len": 1024,
}
SHARD |= {"heads": 32, "pp": 1, "dp": 1, "tp": 2, "devices": 1, "global_batch": None, "device": "H100-80GB-SXM"}


def test_a_share_of_a_layer_grows_with_its_micro_batch() -> None:
    one, two, four = (seconds_of(**SHARD, micro_batch=n) for n in (1, 2, 4))
    # the smallest waits for its host
    assert one < two < 2 * one
    assert 1.8 * two < four < 2.1 * two


def test_forward_and_backward_of_a_layer_sum_to_both() -> None:
    parts = [seconds_of(**SHARD | {"measured": {f"layer_{way}_ms": 1.0}}, micro_batch=4) for way in ("fwd", "bwd")]
    assert sum(parts) == pytest.approx(seconds_of(**SHARD, micro_batch=4), rel=0.05)
    assert parts[0] < parts[1]


def test_a_layer_that_is_timed_alone_is_quicker_than_in_training() -> None:
    case = runs_samples.case(**SHARD, micro_batch=4)
    trained = StepPricing(case.graph, case.cluster, case.execution).layer(case.plan)
    assert seconds_of(**SHARD, micro_batch=4) < trained.forward_s + trained.backward_s


@pytest.mark.parametrize(
    ("source", "year"),
    [
        ({"path": "llama3_h100_202412.md"}, 2024 + 11 / 12),
        ({"rev": "v24.11"}, 2024 + 10 / 12),
        ({"table": "of 2023-05-17"}, 2023 + 4 / 12),
        ({"table": "March 2022"}, 2022 + 2 / 12),
        ({"table": "Sept. 2022"}, 2022 + 8 / 12),
        ({"table": "2021 Jun"}, 2021 + 5 / 12),
        ({"table": "2048 devices, 2099.12 TFLOP/s"}, 0.0),
        ({"table": "arXiv 2104.04473"}, 0.0),
        ({"table": "decoder 2024, 2024 decoders, marginal 2023"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_year_that_texts_tell(source: dict[str, str], year: float) -> None:
    assert year_of(runs_samples.row(source=source)) == pytest.approx(year)


def test_first_years_are_those_of_the_longest_name_that_fits() -> None:
    assert first_year("Ascend 910B") == 2023.0
    assert first_year("Ascend 910") == 2019.7
    assert first_year("NVIDIA H100 80GB HBM3") == 2022.8
    assert first_year("something new") == dict(FIRST_YEARS)["A100"]
    # a name that begins with another one must come before it, or it is never found
    known = [name for name, _ in FIRST_YEARS]
    assert not [(a, b) for i, a in enumerate(known) for b in known[i + 1 :] if b.startswith(a)]
