"""As many nodes as each still adds its share, asked once and again and again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.elastic.policy.size import Sizes, advise

RATES = {1: 100.0, 2: 190.0, 3: 260.0, 4: 280.0}


def test_the_largest_size_that_is_worth_its_nodes():
    advice = advise(RATES, now=1, measured=0.0, least_efficiency=0.8)
    assert advice.nodes == 3
    assert advice.because == "3 nodes instead of 1 do +160%, each worth 87% of a node of the best smaller job"
    assert [round(size.efficiency, 2) for size in advice.sizes] == [1.0, 0.95, 0.87, 0.7]


def test_too_many_are_given_back():
    advice = advise(RATES, now=4, measured=0.0, least_efficiency=0.8)
    assert advice.nodes == 3
    assert "of 4 each is worth 70%, below the 80% asked for; throughput changes by -7%" in advice.because


def test_what_is_measured_scales_what_is_predicted_and_changes_no_choice():
    advice = advise(RATES, now=2, measured=95.0, least_efficiency=0.8)
    assert [size.tokens_per_s for size in advice.sizes] == [50.0, 95.0, 130.0, 140.0]
    assert advice.nodes == 3


def test_a_change_has_to_be_worth_its_restart():
    assert advise({1: 100.0, 2: 101.0}, now=1, measured=0.0, least_efficiency=0.5).nodes == 1


def test_sizes_without_a_plan_are_not_taken():
    assert advise({1: 0.0, 2: 0.0}, now=2, measured=0.0, least_efficiency=0.5).because.startswith("2 nodes stay: no")
    advice = advise({1: 0.0, 2: 100.0}, now=1, measured=0.0, least_efficiency=0.9)
    assert (advice.nodes, advice.because) == (2, "2 nodes instead of 1, for which no plan fits")


@given(st.dictionaries(st.integers(1, 64), st.floats(0, 1e6), min_size=1), st.floats(0.1, 1.0), st.integers(1, 64))
def test_what_is_advised_is_one_of_the_sizes_or_what_there_is(predicted, efficiency, now):
    advice = advise(predicted, now=now, measured=0.0, least_efficiency=efficiency)
    assert advice.nodes in {*predicted, now}
    assert advice.because


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_higher_demand_never_advises_more_nodes(share):
    lax = advise(RATES, now=1, measured=0.0, least_efficiency=share)
    strict = advise(RATES, now=1, measured=0.0, least_efficiency=min(1.0, share + 0.1))
    assert strict.nodes <= lax.nodes


def test_a_size_that_does_less_than_predicted_is_left_and_not_taken_again():
    """Two nodes were to do 190, and do 110: each is worth 55 % of one."""
    job = Sizes(predicted=RATES, least_efficiency=0.7)
    assert job.look(generation=1, now=1, most=1, measured=100.0) is None  # it has just begun
    assert job.look(generation=1, now=1, most=1, measured=100.0).nodes == 4
    assert job.look(generation=2, now=2, most=4, measured=110.0) is None  # no more nodes are there
    advice = job.look(generation=2, now=2, most=4, measured=110.0)
    assert (advice.nodes, [size.tokens_per_s for size in advice.sizes][:2]) == (1, [100.0, 110.0])
    assert job.look(generation=2, now=2, most=1, measured=110.0) is None  # it is about to shrink
    assert job.look(generation=3, now=1, most=1, measured=100.0) is None
    assert job.look(generation=3, now=1, most=1, measured=100.0).nodes == 1


def test_nothing_is_said_of_a_job_that_does_not_train():
    job = Sizes(predicted=RATES, least_efficiency=0.7)
    for generation, measured in ((0, 0.0), (0, 0.0), (1, 100.0), (0, 100.0), (1, 0.0), (1, 0.0), (2, 100.0)):
        assert job.look(generation=generation, now=1, most=1, measured=measured) is None


rates = st.fixed_dictionaries({nodes: st.floats(1.0, 1e6) for nodes in range(1, 6)})


@given(predicted=rates, does=rates, efficiency=st.floats(0.1, 1.0), now=st.integers(1, 5))
def test_a_job_comes_to_rest_whatever_its_sizes_do(predicted, does, efficiency, now):
    job, visited = Sizes(predicted=predicted, least_efficiency=efficiency), [now]
    for generation in range(1, 20):
        job.look(generation=generation, now=now, most=now, measured=does[now])
        advice = job.look(generation=generation, now=now, most=now, measured=does[now])
        visited.append(now := advice.nodes)
    assert len(set(visited[10:])) == 1
