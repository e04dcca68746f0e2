"""Where the fastest measured split stands among all splits of its job."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from nebula.cli.main import app
from nebula.cost_model.runs.case import case_of
from nebula.cost_model.runs.choices import choices
from nebula.cost_model.runs.predict import predict
from nebula.cost_model.runs.ranks import POLICIES, Rank, Split, priced, rank, splits
from nebula.cost_model.runs.schema import Row
from nebula.cost_model.runs.score import validate
from nebula.models.decoders_measured import described_run
from tests.pure.runs_samples import case, row

MEASURED = ({"tp": 1, "dp": 8, "pp": 1}, {"tp": 8, "dp": 1, "pp": 1})


def jobs(*changes):
    rows = [
        row(id=f"r{index}", devices=8, global_batch=16, measured={"step_time_s": 1.0 + index}, **change)
        for index, change in enumerate(changes)
    ]
    return choices(validate(rows, described_run).scored)


def ranked(*changes) -> Rank:
    (choice,) = jobs(*changes)
    return rank(choice)


def as_row(given: Row, split: Split) -> Row:
    fields = {"tp": split.tensor, "pp": split.pipeline, "vpp": split.chunks, "dp": split.data}
    again = {"none": "none", "core": "selective", "layer": "full"}[split.again]
    return given.model_copy(update={**fields, "micro_batch": split.rows, "recompute": again})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"devices": 32, "dp": 8, "global_batch": 16, "sequence_parallel": True, "zero": "1"},
        {"kind": "mixed_cluster", "device": "4x A100-80GB-SXM + 4x V100-32GB-SXM3", "devices_per_node": 4},
    ],
)
def test_every_split_costs_what_it_costs_as_a_row(changes) -> None:
    given = case(**changes)
    found = dict(priced(given, interleaved=True))
    assert {split.again for split in found} == set(POLICIES)
    assert max(split.chunks for split in found) > 1
    for split, step_s in list(found.items())[::5]:
        one = case_of(as_row(given.row, split), described_run)
        assert step_s == pytest.approx(predict(one).time_s, rel=1e-9), split.words


def test_splits_use_all_devices_and_divide_the_batch() -> None:
    given = row(devices=16, dp=4, global_batch=8)
    found = list(splits(given, 8, interleaved=True))
    assert len(set(found)) == len(found)
    for split in found:
        assert split.tensor * split.pipeline * split.data == 16
        assert 8 % split.tensor == 0
        assert 8 % split.data == 0
        assert split.pipeline * split.chunks <= given.layers
    assert {split.chunks for split in splits(given, 8, interleaved=False)} == {1}


def test_the_place_counts_what_is_predicted_faster() -> None:
    (choice,) = jobs(*MEASURED)
    found, best = rank(choice), choice.best.predicted
    everything = dict(priced(best.case, interleaved=False))
    assert found.splits == len(everything)
    assert found.position == 1 + sum(s < best.time_s for s in everything.values())
    assert everything[found.first] == min(everything.values())
    assert found.behind == pytest.approx(best.time_s / everything[found.first] - 1)


def test_a_measured_split_counts_though_it_is_not_predicted_to_fit() -> None:
    small = {"layers": 2, "hidden": 16384, "heads": 16, "ffn_hidden": 65536, "vocab": 50000, "zero": "0"}
    found = ranked(*({**change, **small} for change in MEASURED))
    # 6.4 billion weights a layer, of which no device holds both
    assert found.first.tensor * found.first.pipeline > 1
    assert 1 < found.position <= found.splits


def test_validate_prints_ranks_on_request(tmp_path) -> None:
    rows = [
        row(id=f"r{i}", global_batch=16, measured={"step_time_s": 1.0 + i}, **change).model_dump(exclude_unset=True)
        for i, change in enumerate(MEASURED)
    ]
    path = tmp_path / "runs.yaml"
    path.write_text(json.dumps(rows, default=lambda value: value.model_dump(exclude_unset=True)))

    def printed(*options: str) -> str:
        return CliRunner().invoke(app, ["validate", str(path), *options], catch_exceptions=False).stdout

    (each,) = json.loads(printed("--json", "--ranks"))["choices"]["each"]
    assert each["rank"]["position"] <= each["rank"]["of"]
    assert f"r0 is number {each['rank']['position']} of {each['rank']['of']}" in printed("--ranks")
    assert json.loads(printed("--json"))["choices"]["each"][0]["rank"] is None
    assert "is number" not in printed()
