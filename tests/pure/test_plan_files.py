"""Plan files: what is written is read back; damage, edits, other versions and other types are refused in a sentence."""
# ruff: noqa: E501 (tables of mistakes, one a row)

import json
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_samples import plans, uniform

from nebula.errors import BadInput
from nebula.plan.files import check_made_for, dumps, load_plan, loads, save_plan
from nebula.plan.values import MadeFrom, RankPlace, Sharding

PLAN = uniform(data=2, tensor=2, boundaries=(0, 1, 4), because="it fits — 最快")
TEXT = dumps(PLAN)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(plans)
def test_what_is_written_is_read_back(plan):
    assert loads(dumps(plan), "plan.json") == plan


def test_the_keys_that_others_rely_on():
    value = json.loads(TEXT)
    assert value["format"] == "nebula-plan/1"
    assert next(iter(value)) == "format"
    stage = value["stages"][0]
    assert set(stage) == {
        "layers",
        "replicas",
        "context",
        "expert",
        "sharding",
        "recompute",
        "offload",
        "recompute_layers",
        "exchange",
    }
    assert set(stage["replicas"][0]) == {"ranks", "tensor_shares", "micro_batch_rows"}
    assert value["ranks"][3] == {"node": "n/0", "device": 3}
    assert {"micro_batches", "schedule", "engine", "made_from"} <= set(value)


def test_people_can_read_it():
    assert '        {"ranks": [0, 1], "tensor_shares": [1, 1], "micro_batch_rows": 2},\n' in TEXT
    assert "最快" in TEXT
    large = uniform(data=240, tensor=8, ranks=tuple(RankPlace(f"n/{r // 8}", r % 8) for r in range(1920)))
    assert max(map(len, dumps(large).splitlines())) <= 121


@settings(deadline=None, max_examples=40)
@given(st.integers(0, len(TEXT.rstrip()) - 1))
def test_a_file_that_was_cut_off_is_refused(length):
    with pytest.raises(BadInput, match=r"plan\.json"):
        loads(TEXT[:length], "plan.json")


@settings(deadline=None, max_examples=80)
@given(st.integers(0, len(TEXT) - 2), st.characters(codec="ascii", exclude_categories=["C"]))
def test_one_changed_character_is_refused_or_changes_nothing(place, character):
    changed = TEXT[:place] + character + TEXT[place + 1 :]
    try:
        read = loads(changed, "plan.json")
    except BadInput:
        return
    assert read == PLAN


def edited(right, wrong):
    """The file with an edit and without its checksum, as after an edit by hand."""
    value = json.loads(TEXT)
    del value["checksum"]
    text = json.dumps(value, indent=1)
    assert right in text
    return text.replace(right, wrong, 1)


@pytest.mark.parametrize(
    ("right", "wrong", "sentence"),
    [
        ('"micro_batches"', '"micro_batchs"', "unknown key 'micro_batchs'; did you mean 'micro_batches'?"),
        ('"micro_batches": 2', '"micro_batches": 2.5', "micro_batches: this must be a whole number, not 2.5"),
        ('"micro_batches": 2', '"micro_batches": true', "this must be a whole number, not True"),
        ('"micro_batches": 2,', "", "the key 'micro_batches' is missing; add it"),
        ('"engine": "fleet"', '"engine": 3', "engine: this must be text, not 3"),
        ('"sequence_parallel": false', '"sequence_parallel": 0', "this must be true or false, not 0"),
        ('"tensor_shares": [', '"tensor_shares": [[1], ', "this must be a whole number, not a list"),
        ('"layers": [', '"layers": [7, ', "stages[0].layers: this must be a list of 2, not of 3"),
        ('"tokens": 0.0', '"tokens": null', "job.tokens: this must be a number, not nothing"),
        ('"tokens": 0.0', '"tokens": NaN', "NaN is no number"),
        ('"nebula-plan/1"', '"nebula-plan/7"', "written by a newer Nebula as nebula-plan/7, this one reads nebula-plan/1"),
        ('"nebula-plan/1"', '"nebula-plan/0"', "written by an older Nebula"),
        ('"format"', '"fromat"', "no plan file"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_one_sentence(right, wrong, sentence):
    with pytest.raises(BadInput) as caught:
        loads(edited(right, wrong), "plan.json")
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("plan.json")


def test_an_error_shows_the_line():
    with pytest.raises(BadInput) as caught:
        loads(edited('"schedule"', '"shedule"'), "plan.json")
    _, line, caret = str(caught.value).splitlines()
    assert line[caret.index("^") : caret.rindex("^") + 1] == '"shedule"'


def test_an_edit_behind_the_checksum_is_noticed_and_one_by_hand_is_allowed():
    with pytest.raises(BadInput, match="checksum does not match"):
        loads(TEXT.replace('"micro_batches": 2', '"micro_batches": 4'), "plan.json")
    assert loads(edited('"micro_batches": 2', '"micro_batches": 4'), "plan.json").micro_batches == 4


def test_empty_stages_and_other_files():
    for text, sentence in (
        (edited('"stages": [', '"stages": [], "x": ['), "unknown key 'x'"),
        ("[]", "it holds no mapping"),
        ("", "damaged or cut off"),
        ("[" * 100_000, "damaged"),
    ):
        with pytest.raises(BadInput, match=r"plan\.json") as caught:
            loads(text, "plan.json")
        assert sentence in str(caught.value)
    value = json.loads(TEXT)
    del value["checksum"]
    for place, emptied in ((value, "stages"), (value["stages"][0], "replicas")):
        kept, place[emptied] = place[emptied], []
        with pytest.raises(BadInput, match="needs at least one"):
            loads(json.dumps(value), "plan.json")
        place[emptied] = kept


def test_files_are_whole_and_never_replaced_silently(tmp_path):
    path = tmp_path / "plan.json"
    save_plan(PLAN, path)
    save_plan(PLAN, path)
    assert load_plan(path) == PLAN
    other = uniform(data=4)
    with pytest.raises(BadInput, match="exists and holds something else"):
        save_plan(other, path)
    assert load_plan(path) == PLAN
    save_plan(other, path, overwrite=True)
    assert load_plan(path) == other
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(BadInput, match="there is no such plan file"):
        load_plan(tmp_path / "none.json")
    with pytest.raises(BadInput, match="cannot be written"):
        save_plan(PLAN, tmp_path / "no folder" / "plan.json")
    with pytest.raises(BadInput, match="cannot be read"):
        load_plan(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read"):
        load_plan(tmp_path / "binary")


def test_a_plan_for_another_model_or_cluster_is_refused_with_both_names():
    made = PLAN.made_from
    check_made_for(PLAN, made.model_hash, made.cluster_hash)
    with pytest.raises(BadInput, match=r"model small \(0123456789ab\), this one is large \(ffffffffffff\)"):
        check_made_for(PLAN, "f" * 12, made.cluster_hash, model="large")
    with pytest.raises(BadInput, match=r"cluster four \(ba9876543210\), this one is \? \(ffffffffffff\)"):
        check_made_for(PLAN, made.model_hash, "f" * 12)
    by_hand = uniform(made_from=MadeFrom(model="", model_hash="", cluster="", cluster_hash=""))
    check_made_for(by_hand, "f" * 12, "f" * 12)
    assert loads(edited('"because": "', '"because": "by hand, '), "plan.json").because.startswith("by hand")


def test_sharding_comes_back():
    plan = uniform(data=4, sharding=Sharding(stage=2, degree=4))
    assert loads(dumps(plan), "p").stages[0].sharding == Sharding(stage=2, degree=4)
