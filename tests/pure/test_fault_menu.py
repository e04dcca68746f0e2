"""The table of faults in docs/fault-tolerance.md: 18 of them, each a kind of `nebula chaos`, with tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from nebula.elastic.chaos.values import Kind

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "fault-tolerance.md").read_text(encoding="utf-8")


def rows(head):
    """The cells of a table's rows."""
    lines = PAGE[PAGE.index(head) :].splitlines()[2:]
    table = lines[: next(number for number, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


MENU = rows("| fault | `fault:` | test |")


def test_of(name):
    """The function of a test, by `file::name`."""
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return next(one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == function)


test_of.__test__ = False


def test_each_of_the_18_faults_is_a_kind_of_its_own():
    assert len(MENU) == len({fault for fault, _, _ in MENU}) == 18
    kinds = [Kind(kind.strip("`")) for _, kind, _ in MENU]
    assert len(set(kinds)) == 18


def test_each_has_a_test_that_is_there_and_neither_retried_nor_expected_to_fail():
    for fault, _, tests in MENU:
        names = re.findall(r"`(tests/\S+::\w+)`", tests)
        assert names, fault
        for name in names:
            marks = [ast.unparse(mark) for mark in test_of(name).decorator_list]
            assert not [mark for mark in marks if re.search("xfail|flaky|retr|rerun|skip", mark)], name


def test_those_that_need_rights_and_are_skipped_without_are_named_on_the_page():
    named = {name for _, _, tests in MENU for name in re.findall(r"`(tests/\S+::\w+)`", tests)}
    skipped = {name for name in named if "pytest.skip(" in ast.unparse(test_of(name))}
    told = PAGE[PAGE.index("Without root `tests/") :].partition("\n\n")[0]
    assert set(re.findall(r"`(tests/\S+::\w+)`", told)) == skipped


def test_every_kind_is_explained_on_the_page():
    told = {name for fault, _ in rows("| fault | what happens |") for name in re.findall(r"`(\w+)`", fault)}
    assert told == {kind.value for kind in Kind}
