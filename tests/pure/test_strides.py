"""Where groups of ranks meet on pools that repeat: what is looked up once is what listing every group finds."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nebula.cluster.schema import load_cluster
from nebula.cost_model.communication import Fabric
from nebula.cost_model.traffic import Axes, paired, stage_axes
from nebula.planner.explore.mixed import roomy_layers_s
from nebula.planner.explore.pools import pools_of
from nebula.planner.explore.strides import Strides, strides_of

TIERS = (
    {"name": "leaf", "nodes": 2, "latency": "6us"},
    {"name": "pod", "nodes": 6, "oversubscription": 2, "latency": "8us"},
    {"name": "core", "oversubscription": 3, "latency": "10us"},
)


def mixed(per_node: int):
    """Twelve nodes of one type and six of another below three tiers."""
    return load_cluster(
        {
            "name": "mixed",
            "nodes": [
                {
                    "name": device.lower(),
                    "count": count,
                    "device": device,
                    "devices_per_node": per_node,
                    "intra": {"kind": "nvswitch", "bandwidth": bus, "latency": "5us"},
                    "nic": {"count": per_node, "bandwidth": "200Gb/s", "kind": "infiniband"},
                }
                for device, count, bus in (("A100-80GB-SXM", 12, "300GB/s"), ("V100-32GB-SXM3", 6, "150GB/s"))
            ],
            "network": {"tiers": list(TIERS)},
        }
    )


def random_stage(rng: random.Random, devices: int):
    """Degrees of a stage on at most so many devices, and its first one."""
    while True:
        tensor, context, data = (rng.choice((1, 2, 3, 4, 6, 8)) for _ in range(3))
        ranks = tensor * context * data
        if ranks <= devices // 2:
            shard = rng.choice([d for d in range(1, data + 1) if data % d == 0])
            return data, context, tensor, shard, rng.choice((1, 2, 4, 6, 16)), rng.randrange(devices - 2 * ranks + 1)


@pytest.mark.parametrize("per_node", [2, 4, 6])
def test_groups_that_repeat_meet_where_all_of_them_do(per_node):
    on, rng = mixed(per_node), random.Random(per_node)
    fabric, pools = Fabric(on), pools_of(on)
    assert all(pools.periods)
    known = Strides(fabric, pools)
    for _ in range(200):
        pool = rng.randrange(2)
        data, context, tensor, shard, expert, at = random_stage(rng, len(pools.devices[pool]))
        ranks = data * context * tensor
        first = int(pools.devices[pool][at])
        grid, behind = (np.arange(n, n + ranks).reshape(data, context, tensor) for n in (first, first + ranks))
        degrees = {"shard": shard, "expert": expert, "same_tokens": expert == 1 and rng.random() < 0.5}
        strides = strides_of(data=data, context=context, tensor=tensor, **degrees)
        found = Axes(**known.axes(pool, first, ranks, strides), pair=known.pair(pool, first, pool, ranks, ranks))
        assert found == stage_axes(grid, **degrees, expert_tensor=1, behind=behind, fabric=fabric)


def test_stages_of_two_types_meet_where_all_pairs_do():
    on, rng = mixed(4), random.Random(0)
    fabric, pools = Fabric(on), pools_of(on)
    known = Strides(fabric, pools)
    for _ in range(100):
        ranks = rng.randrange(1, 25)
        first, second = (int(own[rng.randrange(len(own) - ranks + 1)]) for own in pools.devices)
        grid, behind = (np.arange(n, n + ranks).reshape(ranks, 1, 1) for n in (first, second))
        assert known.pair(0, first, 1, second - first, ranks) == paired(grid, behind, fabric)


def test_equal_layers_are_never_dealt_faster_than_told():
    rng = random.Random(1)
    for _ in range(200):
        alike = [(rng.randrange(1, 5), rng.uniform(0.1, 3.0)) for _ in range(rng.randrange(1, 4))]
        layers = rng.randrange(1, 40)
        each_s = [s for count, s in alike for _ in range(count)]
        done_s = [0.0] * len(each_s)
        for _ in range(layers):
            soonest = min(range(len(each_s)), key=lambda i: done_s[i] + each_s[i])
            done_s[soonest] += each_s[soonest]
        least_s = roomy_layers_s(layers, alike)
        assert least_s <= max(done_s) * (1.0 + 1e-12)
        assert least_s >= layers / sum(1.0 / s for s in each_s) * (1.0 - 1e-12)
