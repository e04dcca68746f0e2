"""Moments of a step on fleet where tensors alone count: runs by hand, and what emulated devices held of real steps."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cluster.topology import Level
from nebula.cluster.values import Link
from nebula.cost_model.communication import Levels
from nebula.cost_model.evaluate import evaluate
from nebula.cost_model.groups import Groups
from nebula.cost_model.tensor_moments import LAST, STEP, OnWay, Walk, Walks, moments, on_way
from nebula.plan.layout import uniform_stages
from nebula.plan.values import Job, Plan, RankPlace, Sharding
from tests.bench.shapes import graph_of, word
from tests.pure.cost_samples import MADE_FROM, WHOLE, cluster, device

some = st.floats(0.0, 1e6)
layers = st.lists(st.tuples(*[some] * 5), min_size=1, max_size=6)
NOWHERE = Groups()
LINK = Link(kind="pcie", bytes_per_s=1e9, latency_s=0.0)
FIELDS = ("kept_bytes", "parameters_bytes", "working_bytes", "gradient_bytes", "loss_bytes")


def by_hand(chain, first, end, way, share):
    """The fullest moment of a backward from the last layer of a run to its first: later, and in the first of a step."""
    later, early, there, lying = 0.0, 0.0, 0.0, sum(chain.kept_bytes[first:end])
    for layer in reversed(range(first, end)):
        weight, passing = chain.gradient_bytes[layer], chain.working_bytes[layer]
        loss = chain.loss_bytes[layer]
        later = max(later, lying + max(passing + way.later * weight, way.later_after * weight, loss))
        early = max(early, lying + there + loss)
        there += share * chain.parameters_bytes[layer]
        early = max(early, lying + there + max(passing + way.first * weight, way.first_after * weight))
        lying -= chain.kept_bytes[layer]
    return later, early


@settings(max_examples=60)
@given(layers, st.sampled_from([Sharding(), Sharding(stage=1, degree=2), Sharding(stage=3, degree=4)]))
def test_walks_are_those_of_every_layer(rows, sharding):
    columns = dict(zip(FIELDS, np.array(rows).T, strict=True))
    chain = SimpleNamespace(**columns, shared_bytes=np.zeros(len(rows)))
    way, share = on_way(sharding), 0.25 if sharding.stage == 3 else 1.0
    for first in range(len(rows)):
        for end in range(first + 1, len(rows) + 1):
            found = Walks(chain).of(np.array([first]), np.array([end]), way, share)
            wanted = by_hand(chain, first, end, way, share)
            assert (float(found.later[0]), float(found.first[0])) == pytest.approx(wanted, abs=1e-3)


def test_what_two_layers_share_lies_there_once():
    chain = SimpleNamespace(**{name: np.zeros(3) for name in FIELDS[1:]}, kept_bytes=np.full(3, 10.0))
    chain.shared_bytes = np.array([0.0, 4.0, 4.0])
    found = Walks(chain).of(np.array([0, 1]), np.array([3, 3]), OnWay(), 1.0)
    assert found.later.tolist() == [22.0, 16.0]


def held(micro_batches, sharding=WHOLE, groups=NOWHERE, recomputes=False):
    one = np.ones(1)
    walk = Walk(later=7.0 * one, first=5.0 * one)
    more = {"sharding": sharding, "groups": groups, "recomputes": recomputes, "micro_batches": micro_batches}
    return {each.name: each for each in moments(3.0 * one, walk, 2.0 * one, one, **more)}


def test_no_backward_finds_all_gradients_and_all_micro_batches():
    assert LAST not in held(1)
    assert held(4)[LAST].most == 3


def test_replicas_that_recompute_keep_no_buckets():
    replicas = Groups(outer=Levels((Level(name="network", members=2, link=LINK),)))
    kept, fused = (held(4, groups=replicas, recomputes=recomputes) for recomputes in (False, True))
    assert kept[LAST].gradients == 2 * fused[LAST].gradients
    assert kept[STEP].gradients == 2 * fused[STEP].gradients


def test_buffers_of_stage_2_last_so_that_it_does():
    found = held(1, Sharding(stage=2, degree=2))
    assert found[LAST].most == np.inf


def measured(data=1, tensor=1, cuts=(0, 11), micro_batches=1, sharding=WHOLE, recompute="none"):
    stages = uniform_stages(
        boundaries=cuts, data=data, tensor=tensor, sharding=sharding, micro_batch_rows=1, recompute=recompute
    )
    return Plan(
        stages=stages,
        micro_batches=micro_batches,
        schedule="1f1b",
        engine="fleet",
        ranks=tuple(RankPlace("n/0", place) for place in range(data * tensor * len(stages))),
        job=Job(global_batch=data * micro_batches),
        made_from=MADE_FROM,
    )


BY_THREE = Sharding(stage=3, degree=4)
MEASURED = {
    103_865_856: measured(data=2, tensor=2),
    103_743_488: measured(data=2, cuts=(0, 6, 11)),
    240_106_496: measured(data=4),
    101_928_960: measured(data=4, sharding=Sharding(stage=1, degree=4)),
    142_756_864: measured(data=4, sharding=Sharding(stage=1, degree=2)),
    62_389_248: measured(data=2, tensor=2, sharding=Sharding(stage=1, degree=2)),
    116_591_616: measured(data=4, sharding=Sharding(stage=2, degree=4)),
    55_613_440: measured(data=4, sharding=BY_THREE),
    63_798_272: measured(data=4, sharding=BY_THREE, micro_batches=2),
    57_550_848: measured(data=4, sharding=BY_THREE, micro_batches=2, recompute="full"),
}
"""What tensors held on the fullest of four emulated ranks, in bytes, and the plan."""


@pytest.mark.parametrize("found", MEASURED, ids=lambda found: MEASURED[found].split)
def test_peaks_are_those_of_emulated_devices(found):
    model = graph_of(word("ernie-3.0-small", hidden=256, heads=4, ffn=1024, seq_len=32, vocabulary=4096))
    memory = evaluate(model, cluster(1, 4, kind=device(memory_bytes=4e9)), MEASURED[found]).memory
    assert max(each.total_bytes for each in memory) == pytest.approx(found, rel=0.025)
