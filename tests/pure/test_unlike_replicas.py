"""Replicas on unlike devices and links: each computes and talks for itself, and the slower one is waited for."""

from dataclasses import replace

import pytest

from nebula.cost_model.evaluate import evaluate
from nebula.plan.layout import uniform_stages
from nebula.plan.values import Job, Plan, RankPlace
from tests.pure.cost_samples import MADE_FROM, WHOLE, chain, cluster, device

GRAPH = chain(6, hidden=256)


def nodes(name, *, flops, intra):
    """A node of two devices."""
    (group,) = cluster(1, 2, kind=device(name=name, peak_flops={"float32": flops}), intra=intra).groups
    return replace(group, name=name)


QUICK, CONNECTED = nodes("quick", flops=4e12, intra=2e8), nodes("connected", flops=1e11, intra=5e9)


def priced(engine, *groups):
    """Two replicas of a tensor group of two, the first on the first node."""
    on = replace(cluster(), groups=groups)
    names = [f"{group.name}/{node}" for group in groups for node in range(group.count)]
    plan = Plan(
        stages=uniform_stages(boundaries=(0, 6), data=2, tensor=2, sharding=WHOLE, micro_batch_rows=1),
        micro_batches=2,
        schedule="1f1b",
        engine=engine,
        ranks=tuple(RankPlace(name, place) for name in names for place in range(2)),
        job=Job(global_batch=4),
        made_from=MADE_FROM,
    )
    parts = evaluate(GRAPH, on, plan).parts
    return parts.compute_s + parts.tensor_communication_s


@pytest.mark.parametrize("engine", ["fleet", "executor"])
def test_slow_links_of_one_replica_do_not_meet_slow_devices_of_another(engine):
    both = priced(engine, QUICK, CONNECTED)
    alone = [priced(engine, replace(group, count=2)) for group in (QUICK, CONNECTED)]
    assert both == pytest.approx(max(alone))
