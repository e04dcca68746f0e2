"""Chains that other processes cut ahead: the same chains, the same answers, and no process left."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from nebula.cost_model.chain import Chains
from nebula.errors import BadInput, Infeasible
from nebula.plan.job import RECOMPUTE, Objective
from nebula.plan.plain import encode
from nebula.plan.values import Job
from nebula.planner.cuts import Cut, Cuts
from nebula.planner.pool import equal_devices
from nebula.planner.price import Prices
from nebula.planner.search import INTERRUPTION, search
from tests.pure.cost_samples import chain, cluster, device
from tests.pure.test_exploring import children

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")

GRAPH, JOB = chain(6, wide=(2,)), Job(global_batch=16, precision="fp32")
ODD = chain(4, hidden=12, width=1)
"""Of which four ranks can cut 12, and eight cannot."""


def plain(answer):
    """All of an answer but the time that it took."""
    return encode(replace(answer, seconds=0.0))


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize(
    ("graph", "where", "objective"),
    [
        (GRAPH, cluster(4, 4), Objective()),
        (GRAPH, cluster(2, 8, kind=device(memory_bytes=1.2e8)), Objective(fixed={"recompute": "full"})),
        (ODD, cluster(2, 8), Objective()),
    ],
)
def test_any_number_of_processes_comes_to_the_same_answer(graph, where, objective, processes):
    before, told = children(), []
    alone = search(graph, where, JOB, objective, processes=1)
    together = search(graph, where, JOB, objective, on_progress=told.append, processes=processes)
    assert plain(together) == plain(alone)
    assert told
    assert children() == before


def test_chains_are_those_that_are_cut_here():
    where = cluster(4, 4)
    prices = Prices(GRAPH, where, JOB, equal_devices(where, "float32"))
    wanted = [Cut(tensor, rows) for tensor in (1, 2, 4) for rows in (1, 2, 8)]
    cuts = prices.cut_ahead(wanted, 2)
    for cut in reversed(wanted):
        cuts.bring(cut)
    cuts.close()
    found = prices.pricing.chains
    assert not found.cut
    assert len(found.known) >= len(wanted) * len(RECOMPUTE)
    own = Chains(GRAPH)
    for key, cost in found.known.items():
        assert cost.__dict__.keys() >= {"forward_s", "kept_bytes"}
        again = own.cost(**{**key._asdict(), "device": where.groups[0].device})
        assert all((getattr(cost, name) == getattr(again, name)).all() for name in type(cost).__dataclass_fields__)


def test_a_degree_that_cuts_nothing_is_refused_where_it_is_asked_for():
    where = cluster(2, 8)
    prices = Prices(ODD, where, JOB, equal_devices(where, "float32"))
    cuts: Cuts = prices.cut_ahead([Cut(8, 1), Cut(4, 1)], 2)
    with pytest.raises(BadInput):
        cuts.bring(Cut(8, 1))
    cuts.bring(Cut(4, 1))
    cuts.close()
    assert {key.tensor for key in prices.pricing.chains.known} == {4}


def test_what_ends_a_search_ends_its_processes():
    def stop(progress):
        raise KeyboardInterrupt

    before = children()
    assert search(GRAPH, cluster(4, 4), JOB, on_progress=stop, processes=2).ended_by == INTERRUPTION
    with pytest.raises(Infeasible):
        search(GRAPH, cluster(1, 2, kind=device(memory_bytes=1e6)), JOB, processes=2)
    assert children() == before
