"""A plan for unlike devices is never slower than its best part alone, nor than all devices as the slowest of them."""

from dataclasses import replace

import pytest

from nebula.models.describe import decoder_graph
from nebula.plan.job import Objective
from nebula.plan.legality import violations
from nebula.planner.explore.baselines import alone, as_slowest, told
from nebula.planner.explore.joint import joint
from nebula.planner.explore.openings import TOLERANCE
from nebula.planner.explore.search import explore
from tests.pure.decoder_samples import GROUPED
from tests.pure.test_explore import DENSE, EXPERTS, JOB, cluster, device, mixed_cluster

BUSY = {"peak_flops": {"float32": 2e8}, "memory_bytes_per_s": 2e7, "kernel_s": 1e-7}
"""Rates at which a small model keeps a device busy."""


def never(_):
    return False


def types(*kinds):
    """A node of two devices of each type."""
    groups = []
    for number, kind in enumerate(kinds):
        group = cluster(1, 2, kind=device(**{**BUSY, **kind, "name": f"type {number}"})).groups[0]
        groups.append(replace(group, name=f"g{number}"))
    return replace(cluster(1, 2), groups=tuple(groups))


HALF, QUARTER = ({"peak_flops": {"float32": 2e8 * r}, "memory_bytes_per_s": 2e7 * r} for r in (0.5, 0.25))

CASES = {
    "half as fast": (DENSE, types({}, HALF), {}),
    "a quarter as fast": (DENSE, types({}, QUARTER), {"schedule": "zb-h1"}),
    "experts": (EXPERTS, types({}, HALF), {"recompute": "none", "schedule": "1f1b"}),
    "three types": (DENSE, types({}, HALF, QUARTER), {"recompute": "none", "schedule": "1f1b"}),
    "a smaller memory": (DENSE, types({}, {"memory_bytes": 1.2e9}), {}),
    "a GPU beside an NPU": (DENSE, types({}, {"kind": "gpu", **HALF}), {}),
    "a fixed schedule": (DENSE, types({}, HALF), {"schedule": "1f1b", "recompute": "full"}),
    "a slow network": (DENSE, replace(mixed_cluster(), groups=types({}, HALF).groups), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_plan_for_all_is_never_slower_than_the_baselines(name):
    graph, on, fixed = CASES[name]
    asked = (graph, on, JOB, Objective(fixed=fixed))
    parts, slow = alone(*asked, never), as_slowest(*asked, never)
    answer = joint(explore(*asked), slow.plans, graph, on, asked[-1])
    assert not violations(answer.plan, layers=len(graph.layers), cluster=on)
    step_s = answer.plan.prediction.step_time_s
    assert len(parts) == len({group.device.name for group in on.groups})
    assert [each.step_s for each in parts] == sorted(each.step_s for each in parts)
    for each in (*parts, slow):
        assert step_s <= (1.0 + TOLERANCE) * each.step_s, each


def test_it_gains_on_both_where_the_devices_are_busy():
    on = types({}, HALF)
    asked = (decoder_graph("deep", replace(GROUPED, layers=8), dtype="float32"), on, JOB, Objective())
    answer = explore(*asked)
    step_s = answer.plan.prediction.step_time_s
    fast, slower = alone(*asked, never)
    assert (fast.where, slower.where) == ("on the 2 type 0 alone", "on the 2 type 1 alone")
    assert 1.1 * step_s < fast.step_s < slower.step_s
    assert 1.1 * step_s < as_slowest(*asked, never).step_s
    sentences = told(answer, (fast, as_slowest(*asked, never)))
    assert [sentence.endswith("% more.") for sentence in sentences] == [True, True]


def test_parts_that_do_not_hold_the_model_are_last_and_told_so():
    on = types({"memory_bytes": 0.5e9}, HALF)
    asked = (DENSE, on, JOB, Objective())
    fits, not_fits = alone(*asked, never)
    assert (fits.where, not_fits.step_s) == ("on the 2 type 1 alone", 0.0)
    assert fits.step_s > 0.0
    nowhere = types({"memory_bytes": 1e6}, {"memory_bytes": 2e6, **HALF})
    answer = explore(*asked)
    asked = (DENSE, nowhere, JOB, Objective(), never)
    first, slow = told(answer, (alone(*asked)[0], as_slowest(*asked)))
    assert first == "For comparison, on the 2 type 0 alone the model does not fit."
    assert slow == "For comparison, with all devices as slow as type 1 the model does not fit."
