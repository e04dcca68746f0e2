"""Dealing layers to stages: the least worst cost against trying all deals, and bounds below every simulated step."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula.cost_model.closed_form import last_backward_s
from nebula.planner.deals import Cost, carried, deal, every_deal, every_run, moved
from nebula.planner.stages import geometric_bound, stage_bound

seconds = st.floats(0.01, 10.0)
pairs_of_seconds = st.lists(st.tuples(seconds, seconds), min_size=2, max_size=7)


def spans(values, runs):
    prefix = np.concatenate([[0.0], np.cumsum(values)])
    return prefix[runs.end] - prefix[runs.first]


@given(pairs_of_seconds, st.integers(1, 12), st.data())
def test_no_deal_of_1f1b_beats_the_bound_of_any_of_its_stages(layers, micro_batches, data):
    forward, backward = np.array(layers).T
    stages = data.draw(st.integers(1, len(layers)))
    bounds = data.draw(st.sampled_from(list(every_deal(len(layers), stages))))
    f = np.array([forward[a:b].sum() for a, b in pairwise(bounds)])
    b = np.array([backward[a:e].sum() for a, e in pairwise(bounds)])
    step_s = last_backward_s(f, b, micro_batches).max()
    work = f + b
    for stage in range(stages):
        before, behind = work[:stage].sum(), work[stage + 1 :].sum()
        bound = stage_bound(f[stage], b[stage], np.array(before), np.array(behind), micro_batches, stages - 1 - stage)
        assert bound <= step_s * (1 + 1e-9)
    assert geometric_bound(work.sum(), micro_batches, stages) <= step_s * (1 + 1e-9)


@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 3), (2, 4), (4, 8), (4, 2), (5, 3)])
def test_the_bound_is_the_step_itself_for_equal_stages_of_enough_micro_batches(stages, micro_batches):
    forward, backward = np.ones(stages), 2 * np.ones(stages)
    bounds = [
        stage_bound(
            np.array(1.0),
            np.array(2.0),
            np.array(3.0 * s),
            np.array(3.0 * (stages - 1 - s)),
            micro_batches,
            stages - 1 - s,
        )
        for s in range(stages)
    ]
    assert max(bounds) == pytest.approx(last_backward_s(forward, backward, micro_batches).max())


@given(st.lists(seconds, min_size=1, max_size=7), st.integers(0, 6), st.floats(0.5, 20))
def test_the_deal_is_the_best_of_all(values, fewer, room):
    """Costs grow with the stages behind, as memory does; runs above `room` are not allowed."""
    layers = len(values)
    stages = max(1, layers - fewer)
    runs = every_run(layers)
    sums = spans(values, runs)
    own = dict(zip(zip(runs.first.tolist(), runs.end.tolist(), strict=True), sums, strict=True))

    def cost(behind, which, _):
        bound = sums[which] * (1 + 0.1 * behind)
        return Cost(np.where(bound <= room, bound, np.inf), np.zeros_like(bound))

    table = deal(runs, cost, stages)

    def worst(bounds):
        ends = list(pairwise(bounds))
        each = [own[a, b] * (1 + 0.1 * (len(ends) - 1 - s)) for s, (a, b) in enumerate(ends)]
        return max(c if c <= room else np.inf for c in each)

    for count in range(1, stages + 1):
        best = min(worst(bounds) for bounds in every_deal(layers, count))
        assert table.value(count) == pytest.approx(best)
        if np.isfinite(best):
            assert worst(table.boundaries(count, 1e-9)) <= best * (1 + 1e-6)


@given(st.lists(seconds, min_size=2, max_size=8), st.floats(0.2, 1.0), st.integers(0, 30), st.data())
def test_deals_below_a_limit_are_all_there_or_told_to_be_too_many(values, share, most, data):
    layers, limit = len(values), share * sum(values)
    stages = data.draw(st.integers(1, layers))
    runs = every_run(layers)
    sums = spans(values, runs)
    own = dict(zip(zip(runs.first.tolist(), runs.end.tolist(), strict=True), sums.tolist(), strict=True))
    to_beat = data.draw(st.sampled_from([np.inf, limit]))
    table = deal(runs, lambda behind, some, _: Cost(sums[some], 0.0 * sums[some]), stages, to_beat)
    wanted = [d for d in every_deal(layers, stages) if all(own[run] < limit for run in pairwise(d))]
    found = table.below(stages, limit, most)
    if len(wanted) > most:
        assert found is None
    else:
        assert sorted(found) == wanted


@given(st.lists(seconds, min_size=2, max_size=9), st.data())
def test_what_is_to_beat_and_how_many_stages_are_wanted_change_no_deal_of_use(values, data):
    layers = len(values)
    stages = data.draw(st.integers(1, layers))
    fewest = data.draw(st.integers(1, stages))
    to_beat = data.draw(st.floats(0.5, 1.5)) * sum(values)
    runs = every_run(layers)
    own, _ = runs.where(spans(values, runs) < to_beat)

    def deals(runs, *more):
        sums = spans(values, runs)
        return deal(
            runs, lambda behind, some, _: Cost(sums[some] * (1 + 0.1 * behind), 0.0 * sums[some]), stages, *more
        )

    whole, part = deals(runs), deals(own, to_beat, fewest)
    for count in range(fewest, stages + 1):
        if whole.value(count) < to_beat:
            assert part.value(count) == whole.value(count)
            assert part.boundaries(count, 3e-3) == whole.boundaries(count, 3e-3)
        else:
            assert part.value(count) >= to_beat


@settings(max_examples=40)
@given(st.lists(st.tuples(seconds, seconds), min_size=3, max_size=6), st.floats(0.01, 1.0))
def test_the_time_at_borders_behind_a_stage_is_the_least_of_any_deal(layers, border):
    """With a border of equal cost everywhere, `behind` stages have that many entries and exits."""
    count = len(layers)
    runs = every_run(count)
    told = {}

    def cost(behind, which, waits_s):
        told[behind] = (which, waits_s)
        ends = (runs.first[which] > 0).astype(float) + (runs.end[which] < count)
        return Cost(np.ones(len(ends)), border * ends)

    deal(runs, cost, count)
    for behind, (which, waits_s) in told.items():
        possible = (count - runs.end[which] >= behind) & (behind > 0)
        # each border behind counts at both its ends, the one in front of the stages behind at one
        assert waits_s[possible] == pytest.approx(border * (2 * behind - 1))


def test_every_deal_is_there_once_and_moves_stay_legal():
    deals = list(every_deal(5, 3))
    assert len(deals) == len(set(deals)) == 6
    across, carried_over = ({tuple(each) for each in way((0, 2, 3, 6)).tolist()} for way in (moved, carried))
    assert across == {(0, 1, 3, 6), (0, 2, 4, 6)}
    assert carried_over == across | {(0, 1, 2, 6), (0, 3, 4, 6)}
