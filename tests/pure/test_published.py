"""The deals of layers that the papers' case is predicted for, and that the planner's own is never slower."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.bench.published import (
    AWARE,
    BATCHES,
    EVEN,
    GRAPH,
    HELD,
    RUN,
    Deal,
    apart,
    by_number,
    planned_tokens_per_s,
    tokens_per_s,
)

LAYERS = len(GRAPH.layer_names)


@given(st.data())
def test_layers_by_number_differ_by_one_at_most_and_the_last_hold_more(data):
    layers = data.draw(st.integers(1, 200))
    stages = data.draw(st.integers(1, layers))
    bounds = by_number(layers, stages)
    held = [end - first for first, end in pairwise(bounds)]
    assert [sum(held), len(held), bounds[0], bounds[-1]] == [layers, stages, 0, layers]
    assert held == sorted(held)
    assert held[-1] - held[0] <= 1


def test_the_deals_take_the_devices_that_the_papers_used():
    assert [len(apart(GRAPH, 1)) - 1, len(apart(GRAPH, 12)) - 1] == [EVEN, AWARE]
    for boundaries, devices in ((by_number(LAYERS, EVEN), 1568), (apart(GRAPH, 1), 1568), (apart(GRAPH, 12), 1920)):
        deal = Deal(name="", boundaries=boundaries)
        assert deal.devices == devices
        assert boundaries[-1] == LAYERS
        universal = [GRAPH.layer_names[i].startswith("universal") for i in range(LAYERS)]
        widest = max(sum(universal[a:b]) for a, b in pairwise(boundaries))
        assert widest == (2 if deal.boundaries == by_number(LAYERS, EVEN) else 1)


def test_the_plan_is_as_fast_as_the_deals_by_hand_on_as_many_devices():
    batch = BATCHES[0]
    planned = planned_tokens_per_s(RUN.cluster, batch, HELD)
    for boundaries in (by_number(LAYERS, AWARE), apart(GRAPH, 12)):
        assert 0 < tokens_per_s(Deal(name="", boundaries=boundaries), RUN.cluster, batch) <= planned
