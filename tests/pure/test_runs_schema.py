"""Runs files: published rows load quickly, and what is wrong with a row is said with its id, field and place."""

from __future__ import annotations

import re
import time

import pytest
import yaml

from nebula.cost_model.runs.schema import partition_of, read_rows, rows_of
from nebula.errors import BadInput
from nebula.marked_yaml import plain
from tests.pure.runs_samples import SMALL, document, published, row, rows


def text(**changes) -> str:
    return yaml.safe_dump([{k: v for k, v in {**SMALL, **changes}.items() if v != "absent"}], sort_keys=False)


def test_published_rows_load() -> None:
    found = published()
    assert len(found) == 36
    assert {r.kind for r in found} == {"step", "layer", "mixed_cluster"}
    assert all(r.origin != "unknown" for r in found)


def test_unknown_keys_are_kept_and_ignored() -> None:
    (found,) = rows(text(colour="blue", measured={"step_time_s": 1.0, "watts": 300}))
    assert found.model_extra == {"colour": "blue"}
    assert found.measured.model_extra == {"watts": 300}


def test_what_may_be_left_out_has_its_plain_meaning() -> None:
    (found,) = rows(text(vpp=None, ep=None))
    assert (found.vpp, found.cp, found.ep, found.sequence_parallel) == (1, 1, 1, False)
    assert found.kv_heads is None


@pytest.mark.parametrize("key", ["hidden", "heads", "precision", "micro_batch", "measured", "device"])
def test_a_missing_key_names_the_row_and_what_to_add(key: str) -> None:
    with pytest.raises(BadInput, match=rf"row 'small'.*runs\.yaml:1.*the key '{key}' is missing; add `{key}: "):
        rows(text(**{key: "absent"}))


@pytest.mark.parametrize("key", ["vocab", "global_batch", "devices", "tp"])
def test_a_step_needs_its_split_and_batch(key: str) -> None:
    with pytest.raises(BadInput, match=f"row 'small'.*the key '{key}' is missing"):
        rows(text(**{key: "absent"}))


def test_a_layer_needs_no_batch_and_no_split() -> None:
    absent = dict.fromkeys(("vocab", "global_batch", "devices", "pp", "dp", "layers"), "absent")
    (found,) = rows(text(kind="layer_shard", tp=8, measured={"layer_fwd_ms": 1.0}, **absent))
    assert (found.tp, found.devices, found.batch) == (8, 1, 1)


def test_a_split_that_does_not_multiply_out_prints_its_equation() -> None:
    with pytest.raises(BadInput, match=r"row 'small': .*tp 2 × pp 2 × dp 2 × cp 2 = 16 ≠ devices 8"):
        rows(text(cp=2))


def test_a_batch_that_does_not_divide_prints_its_equation() -> None:
    with pytest.raises(BadInput, match=r"global_batch 9 % \(micro_batch 1 × dp 2\) = 1"):
        rows(text(global_batch=9))


def test_wrong_kinds_say_where() -> None:
    with pytest.raises(BadInput, match=r"row 'small': runs\.yaml:4:\d+: hidden must be a whole number, not 'wide'"):
        rows(text(hidden="wide"))
    with pytest.raises(BadInput, match="a runs file is a list of rows"):
        rows("id: alone")
    with pytest.raises(BadInput, match="row 'small' stands in the file twice"):
        rows(text() + text())
    with pytest.raises(BadInput, match="row number 1"):
        rows("- 3")
    with pytest.raises(BadInput, match=r"step_time_s must be above 0"):
        rows(text(measured={"step_time_s": 0}))


def test_all_that_is_wrong_is_said_at_once_and_the_other_rows_are_kept() -> None:
    good = text(id="good")
    found = read_rows(
        document(text(hidden="absent", vocab="absent", measured={"step_time_s": "fast"}) + good + "- 3\n")
    )
    assert [r.id for r in found.rows] == ["good"]
    assert [f.id for f in found.faults] == ["small", "number 3"]
    first = "\n".join(found.faults[0].sentences)
    for part in ("'hidden' is missing", "'vocab' is missing", "step_time_s must be a number, not 'fast'"):
        assert part in first
    assert all(s.startswith("row 'small': runs.yaml:") for s in found.faults[0].sentences)
    with pytest.raises(BadInput, match=r"(?s)'hidden' is missing.*row number 3"):
        rows_of(document(text(hidden="absent") + good + "- 3\n"))


def test_contradictions_of_one_row_are_said_together() -> None:
    (fault,) = read_rows(document(text(dp=3, global_batch=7, kv_heads=3))).faults
    assert len(fault.sentences) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden": 2**40}, "hidden must be at most"),
        ({"layers": 10**9}, "layers must be at most"),
        ({"devices": 10**9}, "devices must be at most"),
        ({"hidden": True}, "hidden: true is not a number"),
        ({"measured": {"step_time_s": True}}, "step_time_s: true is not a number"),
        ({"measured": {"step_time_s": float("inf")}}, "step_time_s must be"),
        ({"measured": {"step_time_s": -1}}, "step_time_s must be above 0, not -1"),
        ({"measured": {"peak_mem_gib": "2 GB"}}, "peak_mem_gib must be a number, not '2 GB'"),
        ({"measured": {}}, "'measured' holds no figure"),
        ({"kind": "layer", "devices": 2}, "tp 2 × pp 2 × dp 2 × cp 1 = 8 > devices 2"),
        ({"id": ""}, "id must be at least 1 character long"),
        ({"id": 5}, "id must be text, not 5"),
    ],
)
def test_numbers_that_cannot_be_are_refused_with_row_and_field(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadInput, match=re.escape(sentence)):
        rows(text(**changes))


@pytest.mark.parametrize("given", ["", "\n# nothing\n", "[]", "runs:\n- id: a\n", "hello"])
def test_a_file_without_rows_is_refused(given: str) -> None:
    with pytest.raises(BadInput, match=r"runs\.yaml.*(is a list of rows|at least one row)"):
        rows(given)


def test_a_layer_without_a_count_of_devices_has_those_of_its_split() -> None:
    (found,) = rows(text(kind="layer", devices="absent", pp=1, dp=1, tp=8, measured={"layer_fwd_ms": 1.0}))
    assert found.devices == 8


@pytest.mark.parametrize("given", [["a"], "0, 1.5", [None], [0, -3]])
def test_a_partition_of_something_else_is_refused(given: object) -> None:
    with pytest.raises(BadInput, match="is not a whole number of layers"):
        partition_of(row(stage_partition=given))


@pytest.mark.parametrize("given", [[0, 3, 6], "[0, 3, 6]", "0, 3, 6"])
def test_a_partition_is_a_list_or_a_text_of_one(given: object) -> None:
    assert partition_of(row(stage_partition=given)) == (0, 3, 6)


def test_a_thousand_rows_load_within_three_seconds() -> None:
    many = [{**SMALL, "id": f"r{i}"} for i in range(1000)]
    start_s = time.process_time()
    assert len(rows(yaml.dump(many, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))) == 1000
    assert time.process_time() - start_s < 3
    assert len(rows_of(plain_list(many))) == 1000


def plain_list(values):
    return type(plain({}, "data"))(value=values, source="data", marks={}, folder=plain({}, "data").folder)
