"""Files made to break the reader: bombs, depth, odd bytes, odd types. Only errors of ours come out, short and soon."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from cluster_samples import MIXED
from hypothesis import example, given
from hypothesis import strategies as st
from plan_samples import uniform

from nebula import marked_yaml, units
from nebula.cluster.dump import dump_cluster
from nebula.cluster.paddle_json import to_paddle
from nebula.cluster.schema import load_cluster
from nebula.errors import BadInput, shown
from nebula.marked_yaml import MOST_LEVELS, MOST_REPEATS, parse
from nebula.plan.files import dumps, load_plan, loads
from nebula.plan.run_file import load_run, with_overrides

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
PLAN = json.loads(dumps(uniform(data=2, tensor=2, boundaries=(0, 2, 4))))
del PLAN["checksum"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BOMB, f"repeat more than {MOST_REPEATS:,} values"),
        ("a: &a [*a]", "an alias stands inside of what it names"),
        ("a: &a {b: *a}", "an alias stands inside of what it names"),
        ("[" * 100_000, f"nested deeper than {MOST_LEVELS} levels"),
        ("{a: " * 100_000, f"nested deeper than {MOST_LEVELS} levels"),
        ("- " * 1000 + "a", f"nested deeper than {MOST_LEVELS} levels"),
        ("".join(" " * n + "a:\n" for n in range(1000)), f"nested deeper than {MOST_LEVELS} levels"),
        ('a: !!python/object/apply:os.system ["true"]', "has no meaning here"),
        ("a: !!int ''", "has no meaning here"),
        ("a: !secret b", "has no meaning here"),
        ("yes: 3", "a key must be text or a whole number; put it in quotes"),
        ("? [a]\n: b", "a key must be text or a whole number"),
        ("null: 3", "a key must be text or a whole number"),
        ("a: " + "9" * 5000, "more digits than can be read"),
        ("? " + "9" * 5000, "more digits than can be read"),
        ("a: \x00", "a character (code 0) that no text has"),
        ("a: \ud800", "not Unicode"),
        ("\tname: a", "indent with spaces, not tabs"),
        ("a:\n\tb: c", "indent with spaces, not tabs"),
        ("a: *b", "undefined alias"),
        ("a: 1\n---\nb: 2", "another document"),
    ],
)  # fmt: skip
def test_what_no_file_of_ours_holds_is_refused(text, sentence):
    with pytest.raises(BadInput, match=r"^f") as caught:
        parse(text, "f")
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 600


def test_aliases_and_merges_are_fine_in_moderation():
    document = parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]", "f")
    assert document.value == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}] * 2}
    assert parse("name: 2024-13-99\nx: =", "f").value == {"name": "2024-13-99", "x": "="}


def odd_paths(folder: Path) -> dict[str, Path]:
    (folder / "latin").write_bytes("a: é".encode("latin1"))
    (folder / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    return {
        "there is no such": folder / "none",
        "directory": folder,
        "No such device": folder / "socket",
        "levels of symbolic links": folder / "loop",
        "text": folder / "latin",
        "larger than 64 MiB": Path("/dev/zero"),
        "null byte": Path("a\0b"),
        "name too long": Path("a" * 5000),
    }


@pytest.mark.parametrize("load", [load_cluster, load_run, load_plan])
def test_what_is_no_file_is_one_sentence(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for sentence, path in odd_paths(tmp_path).items():
        with pytest.raises(BadInput) as caught:
            load(path)
        assert sentence in str(caught.value)


def test_a_mark_of_byte_order_is_no_damage(tmp_path):
    for name, text, load in (("c.yaml", MIXED, load_cluster), ("p.json", json.dumps(PLAN), load_plan)):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert load(tmp_path / name)


@pytest.mark.parametrize(
    ("right", "wrong", "sentence"),
    [
        ("count: 8,", "count: true,", "true is not a number"),
        ("count: 8,", "count: 99999999999999999,", "nodes[0].count must be below 1e+15"),
        ("count: 8,", "count: 99999999,", "devices are more than the 1,000,000 that a cluster may have"),
        ("count: 8,", "count: .nan,", "must be a finite number, not nan"),
        ("300GB/s", "1e999999999GB/s", "must be finite"),
        ("300GB/s", "1e-300", "must be at least 1, not"),
        ("latency: 5us", "latency: 1e300", "must be at most 86400, not"),
        ("bf16: 156e12", "bf16: 1e-300", "must be at least 1e+06, not"),
        ("300GB/s", "٣GB/s", "is not a rate"),
        ("300GB/s", "1__0GB/s", "is not a rate"),
        ("300GB/s", "null", "nothing is not a rate"),
        ("300GB/s", '"' + "9" * 5000 + '"', "must be finite"),
        ("name: mixed", 'name: ""', "name must be at least 1 character long"),
        ("name: mixed", "name: " + "x" * 201, "name must be at most 200 characters long"),
        ("name: fast", r'name: "a\e[31mb"', "must be one line of printable text"),
        ("name: fast", r'name: "a\nb"', "must be one line of printable text"),
    ],
)  # fmt: skip
def test_an_odd_value_is_one_sentence_with_its_place(right, wrong, sentence, tmp_path):
    path = tmp_path / "c.yaml"
    assert right in MIXED
    path.write_text(MIXED.replace(right, wrong, 1))
    with pytest.raises(BadInput) as caught:
        load_cluster(path)
    assert sentence in str(caught.value)
    assert "c.yaml:" in str(caught.value)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda v: v.update(micro_batches=10**15), "not a number of more than 15 digits"),
        (lambda v: v.update(bound_s=10**400), "not a number of more than 15 digits"),
        (lambda v: v.update(because="\ud800"), "one line of printable text"),
        (lambda v: v.update(because="a\x1b[31m"), "one line of printable text"),
        (lambda v: v["ranks"].clear(), "a plan needs at least one rank"),
        (lambda v: v.update(format="nebula-plan/" + "9" * 5000), "no plan file"),
        (lambda v: v.update(stages=[[[]]]), "stages[0]: this must be a mapping"),
    ],
)
def test_an_odd_plan_is_one_sentence(edit, sentence):
    value = json.loads(json.dumps(PLAN))
    edit(value)
    with pytest.raises(BadInput, match=r"^plan\.json") as caught:
        loads(json.dumps(value), "plan.json")
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_key_that_stands_twice_in_a_plan_is_noticed():
    text = json.dumps(PLAN).replace('"micro_batches": 2', '"micro_batches": 2, "micro_batches": 4')
    with pytest.raises(BadInput, match="the key 'micro_batches' stands twice"):
        loads(text, "plan.json")


@pytest.mark.parametrize("text", ["job.steps=" + "[" * 100_000, "job.steps=\udcff", ".".join("a" * 3000) + "=1"])
def test_an_odd_override_is_one_sentence(text):
    with pytest.raises(BadInput, match=r"^override ") as caught:
        with_overrides(parse("job: {}", "f"), [text])
    assert len(str(caught.value)) < 300


def test_what_is_quoted_is_cut():
    assert len(shown("x" * 10**6)) <= 80
    assert shown(10**5000) == "a number of more than 15 digits"


# what mistakes in YAML and JSON are made of
PIECES = [
    "name: ",
    "nodes",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "\n",
    "  ",
    "\t",
    "&a ",
    "*a",
    "!!int ",
    "|",
    "> ",
    '"',
    "'",
]
PIECES += [
    "#",
    "? ",
    "<<: ",
    "---\n",
    "%YAML 1.1\n",
    "null",
    "true",
    "1e9",
    ".nan",
    "0x1F",
    "1:30",
    "2024-01-01",
    "é",
    "\x07",
]
PIECES += ["count", "80GiB", "\\", "@", "`", "=", "~", "\ufeff", "\u2028", "9" * 30]  # fmt: skip
mess = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=30).map("".join)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(PIECES)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3)
)


def only_ours(call, *arguments):
    """Calls; an error of ours is an answer, any other one fails the test."""
    try:
        return call(*arguments)
    except BadInput:
        return None


@given(mess)
@example("\ufeff\ufeff")
def test_no_text_breaks_the_reader(text):
    only_ours(parse, text, "f")


@given(st.binary(max_size=40))
def test_no_bytes_break_the_readers(content):
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"nebula-hostile-{os.getpid()}"
    path.write_bytes(content)
    try:
        only_ours(marked_yaml.read, path)
        only_ours(load_plan, path)
    finally:
        path.unlink()


@st.composite
def edits(draw: st.DrawFn, value):
    """A copy of plain data with one place replaced by anything, or left out."""
    value = json.loads(json.dumps(value))
    node = value
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = draw(st.sampled_from(list(keys)))
        if isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 9)):
            node = node[key]
            continue
        if draw(st.booleans()):
            node[key] = draw(anything)
        else:
            del node[key]
        return value


CLUSTER = parse(MIXED, "f").value
RUN = {
    "model": {"layer": "a.b:c", "inputs": {"x": {"shape": ["rows", 4], "dtype": "int64"}}, "seq_len": 4},
    "cluster": CLUSTER,
    "job": {"global_batch": 8, "precision": "bf16", "optimizer": "adamw", "tokens": "1G", "steps": 3},
    "objective": {"limits": {"deadline": "3d"}, "fixed": {"tensor": 2}, "exclude": ["old/3"]},
}


@given(edits(CLUSTER))
def test_no_edit_of_a_cluster_breaks_the_reader(value):
    only_ours(load_cluster, value)


TWO = {"name": "n", "count": 2, "device": "A100-80GB-SXM", "devices_per_node": 2}
LINKS = {"intra": {"kind": "nvlink", "bandwidth": "300GB/s"}, "nic": {"bandwidth": "200Gb/s"}}
PADDLE = to_paddle(load_cluster({"name": "c", "nodes": [TWO | LINKS]}))


@given(edits(PADDLE))
def test_no_edit_of_paddles_cluster_json_breaks_the_reader(value):
    if isinstance(value, dict) and "machines" in value:
        cluster = only_ours(load_cluster, value)
        assert cluster is None or load_cluster(parse(dump_cluster(cluster), "f")).device_count == cluster.device_count


@given(edits(RUN))
def test_no_edit_of_a_run_breaks_the_reader(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "hostile-run.yaml"
    try:
        path.write_text(json.dumps(value), encoding="utf-8")
    except TypeError:  # keys that JSON does not know
        return
    only_ours(load_run, path)


@given(edits(PLAN))
def test_no_edit_of_a_plan_breaks_the_reader(value):
    try:
        text = json.dumps(value)
    except TypeError:
        return
    only_ours(loads, text, "plan.json")


@given(
    st.text(max_size=12) | st.from_regex(r"\A[+-]?[0-9_.]{0,6}([eE][+-]?[0-9]{1,12})?[ ]?[A-Za-zµ/]{0,5}\Z") | anything
)
@pytest.mark.parametrize("read", [units.parse_bytes, units.parse_rate, units.parse_seconds, units.parse_quantity])
def test_no_text_breaks_a_unit(read, text):
    value = only_ours(read, text)
    assert value is None or value - value == 0


@given(
    st.lists(
        mess | st.sampled_from(["job.steps", "cluster.nodes.0", "model"]).flatmap(lambda k: mess.map(f"{k}=".__add__)),
        max_size=2,
    )
)
def test_no_override_breaks_the_reader(overrides):
    only_ours(with_overrides, parse("job: {steps: 1}\nmodel: {}\ncluster: {nodes: [{}]}", "f"), overrides)
