import pytest

from nebula.errors import BadInput
from nebula.plan.kinds import VARIABLE, read, told


@pytest.mark.parametrize("kinds", [("gpu", "npu"), ("emulated", "emulated", "cpu"), ("cpu", "gpu", "cpu")])
def test_what_is_told_is_read(kinds):
    assert read(told(kinds), len(kinds)) == kinds


def test_ranks_alike_are_told_nothing_and_read_nothing():
    assert told(["gpu"] * 8) == {}
    assert read({}, 8) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpu*2,tpu", "'tpu' is no kind"),
        ("gpu*x", "'gpu\\*x' is no kind"),
        ("gpu*", "'gpu\\*'"),
        ("gpu*3", "names 3 dev"),
    ],
)
def test_a_mistake_is_named(text, words):
    with pytest.raises(BadInput, match=words):
        read({VARIABLE: text}, 2)
