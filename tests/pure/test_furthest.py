"""How many stages it takes at least, against trying every deal with the bound of each of its stages."""

from itertools import combinations_with_replacement, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nebula.planner.furthest import Ahead, Ceiling, fewest_stages, least
from nebula.planner.stages import stage_bound

some = st.floats(0.01, 1.0)
chains = st.lists(st.tuples(*[some] * 5), min_size=1, max_size=5)


def ahead(layers, slow=1.0):
    """Of layers, each with its forward, backward, tail, held and kept; passes take `slow` times as long."""
    rows = np.array(layers).T * np.array([slow, slow, 1.0, 1.0, 1.0])[:, None]
    return Ahead.of(np.concatenate([np.zeros((5, 1)), np.cumsum(rows, axis=1)], axis=1) + 3.0)


def every_deal(layers, stages):
    """All ways to deal layers to stages, some of which may go without."""
    for inner in combinations_with_replacement(range(layers + 1), stages - 1):
        yield (0, *inner, layers)


def stage_costs(bounds, layers, slow, micro_batches):
    """For each stage of a deal that has layers the bound of the step and the bytes; `slow` by stages behind."""
    columns = np.array(layers)
    stages = len(bounds) - 1
    for stage, (first, end) in enumerate(pairwise(bounds)):
        behind = stages - 1 - stage
        if first == end:
            continue
        forward_s, backward_s, tail_s, held, kept = columns[first:end].sum(axis=0)
        before_s, behind_s = columns[:first, :2].sum(), columns[end:, :2].sum()
        passes_s = np.array([forward_s, backward_s]) * slow[behind]
        bound_s = stage_bound(*passes_s, before_s, behind_s, micro_batches, behind)
        hidden_s = columns[:first, 1].sum()
        yield bound_s + max(0.0, tail_s - hidden_s), held + min(behind + 1, micro_batches) * kept


@given(chains, st.integers(1, 9), st.data())
def test_so_many_stages_are_the_fewest_of_any_deal_below_the_ceiling(layers, micro_batches, data):
    slow = data.draw(st.lists(st.sampled_from([1.0, 1.3]), min_size=len(layers), max_size=len(layers)))
    every = {
        count: [list(stage_costs(bounds, layers, slow, micro_batches)) for bounds in every_deal(len(layers), count)]
        for count in range(1, len(layers) + 1)
    }
    # between what deals come to, where rounding does not matter
    worst_s, fullest = (
        sorted({float(max(stage[k] for stage in deal)) for deals in every.values() for deal in deals}) for k in (0, 1)
    )
    step_s, held = (data.draw(st.sampled_from(each)) * 1.001 for each in (worst_s, fullest))
    wanted = [
        count
        for count, deals in every.items()
        if any(all(cost[0] <= step_s and cost[1] <= held for cost in deal) for deal in deals)
    ]
    kinds = [ahead(layers, each) for each in slow]
    found = fewest_stages(kinds, ahead(layers), Ceiling(micro_batches, step_s, held))
    assert found == min(wanted, default=len(layers) + 1)


@given(st.lists(chains, min_size=1, max_size=3))
def test_the_least_of_several_is_that_of_each_layer(every):
    count = min(map(len, every))
    every = [chain[:count] for chain in every]
    wanted = ahead(np.min(every, axis=0).tolist())
    for column, own in zip(least([ahead(chain) for chain in every]), wanted, strict=True):
        np.testing.assert_allclose(column, own)
