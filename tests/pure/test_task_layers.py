"""ERNIE's task modules, small layers behind large ones, are dealt to stages as each device type prefers."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from nebula.cluster.schema import load_cluster
from nebula.cost_model.evaluate import evaluate
from nebula.cost_model.fleet import Pricing
from nebula.models.describe import graph
from nebula.plan.job import Objective
from nebula.plan.values import Job
from nebula.planner.placed_answer import placed_search

TYPES = {"Ascend-910": "30GB/s", "A100-80GB-SXM": "300GB/s", "H100-80GB-SXM": "450GB/s"}
"""Device types with the links inside of their nodes."""

EVEN_PCT = {"Ascend-910": 13.8, "A100-80GB-SXM": 13.7, "H100-80GB-SXM": 6.4}
"""By how much a step takes longer where each stage has as many layers, as docs/placement.md says."""

JOB = Job(global_batch=256, precision="fp16")
ERNIE = graph("ernie-3.0-10b", dtype="float16")
TASKS = [i for i, name in enumerate(ERNIE.layer_names) if name.startswith("task")]
UNIVERSAL = [i for i, name in enumerate(ERNIE.layer_names) if name.startswith("universal")]


def where(device):
    """Two nodes of eight."""
    nodes = {
        "name": "n",
        "count": 2,
        "device": device,
        "devices_per_node": 8,
        "intra": {"kind": "link", "bandwidth": TYPES[device]},
        "nic": {"count": 8, "bandwidth": "100Gb/s"},
    }
    return load_cluster({"name": device, "nodes": [nodes]})


@pytest.fixture(scope="module")
def plans():
    fixed = {"tensor": 4, "pipeline": 4, "data": 1, "micro_batch_rows": 1, "recompute": "selective"}
    return {device: placed_search(ERNIE, where(device), JOB, Objective(fixed=fixed)).plan for device in TYPES}


def dealt(own, boundaries):
    """The same plan with layers dealt at those boundaries."""
    runs = pairwise(boundaries)
    return replace(own, stages=tuple(replace(s, layers=run) for s, run in zip(own.stages, runs, strict=True)))


def bounds(own):
    return (0, *(stage.layers[1] for stage in own.stages))


def test_each_type_deals_them_differently_and_every_other_deal_is_slower_there(plans):
    assert [len(set(map(bounds, plans.values()))), len(ERNIE.layer_names)] == [3, 63]
    for device, own in plans.items():
        for other in plans.values():
            if other is not own:
                taken = evaluate(ERNIE, where(device), dealt(own, bounds(other)))
                assert taken.step_time_s > own.prediction.step_time_s


def test_a_deal_by_number_is_slower_on_every_type(plans):
    for device, own in plans.items():
        even = evaluate(ERNIE, where(device), dealt(own, (0, 16, 32, 47, 63)))
        more_pct = 100 * (even.step_time_s / own.prediction.step_time_s - 1)
        assert more_pct == pytest.approx(EVEN_PCT[device], abs=0.05)


def test_the_last_stage_holds_more_where_small_layers_cost_less_beside_large_ones(plans):
    """A task layer is worth so many universal layers, by the cost model on one device of the type."""
    worth, held = [], []
    for device, own in plans.items():
        pricing = Pricing(ERNIE, where(device), JOB)
        levels = pricing.fabric.levels(range(4))
        kind = where(device).groups[0].device
        chain = pricing.spans(rows=1, tensor=4, levels=levels, sequence=False, device=kind, policy="selective").chain
        seconds = chain.forward_total_s + chain.backward_total_s
        worth.append(float(np.mean(seconds[TASKS]) / np.mean(seconds[UNIVERSAL])))
        first, last = own.stages[-1].layers
        held.append(last - first)
    assert worth == sorted(worth)
    assert held == sorted(held, reverse=True)
    assert all(set(TASKS) <= set(range(*own.stages[-1].layers)) for own in plans.values())
