"""The examples in the docstrings of cost model, planner and schedules hold."""

import doctest
import importlib

import pytest

MODULES = (
    *("cost_model.compute", "cost_model.memory", "cost_model.held", "cost_model.sharding"),
    *("cost_model.goodput", "cost_model.repair", "plan.conditions"),
    *("planner.space", "planner.stages", "cost_model.calibration.parameters", "report.parameter_table"),
    *("plan.schedule", "plan.action_orders", "planner.switching", "cli.search_bar"),
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name):
    found = doctest.testmod(importlib.import_module(f"nebula.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
