"""The edit of somebody's YAML: what was asked for is there, and every other byte is as it was."""

from __future__ import annotations

import difflib
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nebula.emit import Config
from nebula.emit.yaml_edit import keys_of, set_values
from nebula.errors import BadInput

TRAINER = """\
### data 数据
train_dataset_path: "./data: {a}.jsonl"   # a path, with a colon
train_dataset_prob: "1.0"

### performance
tensor_parallel_degree: 8   # one node
pipeline_parallel_degree:
sharding: 'stage1'
amp_custom_white_list:
  - flash_attn   # kept
  - matmul

# the end
"""
SECTIONS = """\
model_args:
    model_config: {use_moe: true}   # flow
    sequence_parallel: 1
trainer_args:
    # tensor_parallel_degree: 8
    tensor_parallel_degree: 4
    gradient_accumulation_steps: 2   # of 2

    output_dir: ./output/
"""
JSON = '{\n    "model": "a",\n    "tensor_parallel_degree": 2,\n    "recompute": true\n}\n'


def edited(text, **values):
    out, changes = set_values(Config(source="theirs.yaml", text=text), values)
    return out, changes


def lines_changed(before, after):
    """Lines taken away and lines added."""
    diff = list(difflib.ndiff(before.splitlines(keepends=True), after.splitlines(keepends=True)))
    return [line[2:] for line in diff if line[0] == "-"], [line[2:] for line in diff if line[0] == "+"]


def test_values_are_replaced_in_their_lines_alone():
    out, changes = edited(TRAINER, tensor_parallel_degree=2, pipeline_parallel_degree=4, sharding="stage2")
    assert lines_changed(TRAINER, out) == (
        ["tensor_parallel_degree: 8   # one node\n", "pipeline_parallel_degree:\n", "sharding: 'stage1'\n"],
        ["tensor_parallel_degree: 2   # one node\n", "pipeline_parallel_degree: 4\n", "sharding: stage2\n"],
    )
    assert tuple(changes[0]) == ("tensor_parallel_degree", "8", "2")


def test_missing_keys_stand_below_the_last_that_is_there():
    out, _ = edited(TRAINER, tensor_parallel_degree=8, recompute=True, granularity=None, modules=["core_attn"])
    assert lines_changed(TRAINER, out) == ([], ["recompute: true\n", "granularity: null\n", 'modules: ["core_attn"]\n'])
    assert out.index("recompute") == out.index("# one node\n") + len("# one node\n")


def test_sections_keep_their_keys_and_their_indent():
    out, _ = edited(SECTIONS, sequence_parallel=True, tensor_parallel_degree=2, gradient_accumulation_steps=8, new=1)
    assert lines_changed(SECTIONS, out) == (
        ["    tensor_parallel_degree: 4\n", "    gradient_accumulation_steps: 2   # of 2\n"],
        ["    tensor_parallel_degree: 2\n", "    gradient_accumulation_steps: 8   # of 2\n", "    new: 1\n"],
    )


def test_json_stays_json():
    out, _ = edited(JSON, tensor_parallel_degree=4, recompute=False, sharding="stage1", granularity=None)
    assert yaml.safe_load(out) == {
        "model": "a",
        "tensor_parallel_degree": 4,
        "recompute": False,
        "sharding": "stage1",
        "granularity": None,
    }
    assert json.loads(out) == yaml.safe_load(out)


def test_line_ends_and_a_missing_last_one_are_kept():
    text = "a: 1 # x\r\nb: 2"
    assert edited(text, b=3, c=4)[0] == "a: 1 # x\r\nb: 3\r\nc: 4\r\n"
    assert edited("\ufeffa: 1\n", a=2)[0] == "\ufeffa: 2\n"
    assert edited("# nothing found\nx: 1", a=2)[0] == "# nothing found\nx: 1\na: 2\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: &x 1\nb: *x\n", "theirs.yaml:1: the value of a has an anchor"),
        ("b: &x 1\na: *x\n", "theirs.yaml:2: the value of a is an alias"),
        ("a:\n  - 1\n", "theirs.yaml:1: the value of a stands on several lines"),
        ("a: >\n  text\n", "several lines"),
        ("s: {a: 1}\na: 2\n", "the key a stands in lines 1 and 2"),
        ("- a\n", "holds no mapping"),
        ("a: [\n", "not YAML"),
        ("", "holds no mapping"),
    ],
)
def test_what_cannot_be_changed_by_itself_is_refused(text, sentence):
    with pytest.raises(BadInput, match=sentence):
        edited(text, a=3)


def test_braces_without_a_known_key_are_refused():
    with pytest.raises(BadInput, match="holds none of the keys"):
        edited("{x: 1}", a=2)


def test_a_section_with_an_alias_is_left_alone():
    text = "base: &b {a: 1}\nmine: *b\n"
    assert "a" not in keys_of(Config(source="s", text=text))
    assert edited(text, a=2)[0] == text + "a: 2\n"


spaces = st.text(" ", max_size=3)
comments = st.builds(
    "{} # {}".format, spaces, st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=9)
)
scalars = st.sampled_from(
    ["1", "true", "'q # q'", '"d: d"', "plain text", "1.0e-5", "~", "", "./a/b", "[1, 2]", "{x: 1}"]
)
known = st.lists(st.sampled_from(["tensor", "pipeline", "rows", "steps"]), unique=True)


@st.composite
def configs(draw):
    """The lines of a config: keys of ours and others, comments, blank lines, block lists."""
    names = draw(st.permutations([*draw(known), *(f"other{i}" for i in range(draw(st.integers(1, 4))))]))
    lines = []
    for name in names:
        lines += draw(st.lists(st.sampled_from(["", "# a comment", "#"]), max_size=2))
        lines.append(f"{name}:{draw(st.sampled_from([' ', '   ']))}{draw(scalars)}{draw(st.just('') | comments)}")
        if lines[-1].startswith("other") and draw(st.booleans()):
            lines[-1:] = [f"{name}:", "  - 1  # one", "  - {two: 2}"]
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return end.join(lines) + draw(st.sampled_from(["", end, end + "# last" + end]))


@given(
    text=configs(), values=st.dictionaries(st.sampled_from(["tensor", "pipeline", "rows", "steps"]), st.integers(1, 99))
)
def test_other_bytes_stay_and_the_values_are_there(text, values):
    before = yaml.safe_load(text)
    out, changes = edited(text, **values)
    assert yaml.safe_load(out) == before | values
    touched = {change.key for change in changes}
    kept = [line for line in text.splitlines(keepends=True) if line.partition(":")[0] not in touched]
    # a line end may have to be added behind the last line
    left = [line for line in out.splitlines(keepends=True) if line.partition(":")[0] not in touched]
    assert [line.rstrip("\r\n") for line in kept] == [line.rstrip("\r\n") for line in left]
    assert kept[:-1] == left[: len(kept) - 1]
    for line in out.splitlines():
        key, _, rest = line.partition(":")
        if key in touched and key in before:
            (old,) = (other for other in text.splitlines() if other.partition(":")[0] == key)
            assert old.endswith(rest.lstrip(" ").removeprefix(str(values[key])))
    assert edited(out, **values) == (out, ())
