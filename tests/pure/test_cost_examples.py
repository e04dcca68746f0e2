"""The examples in the docstrings of cost model and planner hold."""

import doctest
import importlib

import pytest

MODULES = (
    *("cost_model.compute", "cost_model.memory", "cost_model.held", "cost_model.sharding"),
    *("planner.space", "planner.stages"),
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name):
    found = doctest.testmod(importlib.import_module(f"nebula.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
